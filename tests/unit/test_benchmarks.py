"""Benchmarks run; what they measure is not looked at here."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, environment
from preloaded import python

LIBRARIES = {"peers", "published_loop"}
BENCHMARKS = [p.stem for p in (ROOT / "benchmarks").glob("*.py") if p.stem not in LIBRARIES]


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_a_benchmark_runs_in_its_smoke_mode(
    name: str, tmp_path: Path, face_networks: Path, real_clips: Path
) -> None:
    done = subprocess.run(
        [python(), str(ROOT / f"benchmarks/{name}.py"), "--smoke"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    if name != "coverage":
        assert all(
            isinstance(v, int | float) for v in json.loads(done.stdout.splitlines()[-1]).values()
        )
    assert not list(tmp_path.iterdir())
