"""How frames are shown: display matrix, pixel ratio, HDR, interlacing."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import write_video

from clipaffect.core.video import read_frames, remarks

# The stored point (x, y) is shown at (a x + c y, b x + d y), moved into the picture.
TURNS = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)]
TURNS += [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]


def write(path: Path, pictures: list[np.ndarray], **options: object) -> Path:
    """Write RGB pictures as H.264 with 4:4:4 colours, nearly without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "1", "bf": "0"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv444p"
        for name, value in options.items():
            setattr(stream.codec_context, name, value)
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("turn", TURNS)
def test_a_picture_is_turned_and_mirrored_as_the_matrix_says(tmp_path: Path, turn) -> None:
    a, b, c, d = turn
    stored = np.full((48, 64, 3), 40, np.uint8)
    stored[:8, :8] = 240  # its middle is the point (4, 4)
    stored[:8, 24:32] = 140
    data = bytearray(write(tmp_path / "v.mp4", [stored] * 3).read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # behind version, times and layers
    numbers = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    data[at : at + 36] = struct.pack(">9i", *numbers)
    (tmp_path / "v.mp4").write_bytes(data)
    frame = next(read_frames(tmp_path / "v.mp4"))
    corners = [(a * x + c * y, b * x + d * y) for x in (0, 64) for y in (0, 48)]
    left, top = (min(corner[k] for corner in corners) for k in (0, 1))
    for (x, y), grey in {(4, 4): 240, (28, 4): 140, (60, 44): 40}.items():
        place = (b * x + d * y - top, a * x + c * y - left)
        assert abs(int(frame.pixels[place][0]) - grey) <= 2
    assert (frame.height, frame.width) == frame.pixels.shape[:2]


def test_pixels_that_are_not_square_are_made_square(tmp_path: Path) -> None:
    wide = np.zeros((48, 96, 3), np.uint8)
    wide[12:36, 32:64] = 250
    path = write(tmp_path / "v.mp4", [wide[:, ::2].copy()] * 2, sample_aspect_ratio=Fraction(2))
    frame = next(read_frames(path))
    assert (frame.width, frame.height) == (96, 48)
    off = np.abs(frame.pixels[:, :, 1].astype(int) - wide[:, :, 1]) > 40
    assert off.mean() < 0.03  # only along the edges
    assert remarks(path) == ["pixels with aspect ratio 2 were scaled to square pixels"]


def test_the_shape_of_a_pixel_may_change_within_a_file(tmp_path: Path) -> None:
    pictures = [np.full((48, 48, 3), 100, np.uint8)] * 6
    parts = [
        write(tmp_path / f"{ratio}.ts", pictures, sample_aspect_ratio=Fraction(ratio))
        for ratio in (1, 2)
    ]
    (tmp_path / "v.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    frames = list(read_frames(tmp_path / "v.ts"))
    assert [frame.width for frame in frames] == [48] * 6 + [96] * 6
    assert [frame.pixels.shape[1] for frame in frames] == [48] * 6 + [96] * 6


def hdr(path: Path, nits: list[float]) -> Path:
    """Grey bars of given luminance in PQ (SMPTE ST 2084), 10 bit, limited range."""
    y = (np.array(nits) / 10000) ** 0.1593017578125
    signal = ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375
    luma = np.repeat((64 + 876 * signal).round().astype("<u2"), 32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "1"})
        stream.width, stream.height, stream.pix_fmt = len(luma), 64, "yuv420p10le"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = 9, 16, 9
        context.color_range = 1
        for k in range(2):
            frame = av.VideoFrame(len(luma), 64, "yuv420p10le")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            rows = [np.tile(luma, (64, 1)), *[np.full((32, len(luma) // 2), 512, "<u2")] * 2]
            for plane, values in zip(frame.planes, rows, strict=True):
                padded = np.zeros((plane.height, plane.line_size // 2), "<u2")
                padded[:, : values.shape[1]] = values
                plane.update(padded.tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_hdr_becomes_sdr_and_says_so(tmp_path: Path) -> None:
    path = hdr(tmp_path / "v.mp4", [1, 10, 100, 203, 1000])
    pixels = next(read_frames(path)).pixels
    grey = pixels[32, 16::32].astype(int)
    assert (grey.max(1) - grey.min(1)).max() <= 2  # grey stays grey
    level = grey[:, 1]
    assert (np.diff(level) > 10).all()
    assert level[0] < 30
    assert 90 < level[2] < 200  # 100 nits are a face in ordinary light
    assert level[4] > 200
    assert remarks(path) == ["HDR (PQ) was converted to SDR"]


def test_interlaced_frames_are_deinterlaced(tmp_path: Path) -> None:
    moving = [np.full((64, 128, 3), 30, np.uint8) for _ in range(20)]
    for k, picture in enumerate(moving):
        picture[:, 4 * k + 8 : 4 * k + 24] = 220
    woven = []
    for first, second in zip(moving[::2], moving[1::2], strict=True):
        frame = first.copy()
        frame[1::2] = second[1::2]
        woven.append(frame)
    path = tmp_path / "v.ts"
    with av.open(str(path), "w") as container:
        options = {"x264-params": "tff=1:interlaced=1:bframes=0", "qp": "4"}
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        stream.codec_context.flags |= 0x40000 | 0x20000000  # interlaced DCT and motion
        for k, picture in enumerate(woven):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    frames = list(read_frames(path))
    assert [frame.number for frame in frames] == list(range(1, 11))
    assert np.allclose(np.diff([frame.time for frame in frames]), 1 / 25)
    for k in (3, 5, 7):
        shown = frames[k].pixels[:, :, 1].astype(int)
        combed = np.abs(np.diff(woven[k][:, :, 1].astype(int), axis=0)).mean()
        assert np.abs(np.diff(shown, axis=0)).mean() < combed / 5
        # One field's lines stay, and the picture is that field's moment.
        off = [np.abs(shown - moving[2 * k + field][:, :, 1]).mean() for field in (0, 1)]
        assert min(off) < 3 < max(off)


def test_an_ordinary_video_has_no_remarks(tmp_path: Path) -> None:
    assert remarks(write_video(tmp_path / "v.mp4")) == []
