"""Prediction that is killed goes on where it was, and leaves nobody behind."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from conftest import ASSETS, result_files
from forked import forked
from predicting import answered, repeat

from clipaffect.core.errors import UserError
from clipaffect.faces import videos
from clipaffect.faces.video_checkpoint import State, VideoCheckpoint


def started(*words: object, folder: Path) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "clipaffect",
        "predict",
        *map(str, words),
        "--assets",
        str(ASSETS),
    ]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_until(true: Callable[[], object], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_killed_prediction_goes_on_within_its_video(
    micro_bundle: Path, real_clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(videos, "EVERY", 60)  # frames of a part
    long = tmp_path / "long.mp4"
    repeat(real_clips / "laughing.mp4", long, 190)
    whole = tmp_path / "whole"
    answered(micro_bundle, whole, long)
    add, made = VideoCheckpoint.add, tmp_path / "made"
    made.mkdir()

    def halting(parts: VideoCheckpoint, rows: pa.Table, state: State) -> None:
        """The second part is stored; before the third the process stops, until it is killed."""
        if len(parts) == 2:
            print("two parts", flush=True)
            time.sleep(600)
        add(parts, rows, state)

    def counting(parts: VideoCheckpoint, rows: pa.Table, state: State) -> None:
        (made / str(len(parts))).touch()
        add(parts, rows, state)

    monkeypatch.setattr(VideoCheckpoint, "add", halting)
    with forked(answered, micro_bundle, tmp_path / "out", long) as killed:
        assert "two parts\n" in iter(killed.stdout.readline, "")
    monkeypatch.setattr(VideoCheckpoint, "add", counting)
    answered(micro_bundle, tmp_path / "out", long)
    assert [path.name for path in made.iterdir()] == ["2"], "what was stored is not made again"
    assert result_files(tmp_path / "out") == result_files(whole)


def test_a_killed_call_leaves_nobody_behind(
    micro_bundle: Path, real_clips: Path, tmp_path: Path
) -> None:
    """Its worker processes end with it, and the folder is free for the next call."""
    for name in ("a", "b"):
        repeat(real_clips / "laughing.mp4", tmp_path / f"in/{name}.mp4", 1010)
    words = (tmp_path / "in", "--model", micro_bundle, "--out", tmp_path / "out", "--jobs", 2)
    with started(*words, folder=tmp_path) as process:
        wait_until(lambda: list(tmp_path.glob("out/.work/*/store/detections/*/*.part")))
        with pytest.raises(UserError, match="another process is writing to this folder"):
            answered(micro_bundle, tmp_path / "out", tmp_path / "in/a.mp4")
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    assert len(family) >= 2
    _, left = psutil.wait_procs(family, 300)
    assert not left
