"""Decode a video frame by frame, with presentation times and an outcome for each frame.

A frame's number is the rank of its packet's presentation time among all packets of the stream. A
packet that the decoder cannot use, or drops without an error, therefore keeps its number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from clipaffect.core.container import (
    UNSHAPED,
    Timeline,
    demuxed,
    indexed_frames,
    moving_streams,
    open_container,
    shown_stream,
    timeline,
)
from clipaffect.core.display import DEINTERLACE, HDR, Display, FilterChain, display_matrix
from clipaffect.core.frame_status import FrameStatus


@dataclass(frozen=True)
class Frame:
    """One frame of a video.

    Attributes:
        number: counted from 1, as Aff-Wild2's images are. 0 stands for the whole file when it
            cannot be read at all.
        time: presentation time in seconds, NaN where the container does not tell it.
        width, height: pixels as shown, 0 where unknown.
        outcome: ``OK``, ``FRAME_UNREADABLE`` or the file's outcome.
        decoded: as the decoder gives it; None where there is nothing.
        display: how the stream's frames are shown.
        matrix: the display matrix that applies to this one.
    """

    number: int
    time: float
    width: int
    height: int
    outcome: FrameStatus
    decoded: av.VideoFrame | None = None
    display: Display | None = None
    matrix: np.ndarray | None = None

    @property
    def pixels(self) -> np.ndarray | None:
        """(height, width, 3) uint8 RGB, as players show it; converted when asked for."""
        if self.decoded is None or self.display is None:
            return None
        return self.display.pixels(self.decoded, self.matrix)


@dataclass(frozen=True)
class _Numbered:
    """A frame's number and time, and its picture if there is one."""

    number: int
    time: float
    picture: av.VideoFrame | None


def _whole_file(outcome: FrameStatus) -> Frame:
    return Frame(0, float("nan"), 0, 0, outcome)


def read_frames(path: Path | None) -> Iterator[Frame]:
    """Yield every frame in presentation order.

    Memory is bounded by the decoder's few reference frames and two numbers for each frame. An
    unreadable file yields a single frame with number 0. After a decoder error, decoding continues
    with the remaining packets; frames that could not be decoded are unreadable rows.
    """
    if path is None or not path.exists():
        yield _whole_file(FrameStatus.VIDEO_MISSING)
        return
    if path.stat().st_size == 0:
        yield _whole_file(FrameStatus.VIDEO_EMPTY)
        return
    try:
        order, container = timeline(path), open_container(path)
    except (av.error.FFmpegError, OSError):
        yield _whole_file(FrameStatus.VIDEO_UNREADABLE)
        return
    with container:
        stream = shown_stream(container)
        if stream is None:
            yield _whole_file(FrameStatus.NO_VIDEO_STREAM)
            return
        stream.codec_context.thread_count = 1  # one job is one thread: other cores run other jobs
        display = Display(stream.sample_aspect_ratio)
        is_shaped = container.format.name not in UNSHAPED
        total = indexed_frames(container, stream)
        in_order = _by_output if order.number is None else _by_time
        numbered = in_order(container, stream, order)
        number, matrix, turn, is_known = 0, None, 0, False
        for frame in _deinterlaced(numbered):
            number, picture = frame.number, frame.picture
            if picture is None:
                yield Frame(number, frame.time, 0, 0, FrameStatus.FRAME_UNREADABLE)
                continue
            # In H.264, only the frame from which a new orientation applies may state it.
            if not is_known or picture.rotation not in (0, turn):
                matrix, turn, is_known = display_matrix(picture), picture.rotation, True
            shape = display.stated if is_shaped else stream.codec_context.sample_aspect_ratio
            # The decoder knows a new shape before the key frame from which it applies comes out.
            if shape != display.stated and picture.key_frame:
                display = Display(shape)
            size = display.size(picture, matrix)
            yield Frame(number, frame.time, *size, FrameStatus.OK, picture, display, matrix)
        for missing in range(number + 1, total + 1):
            yield Frame(missing, float("nan"), 0, 0, FrameStatus.FRAME_UNREADABLE)
        if number == 0:
            yield _whole_file(FrameStatus.VIDEO_UNREADABLE)


def _decoded(packet: av.Packet) -> list[av.VideoFrame] | None:
    """The frames that come out when a packet goes in; None if the decoder rejects it."""
    try:
        return [frame for frame in packet.decode() if isinstance(frame, av.VideoFrame)]
    except av.error.EOFError:
        return []
    except av.error.FFmpegError:
        return None


