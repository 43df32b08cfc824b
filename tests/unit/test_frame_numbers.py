"""A frame keeps its number: damaged packets, joined recordings, several streams."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from av.stream import Disposition

from clipaffect.core.container import stated_frames, timeline
from clipaffect.core.frame_status import FrameStatus
from clipaffect.core.video import presentation_times, read_frames, remarks
from clipaffect.dataset.files import CropFolders
from clipaffect.dataset.lost_frames import LostFrames, lost_frames
from clipaffect.dataset.tree import Annotation, Tree

COUNT, BITS = 40, 6
QUIET = {"x265-params": "keyint=12:log-level=none"}


def numbered(count: int = COUNT) -> list[np.ndarray]:
    """Pictures that show their number, counted from 0, as six black or white blocks."""
    pictures = []
    for number in range(count):
        picture = np.full((96, 192, 3), 90, np.uint8)
        picture[40:80, 4 * number : 4 * number + 24] = (200, 120, 40)
        for bit in range(BITS):
            picture[:32, bit * 32 : (bit + 1) * 32] = 255 if number >> bit & 1 else 0
        pictures.append(picture)
    return pictures


def number_in(pixels: np.ndarray) -> int:
    return sum(int(pixels[16, bit * 32 + 16, 1] > 128) << bit for bit in range(BITS))


def write(path: Path, codec: str, times: list[int] | None = None, **options: str) -> Path:
    """Encode numbered pictures; ``times`` are in units of 1/25 s."""
    with av.open(str(path), "w") as container:
        named = {name.replace("_", "-"): value for name, value in options.items()}
        stream = container.add_stream(codec, rate=25, options=named)
        stream.width, stream.height, stream.pix_fmt = 192, 96, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        times = times or list(range(COUNT))
        for picture, time in zip(numbered(len(times)), times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def damage(path: Path, packet: int) -> Path:
    """Overwrite one packet with zeros."""
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    start, size = places[packet]
    data = bytearray(path.read_bytes())
    header = 8 if path.suffix == ".webm" else 0  # of the block, where the position points
    data[start + header : start + size] = bytes(size - header)
    path.write_bytes(data)
    return path


CODECS = {
    "hevc.mp4": ("libx265", QUIET, 26),
    "av1.mp4": ("libsvtav1", {"g": "12", "preset": "10", "svtav1-params": "lp=1"}, 26),
    "mpeg4.avi": ("mpeg4", {"g": "12", "bf": "2"}, 31),
    "h264.mp4": ("libx264", {"g": "12", "bf": "3"}, 26),
    "vp9.webm": ("libvpx-vp9", {"g": "12", "deadline": "realtime"}, 26),
}


@pytest.mark.parametrize("name", CODECS)
def test_a_damaged_packet_moves_no_other_frame(tmp_path: Path, name: str) -> None:
    codec, options, packet = CODECS[name]
    path = damage(write(tmp_path / name, codec, **options), packet)
    frames = list(read_frames(path))
    assert [frame.number for frame in frames] == list(range(1, COUNT + 1))
    np.testing.assert_allclose(np.diff([frame.time for frame in frames]), 1 / 25, atol=1e-3)
    lost = {frame.number for frame in frames if frame.outcome is FrameStatus.FRAME_UNREADABLE}
    assert lost
    # Until the next key frame, at 36, pictures may show what is left of earlier ones.
    whole = [frame for frame in frames if frame.number < min(lost) or frame.number > 36]
    assert [number_in(frame.pixels) for frame in whole] == [frame.number - 1 for frame in whole]


def test_times_that_start_again_are_continued(tmp_path: Path) -> None:
    part = write(tmp_path / "part.ts", "mpeg2video", list(range(20)), b="4000000").read_bytes()
    path = tmp_path / "joined.ts"
    path.write_bytes(part * 3)
    frames = list(read_frames(path))
    assert [number_in(frame.pixels) for frame in frames] == list(range(20)) * 3
    np.testing.assert_allclose(np.diff([frame.time for frame in frames]), 1 / 25, atol=1e-3)
    assert remarks(path) == ["timestamp restarts: 2; times were made continuous"]
    np.testing.assert_allclose(presentation_times(path), [frame.time for frame in frames])


def test_a_gap_in_time_makes_no_row(tmp_path: Path) -> None:
    times = [*range(10), *range(60, 70)]
    path = write(tmp_path / "v.mkv", "libx264", times, bf="2")
    frames = list(read_frames(path))
    assert [number_in(frame.pixels) for frame in frames] == list(range(20))
    shown = np.array([frame.time for frame in frames])
    np.testing.assert_allclose(shown - shown[0], np.array(times) / 25, atol=1e-3)
    assert stated_frames(path) == 20


def test_a_frame_that_is_only_a_reference_is_no_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "v.webm", "libvpx", deadline="realtime")
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][10]
        start = path.read_bytes().index(bytes(packet))
    data = bytearray(path.read_bytes())
    data[start] &= ~0x10  # show_frame (RFC 6386, section 9.1), as encoders write such frames
    path.write_bytes(data)
    frames = list(read_frames(path))
    assert {frame.outcome for frame in frames} == {FrameStatus.OK}
    assert [number_in(frame.pixels) for frame in frames] == [k for k in range(COUNT) if k != 10]


def test_a_damaged_frame_is_not_taken_for_a_reference(tmp_path: Path) -> None:
    path = damage(write(tmp_path / "v.webm", "libvpx", deadline="realtime"), 20)
    frames = list(read_frames(path))
    assert [frame.number for frame in frames] == list(range(1, COUNT + 1))


@pytest.mark.parametrize("name", ["v.h264", "v.avi"])
def test_a_file_without_presentation_times_says_so(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, "libx264", bf="3")
    assert timeline(path).number is None
    frames = list(read_frames(path))
    assert [number_in(frame.pixels) for frame in frames] == list(range(COUNT))
    times = np.array([frame.time for frame in frames])
    if name == "v.avi":  # it states how long each frame is
        np.testing.assert_allclose(np.diff(times), 1 / 25)
    else:
        assert np.isnan(times).all()
    assert "the order of the decoder's output" in remarks(path)[0]


def test_times_of_decoding_do_not_count_as_those_of_presentation(tmp_path: Path) -> None:
    avi, copied = write(tmp_path / "v.avi", "libx264", bf="3"), tmp_path / "v.mp4"
    with av.open(str(avi)) as source, av.open(str(copied), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for k, packet in enumerate(p for p in source.demux(video=0) if p.size):
            packet.pts = packet.dts = k  # as a remuxer makes them up
            packet.stream = stream
            target.mux(packet)
    frames = list(read_frames(copied))
    assert [number_in(frame.pixels) for frame in frames] == list(range(COUNT))
    np.testing.assert_allclose(np.diff([frame.time for frame in frames]), 1 / 25, atol=1e-3)


def test_a_rate_that_changes_is_no_sign_of_fields(tmp_path: Path) -> None:
    times = [*range(0, 40, 4), *range(40, 60)]
    path = write(tmp_path / "v.mkv", "libx264", times, bf="2")
    frames = list(read_frames(path))
    np.testing.assert_allclose([frame.time for frame in frames], np.array(times) / 25, atol=1e-3)
    assert remarks(path) == []


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
def test_a_file_that_was_cut_off_keeps_its_numbers(tmp_path: Path, share: float) -> None:
    whole = tmp_path / "whole.mp4"
    with av.open(str(whole), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "3", "g": "100"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        rng = np.random.default_rng(0)
        for level in range(COUNT):
            picture = np.full((96, 128, 3), 2 * level, np.uint8)
            picture[:48] = rng.integers(0, 255, (48, 128, 3))  # bytes in every packet
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    expected = [frame.time for frame in read_frames(whole)]
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    frames = list(read_frames(path))
    assert [frame.number for frame in frames] == list(range(1, COUNT + 1))
    np.testing.assert_allclose([frame.time for frame in frames], expected)
    seen = {f.number: float(f.pixels[60:].mean()) for f in frames if f.pixels is not None}
    assert 0.3 * share * COUNT < len(seen) < COUNT
    # The last packet is cut itself, and what refers to it is damaged.
    whole_ones = [number for number in seen if number <= max(seen) - 5]
    assert [seen[n] for n in whole_ones] == pytest.approx([2 * (n - 1) for n in whole_ones], abs=4)


def two_streams(path: Path, kinds: list[Disposition], grey: list[int | None]) -> Path:
    """Streams of one grey each; None leaves a stream empty."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mjpeg", rate=25) for _ in kinds]
        for stream, kind in zip(streams, kinds, strict=True):
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
            stream.disposition = kind
        for _ in range(5):
            for stream, level in zip(streams, grey, strict=True):
                if level is not None:
                    picture = np.full((48, 64, 3), level, np.uint8)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
    return path


