"""What a video's container says: which stream is shown, and the times of its packets."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

# Containers of video and sound. A playlist (concat, hls) would read other files than the one that
# was named and hashed.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,h264,hevc,asf,flv,ogg,mxf,"
    "dv,ivf,wav,mp3,aac,flac"
)
INDEXED = ("mov", "avi")  # formats whose index of samples lists every frame
RESTART_SECONDS = 0.5  # a step back in decoding time from which time starts again
FIELD_PACKETS = 1.5  # packets for each frame of the stated rate, from which they hold fields
FIELDS = ("pts", "dts", "duration", "size", "key", "shown")  # of a packet
MISSING = np.iinfo(np.int64).min  # in place of a time
EMPTY = 16  # bytes of a packet without a picture ("not coded") in AVI
NOT_SHOWN = Disposition.attached_pic | Disposition.timed_thumbnails


def open_container(path: Path) -> av.container.InputContainer:
    """Open a video without reading any other file.

    Raises:
        av.error.FFmpegError, OSError: it is not a video or audio file, or cannot be read.
    """
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    return av.open(str(path), metadata_errors="replace", options=options)


def shown_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The video stream that players show: the default one, else the first; never cover art."""
    streams = moving_streams(container)
    by_default = [stream for stream in streams if stream.disposition & Disposition.default]
    return next(iter([*by_default, *streams]), None)


def moving_streams(container: av.container.InputContainer) -> list[av.VideoStream]:
    """The video streams without attached pictures."""
    return [stream for stream in container.streams.video if not stream.disposition & NOT_SHOWN]


def stated_frames(path: Path) -> int:
    """Frames of a video as its container states them, without decoding; 0 if it cannot be read.

    By the index of samples where the format has one, else by its packets: counts and durations in
    headers are often wrong (120,000 frames for 50 of DV).
    """
    try:
        with open_container(path) as container:
            stream = shown_stream(container)
            if stream is None:
                return 0
            if indexed := indexed_frames(container, stream):
                return indexed
            return int(_packets(container, stream)["shown"].sum())
    except (av.error.FFmpegError, OSError):
        return 0


def indexed_frames(container: av.container.InputContainer, stream: av.VideoStream) -> int:
    """Frames by the file's index of samples, less what an edit list cuts; 0 without one."""
    if not container.format.name.startswith(INDEXED):
        return 0
    return sum(not entry.is_discard for entry in stream.index_entries)


@dataclass(frozen=True)
class Timeline:
    """The presentation order of a stream's packets.

    Attributes:
        number: (packets,) for each packet in file order, the number of its frame, counted from 1;
            0 for a packet that shows nothing (cut by an edit list, or an invisible frame of VP8).
            None where packets do not tell frames: where the container gives no presentation
            times, or not for all packets, or two packets for the two fields of one frame.
        times: (frames,) seconds by frame number, ascending; empty where the container gives none.
        restarts: how often the timestamps start again, as in joined transport streams. The time
            then continues where it was.
    """

    number: np.ndarray | None
    times: np.ndarray
    restarts: int = 0


UNKNOWN = Timeline(None, np.zeros(0))


def timeline(path: Path) -> Timeline:
    """The timeline of a video's packets; nothing is decoded.

    Raises:
        av.error.FFmpegError, OSError: the file cannot be opened.
    """
    with open_container(path) as container:
        stream = shown_stream(container)
        if stream is None:
            return UNKNOWN
        packets = _packets(container, stream)
        base = float(stream.time_base or 1)
        rate = float(stream.average_rate or 0)
        is_avi = container.format.name == "avi"
        reordered = stream.codec_context.has_b_frames
    is_shown = packets["shown"].astype(bool)
    pts, dts, length, size, key = (packets[name][is_shown] for name in FIELDS[:5])
    if not len(pts):
        return UNKNOWN
    if is_avi and reordered and _is_guessed(pts, dts, size):
        # AVI counts its frames, in the order in which they are decoded.
        return Timeline(None, np.sort(np.where(dts == MISSING, 0, dts)) * base)
    if (pts == MISSING).any():
        return UNKNOWN
    restarts = _restarts(np.where(dts == MISSING, pts, dts), key, base)
    part = np.concatenate([[0], np.cumsum(restarts)])
    order = np.lexsort((np.arange(len(pts)), pts, part))
    for k in range(1, int(part[-1]) + 1):
        before, own = np.flatnonzero(part == k - 1), part == k
        last = before[pts[before].argmax()]
        step = length[last] or (round(1 / rate / base) if rate else 0)
        pts[own] += pts[last] + step - pts[own].min()
    times = pts[order] * base
    if rate and len(times) > FIELD_PACKETS * ((times[-1] - times[0]) * rate + 1):
        return UNKNOWN
    number = np.zeros(len(is_shown), np.int64)
    number[np.flatnonzero(is_shown)[order]] = np.arange(1, len(pts) + 1)
    return Timeline(number, times, int(part[-1]))


def _is_guessed(pts: np.ndarray, dts: np.ndarray, size: np.ndarray) -> bool:
    """Whether the presentation times of an AVI are only FFmpeg's guess.

    It derives them from the kinds of MPEG-4's frames. It cannot for H.264, where the difference to
    the decoding time is constant, and not where a packet holds two frames and the next one none.
    """
    known = (pts != MISSING) & (dts != MISSING)
    return len(np.unique((pts - dts)[known])) <= 1 or bool((size < EMPTY).any())


def _restarts(decoded: np.ndarray, key: np.ndarray, base: float) -> np.ndarray:
    """(packets - 1,) whether time starts again: decoding time steps back, far or to a key frame."""
    back = -np.diff(decoded) * base
    found: np.ndarray = (back > RESTART_SECONDS) | ((back > 0) & (key[1:] > 0))
    return found


def _packets(
    container: av.container.InputContainer, stream: av.VideoStream
) -> dict[str, np.ndarray]:
    """``FIELDS`` (packets,) int64 of all packets with data, in file order."""
    codec = stream.codec_context.name
    columns = {name: array("q") for name in FIELDS}
    for packet in demuxed(container, stream):
        shown = not (packet.is_discard or _is_invisible(codec, packet))
        values = (
            MISSING if packet.pts is None else packet.pts,
            MISSING if packet.dts is None else packet.dts,
            packet.duration or 0,
            packet.size,
            packet.is_keyframe,
            shown,
        )
        for name, value in zip(FIELDS, values, strict=True):
            columns[name].append(value)
    return {name: np.array(column, np.int64) for name, column in columns.items()}


def demuxed(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The packets of a stream with data, up to the end or to where the container is damaged."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError):
            return
        if packet.size:
            yield packet


def _is_invisible(codec: str, packet: av.Packet) -> bool:
    """Whether a packet of VP8 holds a frame that is only a reference (RFC 6386, section 9.1)."""
    return codec in ("vp8", "libvpx") and not memoryview(packet)[0] & 0x10
