"""Detect, track and crop the faces of a video, in parts that survive a killed job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from clipaffect.config.faces import Faces
from clipaffect.core.frame_status import FrameStatus
from clipaffect.core.prefetch import map_in_order, prefetch
from clipaffect.core.progress import Progress
from clipaffect.core.video import Frame
from clipaffect.dataset.extract_frames import Sampler, manifest_frames
from clipaffect.faces.detector import Candidate
from clipaffect.faces.face_rows import DETECTIONS, face_row
from clipaffect.faces.finder import FaceFinder, FaceFollower
from clipaffect.faces.landmarks import Face
from clipaffect.faces.video_checkpoint import EVERY, State, VideoCheckpoint, restore, state_of


@dataclass(frozen=True)
class _Looked:
    """A frame that is being processed.

    Attributes:
        frame: without its pixels.
        wanted: whether it is looked at; then its ``pixels``, if it could be decoded.
        seen: the detector's candidates, if it is the detector's turn.
        found: track and face of everybody.
        state: of the follower behind it, at a part's end.
    """

    frame: Frame
    wanted: bool
    pixels: np.ndarray | None
    seen: list[Candidate] | None
    found: list[tuple[int, Face]]
    state: State | None = None


def _rows_of(looked: _Looked, settings: Faces) -> list[dict[str, Any]]:
    frame, found = looked.frame, looked.found
    empty = {"frame": frame.number, "time": frame.time, "track": -1, "faces_in_frame": 0}
    if not looked.wanted:
        return [empty | {"status": str(FrameStatus.NOT_SAMPLED)}]
    if looked.pixels is None:
        return [empty | {"status": str(frame.outcome)}]
    if not found:
        return [empty | {"status": str(FrameStatus.NO_FACE)}]
    return [
        empty
        | {"track": number, "faces_in_frame": len(found)}
        | face_row(looked.pixels, face, settings)
        for number, face in found
    ]


def detect_video(
    video: dict[str, Any],
    finder: Callable[[], FaceFinder],
    settings: Faces,
    progress: Progress,
    parts: VideoCheckpoint,
    threads: int = 1,
) -> Iterator[pa.Table]:
    """Detections of a video in frame order, the finished ``parts`` first.

    With several threads, one decodes and detects ahead, and another makes the crops afterwards.
    """
    detection = _Detection(video, finder, settings, progress, parts)
    yield from parts.tables()
    rows: list[dict[str, Any]] = []
    with prefetch(detection.decoded(), threads) as stream, map_in_order(threads - 1) as cut:
        followed = detection.followed(stream)
        for own, state in cut(lambda looked: (_rows_of(looked, settings), looked.state), followed):
            rows += own
            progress.advance()
            if state is not None:
                table = pa.Table.from_pylist(rows, DETECTIONS)
                parts.add(table, state)
                yield table
                rows = []
    yield pa.Table.from_pylist(rows, DETECTIONS)


class _Detection:
    """The detection of one video, resumed after its finished parts."""

    def __init__(
        self,
        video: dict[str, Any],
        finder: Callable[[], FaceFinder],
        settings: Faces,
        progress: Progress,
        parts: VideoCheckpoint,
    ) -> None:
        self.video, self.settings, self.progress = video, settings, progress
        self.finder, self.parts = finder, parts

    @cached_property
    def follower(self) -> FaceFollower:
        """As it was at the end of the last part."""
        follower = FaceFollower(self.finder())
        state = self.parts.state()
        if state is not None:
            restore(follower, state)
        return follower

    def decoded(self) -> Iterator[_Looked]:
        """The frames after the finished parts, those that are due with what the detector saw."""
        wanted, before = Sampler(self.settings), len(self.parts) * EVERY
        count: int | None = None
        for frame in manifest_frames(self.video):
            is_wanted = wanted(frame)
            if 0 < frame.number <= before:
                self.progress.advance()
                continue
            # Made here, on one thread and before anybody else asks for it.
            looking = self.follower if frame.number else None
            pixels, seen = frame.pixels if is_wanted else None, None
            if looking is not None and pixels is not None:
                count = looking.count if count is None else count + 1
                seen = looking.finder.seen(pixels) if looking.is_due(count) else None
            yield _Looked(replace(frame, decoded=None), is_wanted, pixels, seen, [])

    def followed(self, stream: Iterator[_Looked]) -> Iterator[_Looked]:
        """The frames with the faces that were found in each; the state where a part ends."""
        for looked in stream:
            found = [] if looked.pixels is None else self.follower(looked.pixels, looked.seen)
            ends = looked.frame.number > 0 and looked.frame.number % EVERY == 0
            yield replace(looked, found=found, state=state_of(self.follower) if ends else None)
