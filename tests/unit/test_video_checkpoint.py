"""Faces that are followed on from a saved state are those that would have been found anyway."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import ASSETS, ROOT

from clipaffect.config.faces import Faces
from clipaffect.core.hashing import file_digest
from clipaffect.core.progress import Progress
from clipaffect.core.video import read_frames
from clipaffect.faces import videos
from clipaffect.faces.face_rows import DETECTIONS
from clipaffect.faces.finder import FaceFinder, FaceFollower
from clipaffect.faces.video_checkpoint import VideoCheckpoint, restore, state_of
from clipaffect.faces.videos import detect_video

TWO = ROOT / "tests/data/clips/videos/37-15-640x360.mp4"


@pytest.fixture(scope="module")
def finder(face_networks: Path) -> FaceFinder:
    return FaceFinder(face_networks, Faces())


def seen(follower: FaceFollower, frames: list[np.ndarray]) -> list:
    return [
        (number, face.box.tolist(), face.points.tolist(), face.score, face.pose.tolist())
        for frame in frames
        for number, face in follower(frame)
    ]


def test_a_state_holds_everything_the_next_frame_depends_on(
    finder: FaceFinder, tmp_path: Path
) -> None:
    frames = [frame.pixels for frame in read_frames(TWO)][:40]
    whole = FaceFollower(finder)
    seen(whole, frames[:23])
    parts = VideoCheckpoint(tmp_path)
    assert parts.state() is None
    parts.add(pa.Table.from_pylist([], DETECTIONS), state_of(whole))
    resumed = FaceFollower(finder)
    restore(resumed, parts.state())
    assert len(resumed.tracker.tracks) == 2
    assert seen(resumed, frames[23:]) == seen(whole, frames[23:])


@pytest.mark.parametrize("settings", [{}, {"stride": 3}, {"rate": 4.0}])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_video_in_parts_has_the_rows_of_one_in_one_go(
    face_networks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict,
    threads: int,
) -> None:
    """Broken off behind every part, and gone on with: 105 frames in parts of 35."""
    monkeypatch.setattr(videos, "EVERY", 35)
    faces = Faces.model_validate(settings)
    video = {"path": str(TWO), "sha256": file_digest(TWO), "frame_limit": 0}

    def rows(folder: Path, tables: int | None = None) -> pd.DataFrame:
        folder.mkdir(exist_ok=True)
        with Progress("frames", 105) as progress:
            found = detect_video(
                video,
                lambda: FaceFinder(ASSETS, faces),
                faces,
                progress,
                VideoCheckpoint(folder),
                threads,
            )
            taken = []
            for table in found:
                taken.append(table.to_pandas())
                if len(taken) == tables:
                    break
            found.close()
            if tables is None:
                assert progress.done == 105
        return pd.concat(taken, ignore_index=True)

    whole = rows(tmp_path / "whole")
    assert whole["frame"].nunique() == 105
    broken = tmp_path / "broken"
    for tables in (1, 2):
        rows(broken, tables)
        assert len(VideoCheckpoint(broken)) >= tables
    pd.testing.assert_frame_equal(rows(broken), whole)
    VideoCheckpoint(broken).clear()
    assert not any(broken.iterdir())
