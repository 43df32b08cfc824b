"""Prediction that is killed goes on where it was, and leaves nobody behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import ASSETS, result_files
from predicting import answered, repeat

from clipaffect.errors import UserError


def started(*words: object, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "clipaffect", "predict", *map(str, words),
               "--assets", str(ASSETS)]  # fmt: skip
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip


def wait_until(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_killed_prediction_goes_on_within_its_video(
    micro_bundle: Path, real_clips: Path, tmp_path: Path
) -> None:
    long = tmp_path / "long.mp4"
    repeat(real_clips / "laughing.mp4", long, 1010)
    words = (long, "--model", micro_bundle, "--out", tmp_path / "out")
    with started(*words, folder=tmp_path) as process:
        wait_until(lambda: list(tmp_path.glob("out/.work/*/store/detections/*/*.part/*.npz")))
        os.killpg(process.pid, signal.SIGKILL)
    (part,) = tmp_path.glob("out/.work/*/store/detections/*/*.part/part-000000.parquet")
    before = part.stat().st_mtime_ns
    with started(*words, folder=tmp_path) as process:
        # The first part is read, not made again, while the second is being made.
        wait_until(lambda: list(tmp_path.glob("out/.work/*/store/detections/*/*.part/*01.npz")))
        assert part.stat().st_mtime_ns == before
        assert process.wait(120) == 0
    answered(micro_bundle, tmp_path / "whole", long)
    assert result_files(tmp_path / "out") == result_files(tmp_path / "whole")


def test_a_killed_call_leaves_nobody_behind(
    micro_bundle: Path, real_clips: Path, tmp_path: Path
) -> None:
    """Its worker processes end with it, and the folder is free for the next call."""
    for name in ("a", "b"):
        repeat(real_clips / "laughing.mp4", tmp_path / f"in/{name}.mp4", 1010)
    words = (tmp_path / "in", "--model", micro_bundle, "--out", tmp_path / "out", "--jobs", 2)
    with started(*words, folder=tmp_path) as process:
        wait_until(lambda: list(tmp_path.glob("out/.work/*/store/detections/*/*.part")))
        with pytest.raises(UserError, match="another call is writing there"):
            answered(micro_bundle, tmp_path / "out", tmp_path / "in/a.mp4")
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    assert len(family) >= 2
    _, left = psutil.wait_procs(family, 15)
    assert not left
