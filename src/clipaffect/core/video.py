"""Decode a video frame by frame, with presentation times and an outcome for each frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from clipaffect.core.frame_status import FrameStatus


@dataclass(frozen=True)
class Frame:
    """One frame of a video.

    Attributes:
        number: counted from 1, as Aff-Wild2's images are. 0 stands for the whole file when it
            cannot be read at all.
        time: presentation time in seconds, NaN where unknown.
        width, height: pixels, 0 where unknown.
        outcome: ``OK``, ``FRAME_UNREADABLE`` or the file's outcome.
        decoded: as the decoder gives it; None where there is nothing.
    """

    number: int
    time: float
    width: int
    height: int
    outcome: FrameStatus
    decoded: av.VideoFrame | None = None

    @property
    def pixels(self) -> np.ndarray | None:
        """(height, width, 3) uint8 RGB, upright; converted when asked for."""
        return None if self.decoded is None else _upright(self.decoded)


# Containers of video and sound. A playlist (concat, hls) would read other files than the one that
# was named and hashed.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,h264,hevc,asf,flv,ogg,"
    "wav,mp3,aac,flac"
)


def stated_frames(path: Path) -> int:
    """Frames of a video as its container states them, without decoding; 0 if it cannot be read.

    By the index of samples, less what an edit list cuts; else the container's count, or its
    duration times its rate.
    """
    try:
        with _open(path) as container:
            if not container.streams.video:
                return 0
            stream = container.streams.video[0]
            seconds = (container.duration or 0) / av.time_base
            return (
                _indexed(stream)
                or stream.frames
                or round(seconds * float(stream.average_rate or 0))
            )
    except (av.error.FFmpegError, OSError):
        return 0


def _indexed(stream: av.VideoStream) -> int:
    """Frames by the file's index of samples, 0 without one.

    The container's own count also holds frames that an edit list cuts off.
    """
    return sum(not entry.is_discard for entry in stream.index_entries)


def _open(path: Path) -> av.container.InputContainer:
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    return av.open(str(path), metadata_errors="replace", options=options)


def _whole_file(outcome: FrameStatus) -> Frame:
    return Frame(0, float("nan"), 0, 0, outcome)


def read_frames(path: Path | None) -> Iterator[Frame]:
    """Yield every frame in presentation order.

    Memory is bounded by the decoder's few reference frames. An unreadable file yields a single
    frame with number 0. After a decoder error, decoding continues with the remaining packets;
    frames in the file's index that could not be decoded are unreadable rows.
    """
    if path is None or not path.exists():
        yield _whole_file(FrameStatus.VIDEO_MISSING)
        return
    if path.stat().st_size == 0:
        yield _whole_file(FrameStatus.VIDEO_EMPTY)
        return
    try:
        container = _open(path)
    except (av.error.FFmpegError, OSError):
        yield _whole_file(FrameStatus.VIDEO_UNREADABLE)
        return
    with container:
        if not container.streams.video:
            yield _whole_file(FrameStatus.NO_VIDEO_STREAM)
            return
        stream = container.streams.video[0]
        stream.thread_count = 1  # one job is one thread: other cores run other jobs
        number = 0
        for decoded in _decode(container, stream):
            number += 1
            if decoded is None:
                yield Frame(number, float("nan"), 0, 0, FrameStatus.FRAME_UNREADABLE)
                continue
            width, height = decoded.width, decoded.height
            if _quarter_turns(decoded) % 2:
                width, height = height, width
            time = float(decoded.time) if decoded.time is not None else float("nan")
            yield Frame(number, time, width, height, FrameStatus.OK, decoded)
        if number == 0:
            yield _whole_file(FrameStatus.VIDEO_UNREADABLE)


def _quarter_turns(frame: av.VideoFrame) -> int:
    """The rotation of a video: phones store portrait video sideways, with a rotation flag."""
    return round(frame.rotation / 90)


def _upright(frame: av.VideoFrame) -> np.ndarray:
    pixels: np.ndarray = frame.to_ndarray(format="rgb24")
    turns = _quarter_turns(frame)
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _decode(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.VideoFrame | None]:
    """Frames in order; None for those that the decoder rejected or that the file lacks.

    Missing frames are found from the file's index of samples, if it has one.
    """
    expected = _indexed(stream)
    yielded = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError):
            break  # the end, or the container itself is damaged from here on
        shown: list[av.VideoFrame | None]
        try:
            shown = list(packet.decode())
        except av.error.EOFError:
            break
        except av.error.FFmpegError:
            shown = [None]
        yielded += len(shown)
        yield from shown
    for _ in range(expected - yielded):
        yield None


def presentation_times(path: Path) -> np.ndarray:
    """Times (frames,) in seconds of a video's frames, ascending, from its packets alone.

    Nothing is decoded. Empty where the file cannot be read.
    """
    times: list[int] = []
    try:
        with _open(path) as container:
            if not container.streams.video:
                return np.zeros(0)
            stream = container.streams.video[0]
            base = float(stream.time_base or 1)
            for packet in container.demux(stream):
                if packet.pts is not None and not packet.is_discard:
                    times.append(packet.pts)
    except (av.error.FFmpegError, OSError):
        if not times:
            return np.zeros(0)
    return np.sort(np.array(times, np.float64)) * base