def _remaining(stream: av.VideoStream) -> list[av.VideoFrame]:
    """The frames that the decoder still holds at the end."""
    try:
        return list(stream.codec_context.decode(None))
    except av.error.FFmpegError:
        return []


def _by_time(
    container: av.container.InputContainer, stream: av.VideoStream, order: Timeline
) -> Iterator[_Numbered]:
    """Frames by the rank of their packets; a number whose packet gave no frame has no picture."""
    expected = 1

    def up_to(frames: list[av.VideoFrame]) -> Iterator[_Numbered]:
        nonlocal expected
        for frame in frames:
            number = frame.pts
            if number is None or number < expected:
                continue  # made up by the decoder, in place of one that it lacks
            for lost in range(expected, number):
                yield _Numbered(lost, float(order.times[lost - 1]), None)
            yield _Numbered(number, float(order.times[number - 1]), frame)
            expected = number + 1

    numbers = [] if order.number is None else order.number.tolist()
    for number, packet in zip(numbers, demuxed(container, stream), strict=False):
        # The decoder hands a packet's time on to its frame, so a number in its place arrives too.
        packet.pts, packet.dts = number or None, None
        yield from up_to(_decoded(packet) or [])
    yield from up_to(_remaining(stream))
    for lost in range(expected, len(order.times) + 1):
        yield _Numbered(lost, float(order.times[lost - 1]), None)


def _by_output(
    container: av.container.InputContainer, stream: av.VideoStream, order: Timeline
) -> Iterator[_Numbered]:
    """Frames in the order in which the decoder gives them; a rejected packet has no picture."""

    def pictures() -> Iterator[av.VideoFrame | None]:
        for packet in demuxed(container, stream):
            decoded = _decoded(packet)
            yield from [None] if decoded is None else decoded
        yield from _remaining(stream)

    def time(number: int, picture: av.VideoFrame | None) -> float:
        if number <= len(order.times):
            return float(order.times[number - 1])
        if picture is None or picture.pts is None:
            return float("nan")
        return float(picture.pts * (stream.time_base or 1))  # the last ones know no time base

    for number, picture in enumerate(pictures(), 1):
        yield _Numbered(number, time(number, picture), picture)


def _deinterlaced(frames: Iterator[_Numbered]) -> Iterator[_Numbered]:
    """The same frames; from the first interlaced one on, they pass the deinterlacer."""
    chain: FilterChain | None = None
    inside: deque[_Numbered] = deque()

    def out(pictures: Iterator[av.VideoFrame]) -> Iterator[_Numbered]:
        for picture in pictures:
            while inside[0].picture is None:
                yield inside.popleft()
            entered = inside.popleft()
            yield _Numbered(entered.number, entered.time, picture)

    for frame in frames:
        if chain is None:
            if frame.picture is None or not frame.picture.interlaced_frame:
                yield frame
                continue
            chain = FilterChain(DEINTERLACE)
        inside.append(frame)
        if frame.picture is not None:
            yield from out(chain.push(frame.picture))
    if chain is not None:
        yield from out(chain.rest())
    yield from inside


def remarks(path: Path) -> list[str]:
    """What a user should know about how a video was read, in words; empty for an ordinary one."""
    try:
        with open_container(path) as container:
            stream = shown_stream(container)
            if stream is None:
                return []
            streams = moving_streams(container)
            position = streams.index(stream) + 1
            transfer = HDR.get(int(stream.codec_context.color_trc or 0))
            aspect = stream.sample_aspect_ratio
        order = timeline(path)
    except (av.error.FFmpegError, OSError):
        return []
    found = []
    if len(streams) > 1:
        found.append(f"the file has {len(streams)} video streams; stream {position} was read")
    if transfer:
        found.append(f"HDR ({transfer}) was converted to SDR")
    if aspect not in (None, 0, 1):
        found.append(f"pixels with aspect ratio {aspect} were scaled to square pixels")
    if order.number is None:
        found.append("frames are numbered in the order of the decoder's output, not by their times")
    elif order.restarts:
        found.append(f"timestamp restarts: {order.restarts}; times were made continuous")
    return found


def presentation_times(path: Path) -> np.ndarray:
    """Times (frames,) in seconds of a video's frames, ascending, from its packets alone.

    Nothing is decoded. Empty where the file cannot be read or does not tell them.
    """
    try:
        return timeline(path).times
    except (av.error.FFmpegError, OSError):
        return np.zeros(0)
