"""Checkpoints of a video's detections: a killed job resumes after the last finished part.

A part holds the rows of ``EVERY`` frames and the state of the face follower after them.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa

from clipaffect.core.files import Damaged, reading, whole_file
from clipaffect.core.parquet import read_arrow, write_batches
from clipaffect.faces.face_rows import DETECTIONS
from clipaffect.faces.finder import FaceFollower
from clipaffect.faces.landmarks import Face, Region
from clipaffect.faces.tracks import Appearance, Track

logger = logging.getLogger(__name__)

EVERY = 500  # frames of a part
State = dict[str, np.ndarray]


def state_of(follower: FaceFollower) -> State:
    """Everything the faces of the next frame depend on besides its pixels."""
    tracks = follower.tracker.tracks
    counts = np.array([follower.count, follower.tracker.frame, len(tracks)])
    cuts = follower.cuts
    state = {"counts": counts, "usual_change": np.array(cuts.usual)}
    if cuts.last is not None:
        state |= {"last": cuts.last, "shape": np.array(cuts.shape)}
    if not tracks:
        return state
    faces = [track.face for track in tracks]
    return state | {
        "seen": np.array([track.seen for track in tracks]),
        "look": np.stack([track.look for track in tracks]),
        "last_look": np.stack([track.last_look for track in tracks]),
        "remembered": np.array([len(track.memory) for track in tracks]),
        "looks": np.stack([own.look for track in tracks for own in track.memory]),
        "portraits": np.stack([own.portrait for track in tracks for own in track.memory]),
        "velocity": np.stack([track.velocity for track in tracks]),
        "box": np.stack([face.box for face in faces]),
        "points": np.stack([face.points for face in faces]),
        "pose": np.stack([face.pose for face in faces]),
        "centre": np.stack([face.region.centre for face in faces]),
        "numbers": np.array(
            [[face.score, face.visible, face.region.side, face.region.angle] for face in faces]
        ),
    }


def restore(follower: FaceFollower, state: State) -> None:
    """Resume from a ``state_of``."""
    follower.count, follower.tracker.frame, tracks = map(int, state["counts"])
    follower.tracker.tracks = []
    follower.cuts.usual = float(state["usual_change"])
    if "last" in state:
        height, width = map(int, state["shape"])
        follower.cuts.last, follower.cuts.shape = state["last"], (height, width)
    memory = iter(zip(state["looks"], state["portraits"], strict=True)) if tracks else iter(())
    for k in range(tracks):
        score, visible, side, angle = map(float, state["numbers"][k])
        face = Face(
            state["box"][k],
            score,
            state["points"][k],
            state["pose"][k],
            visible,
            Region(state["centre"][k], side, angle),
        )
        own = [Appearance(*next(memory)) for _ in range(state["remembered"][k])]
        seen, velocity = int(state["seen"][k]), state["velocity"][k]
        look, last_look = state["look"][k], state["last_look"][k]
        track = Track(face, look, last_look, own, seen, velocity)
        follower.tracker.tracks.append(track)


class VideoCheckpoint:
    """The finished parts of a video's detections, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts = 0
        while self._is_whole(self._parts):
            self._parts += 1

    def _is_whole(self, part: int) -> bool:
        """Whether a part can be read: its state is written last, and a power cut may tear both."""
        if not self._state(part).is_file():
            return False
        try:
            read_arrow(self._rows(part))
            with reading(self._state(part)), np.load(self._state(part)) as saved:
                dict(saved)
        except (Damaged, FileNotFoundError, BadZipFile, RuntimeError, zlib.error) as error:
            logger.warning("the checkpoint ends before part %d: %s", part, error)
            return False
        return True

    def _rows(self, part: int) -> Path:
        return self.folder / f"part-{part:06d}.parquet"

    def _state(self, part: int) -> Path:
        return self.folder / f"part-{part:06d}.npz"

    def __len__(self) -> int:
        """The number of finished parts from the first."""
        return self._parts

    def state(self) -> State | None:
        """The state after the last part, or None."""
        if not len(self):
            return None
        with np.load(self._state(len(self) - 1), allow_pickle=False) as saved:
            return dict(saved)

    def add(self, rows: pa.Table, state: State) -> None:
        """Add a part."""
        part = len(self)
        write_batches(self._rows(part), DETECTIONS, [rows])
        with whole_file(self._state(part)) as beside, beside.open("wb") as file:
            np.savez(file, **state)  # type: ignore[arg-type] # names are mine
        self._parts += 1

    def tables(self) -> Iterator[pa.Table]:
        """The rows of all parts."""
        for part in range(len(self)):
            yield read_arrow(self._rows(part))

    def clear(self) -> None:
        """Remove the parts once their rows are stored elsewhere."""
        for path in self.folder.glob("part-*"):
            path.unlink()
        self._parts = 0
