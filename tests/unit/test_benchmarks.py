"""Benchmarks run; what they measure is not looked at here."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from conftest import ROOT


def test_the_training_benchmarks_full_job_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmark = importlib.import_module("training")
    for name, rows in (("AU_TRAIN", 2500), ("AU_VALIDATION", 500), ("ROWS", 1000)):
        monkeypatch.setattr(benchmark, name, rows)
    benchmark.write_au_table(tmp_path / "au")
    found = benchmark.full_size(tmp_path)
    assert found["rss_gb"] > 0
    assert 0 < found["epoch"] < found["seconds"]
