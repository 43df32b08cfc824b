"""What a video's container says: which stream is shown, and the times of its packets."""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.stream import Disposition

# Containers of video and sound. A playlist (concat, hls) would read other files than the one that
# was named and hashed.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,h264,hevc,asf,flv,ogg,mxf,"
    "dv,ivf,obu,mjpeg,gif,nut,wav,mp3,aac,flac"
)
INDEXED = ("mov", "avi")  # formats whose index of samples lists every frame
# Formats that leave the shape of a pixel to the coded stream, which may change it.
UNSHAPED = ("mpegts", "mpeg", "mpegvideo", "h264", "hevc", "dv")
LARGEST_PACKET = 1 << 26  # bytes; an index that states more is damaged
RESTART_SECONDS = 0.5  # a step back in decoding time from which time starts again
FIELD_PACKETS = 1.5  # packets for each frame of the stated rate, from which they hold fields
FIELDS = ("pts", "dts", "duration", "key", "shown")  # of a packet
PROGRESSIVE = 1  # FFmpeg's field order of frames that are not interlaced; 0 is unknown
PROBED = 32  # frames that tell whether times are in the order of presentation
MISSING = np.iinfo(np.int64).min  # in place of a time
VP8_KEY = b"\x9d\x01\x2a"  # behind the tag of a key frame
NOT_SHOWN = Disposition.attached_pic | Disposition.timed_thumbnails


def open_container(path: Path) -> av.container.InputContainer:
    """Open a video without reading any other file.

    Raises:
        av.error.FFmpegError, OSError: it is not a video or audio file, or cannot be read.
    """
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    return av.open(str(path), metadata_errors="replace", options=options)


class _Padded:
    """A file that was cut off, with zeros in place of what is lost, for FFmpeg to read.

    Then the index of an MP4 gives every packet with its times, the lost ones too.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.file, self.size, self.at = path.open("rb"), size, 0

    def read(self, count: int) -> bytes:
        """The next bytes."""
        count = min(count, self.size - self.at)
        self.file.seek(self.at)
        data = self.file.read(count)
        self.at += count
        return data + bytes(count - len(data))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, as a file does."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        self.at = start + offset
        return self.at

    def tell(self) -> int:
        """Where the next byte is read."""
        return self.at

    def close(self) -> None:
        """Close the file."""
        self.file.close()


@contextlib.contextmanager
def _open_whole(
    path: Path,
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream | None]]:
    """A video and its shown stream; an MP4 that was cut off is read as if it were whole."""
    with open_container(path) as container:
        stream = shown_stream(container)
        if stream is None or not container.format.name.startswith(INDEXED[0]):
            yield container, stream
            return
        entries = [(entry.pos + entry.size, entry.size) for entry in stream.index_entries]
        end = max((end for end, _ in entries), default=0)
        largest = max((size for _, size in entries), default=0)
        if end <= path.stat().st_size or largest > LARGEST_PACKET:
            yield container, stream
            return
        index = stream.index
    with contextlib.closing(_Padded(path, end)) as file:
        opened = av.open(file, metadata_errors="replace", options={"format_whitelist": FORMATS})
        with cast(av.container.InputContainer, opened) as container:
            yield container, cast(av.VideoStream, container.streams[index])


def shown_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The video stream that players show: the default one, else the first; never cover art.

    One without packets counts only if no other has any.
    """
    streams = moving_streams(container)
    streams.sort(key=lambda stream: not stream.disposition & Disposition.default)
    if len(streams) > 1:
        filled = _with_packets(Path(container.name), [stream.index for stream in streams])
        streams.sort(key=lambda stream: stream.index not in filled)
    return streams[0] if streams else None


def _with_packets(path: Path, indexes: list[int]) -> set[int]:
    """The streams among ``indexes`` with packets, looked for until the first of them has one."""
    found: set[int] = set()
    with open_container(path) as container, contextlib.suppress(av.error.FFmpegError):
        for packet in container.demux([container.streams[index] for index in indexes]):
            if packet.size:
                found.add(packet.stream.index)
            if indexes[0] in found:
                break
    return found


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
    with _open_whole(path) as (container, stream):
        if stream is None:
            return UNKNOWN
        packets = _packets(container, stream)
        base = float(stream.time_base or 1)
        rate = float(stream.average_rate or 0)
        is_avi = container.format.name == "avi"
        reordered = bool(stream.codec_context.has_b_frames)
        in_fields = int(stream.codec_context.field_order) > PROGRESSIVE
    is_shown = packets["shown"].astype(bool)
    pts, dts, length, key = (packets[name][is_shown] for name in FIELDS[:4])
    if not len(pts):
        return UNKNOWN
    if is_avi and not reordered:
        pts = dts  # AVI numbers its packets; anything else is FFmpeg's guess
    if reordered and _is_out_of_order(path):
        # The container has the order of decoding only: AVI, and what was copied out of one.
        known = dts if (pts == MISSING).any() else pts
        return Timeline(None, np.sort(known[known != MISSING]) * base)
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
    if in_fields and rate and len(times) > FIELD_PACKETS * ((times[-1] - times[0]) * rate + 1):
        return UNKNOWN
    number = np.zeros(len(is_shown), np.int64)
    number[np.flatnonzero(is_shown)[order]] = np.arange(1, len(pts) + 1)
    return Timeline(number, times, int(part[-1]))


def _is_out_of_order(path: Path) -> bool:
    """Whether the first frames come out of the decoder against their presentation times.

    A decoder gives frames in the order in which they are shown. If the times say otherwise, they
    are those of decoding, or FFmpeg's guess.
    """
    times: list[int] = []
    with open_container(path) as container:
        stream = shown_stream(container)
        for packet in demuxed(container, stream) if stream is not None else ():
            with contextlib.suppress(av.error.FFmpegError):
                times += [frame.pts for frame in packet.decode() if frame.pts is not None]
            if len(times) >= PROBED:
                break
    return int((np.diff(times) < 0).sum()) > 1


def _restarts(decoded: np.ndarray, key: np.ndarray, base: float) -> np.ndarray:
    """(packets - 1,) whether time starts again behind a packet.

    Decoding time steps back there: far, or to a key frame in the first half of the part so far.
    """
    back = -np.diff(decoded) * base
    found = back > RESTART_SECONDS
    start = 0
    for k in np.flatnonzero(back > 0).tolist():
        first, last, now = decoded[start], decoded[k], decoded[k + 1]
        found[k] |= bool(key[k + 1]) and now <= (first + last) / 2
        start = k + 1 if found[k] else start
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
    if codec not in ("vp8", "libvpx") or packet.size < len(VP8_KEY) + 3:
        return False
    data = memoryview(packet)
    tag = int.from_bytes(data[:3], "little")
    is_inter, shown, first_part = tag & 1, tag >> 4 & 1, tag >> 5
    is_plausible = 0 < first_part <= packet.size - 3 and (is_inter or data[3:6] == VP8_KEY)
    return bool(is_plausible) and not shown