def test_the_default_stream_is_the_one_that_is_read(tmp_path: Path) -> None:
    path = two_streams(tmp_path / "v.mkv", [Disposition(0), Disposition.default], [30, 200])
    assert {round(float(frame.pixels.mean()), -1) for frame in read_frames(path)} == {200}
    assert remarks(path) == ["the file has 2 video streams; stream 2 was read"]


def test_a_default_stream_without_packets_is_passed_over(tmp_path: Path) -> None:
    path = two_streams(tmp_path / "v.mkv", [Disposition.default, Disposition(0)], [None, 200])
    assert {round(float(frame.pixels.mean()), -1) for frame in read_frames(path)} == {200}
    assert remarks(path) == ["the file has 2 video streams; stream 2 was read"]


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    cover, video = Disposition.attached_pic, Disposition(0)
    path = two_streams(tmp_path / "v.mp4", [video, cover], [200, 30])
    assert {round(float(frame.pixels.mean()), -1) for frame in read_frames(path)} == {200}
    assert remarks(path) == []
    only = two_streams(tmp_path / "cover.mp4", [cover], [30])
    assert [frame.outcome for frame in read_frames(only)] == [FrameStatus.NO_VIDEO_STREAM]


def test_labels_that_were_counted_without_the_lost_frames_are_named(tmp_path: Path) -> None:
    codec, options, _ = CODECS["hevc.mp4"]
    whole = write(tmp_path / "whole.mp4", codec, **options)
    damaged = damage(write(tmp_path / "damaged.avi", "mpeg4", g="1"), 10)
    decoded = sum(frame.outcome is FrameStatus.OK for frame in read_frames(damaged))
    assert decoded == COUNT - 1
    videos = {"whole": whole, "damaged": damaged, "short": damaged}
    own = [Annotation(tmp_path, "EXPR", "train", video, "") for video in videos]
    tree = Tree(videos, CropFolders({}, {}), own)
    labels = [("whole", COUNT - 1), ("damaged", decoded), ("short", 10), ("not here", 3)]
    (found,) = lost_frames(tree, [pd.DataFrame(labels, columns=["video", "frame"])])
    assert found == LostFrames("damaged", COUNT, decoded, decoded)
    assert "probably counted without the lost frames" in found.note()
