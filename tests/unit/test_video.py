"""Decoding: presentation times, frame numbers, and an outcome for every kind of file."""

from __future__ import annotations

import math
import struct
import wave
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import write_video
from PIL import Image

from clipaffect.config.faces import Faces
from clipaffect.core.frame_status import MEANING, VIDEO_STATUSES, FrameStatus
from clipaffect.core.video import Frame, read_frames
from clipaffect.dataset.extract_frames import Sampler
from clipaffect.dataset.manifest import VIDEO
from clipaffect.dataset.media import media_kind


def test_every_frame_comes_once_with_its_time_and_pixels(tmp_path: Path) -> None:
    frames = list(read_frames(write_video(tmp_path / "v.mp4", frames=12, rate=10)))
    assert [f.number for f in frames] == list(range(1, 13))
    assert [f.time for f in frames] == pytest.approx([k / 10 for k in range(12)])
    assert all(f.outcome is FrameStatus.OK for f in frames)
    means = [float(f.pixels.mean()) for f in frames]
    assert means == pytest.approx([10 * k for k in range(12)], abs=3)


def test_an_animated_gif_is_a_video(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (64, 48), (level,) * 3) for level in (0, 100, 200)]
    path = tmp_path / "v.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[40, 80, 40])
    assert media_kind(path) == VIDEO
    frames = list(read_frames(path))
    assert [f.time for f in frames] == pytest.approx([0, 0.04, 0.12])
    assert [float(f.pixels.mean()) for f in frames] == pytest.approx([0, 100, 200], abs=2)


def test_variable_rate_times_are_the_containers(tmp_path: Path) -> None:
    path, times = tmp_path / "vfr.mp4", [0, 40, 50, 130, 131, 500]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time in times:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 99, np.uint8), "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert [f.time for f in read_frames(path)] == pytest.approx([t / 1000 for t in times])


def truncated(path: Path) -> Path:
    # A fragmented file stays readable when its end is missing, as a broken download's does not.
    with av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "5", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        rng = np.random.default_rng(0)
        for _ in range(40):
            noise = rng.integers(0, 255, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, "rgb24")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def headless(path: Path) -> Path:
    write_video(path)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov")])  # the index at the end is gone
    return path


def audio(path: Path) -> Path:
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    return path


def written(data: bytes):
    def write(path: Path) -> Path:
        path.write_bytes(data)
        return path

    return write


def damaged_middle(path: Path) -> Path:
    write_video(path, frames=60, size=(160, 120))
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 8
    middle = start + (len(data) - start) // 3
    data[middle : middle + 400] = bytes(range(256)) + bytes(144)
    path.write_bytes(bytes(data))
    return path


WHOLE_FILES = {
    "missing": (lambda path: path, FrameStatus.VIDEO_MISSING),
    "zero bytes": (written(b""), FrameStatus.VIDEO_EMPTY),
    "text": (written(b"this is not a video\n" * 50), FrameStatus.VIDEO_UNREADABLE),
    "noise": (written(np.random.default_rng(0).bytes(5000)), FrameStatus.VIDEO_UNREADABLE),
    "index cut off": (headless, FrameStatus.VIDEO_UNREADABLE),
    "audio named mp4": (audio, FrameStatus.NO_VIDEO_STREAM),
}


@pytest.mark.parametrize("kind", WHOLE_FILES)
def test_a_file_that_is_no_video_has_one_row(tmp_path: Path, kind: str) -> None:
    make, outcome = WHOLE_FILES[kind]
    (frame,) = read_frames(make(tmp_path / "v.mp4"))
    assert (frame.number, frame.outcome, frame.pixels) == (0, outcome, None)
    assert outcome in VIDEO_STATUSES
    assert math.isnan(frame.time)


def test_a_truncated_video_keeps_what_can_be_read(tmp_path: Path) -> None:
    frames = list(read_frames(truncated(tmp_path / "v.mp4")))
    assert [f.number for f in frames] == list(range(1, len(frames) + 1))
    counts = Counter(f.outcome for f in frames)
    assert 5 < counts[FrameStatus.OK] < 40
    assert set(counts) <= {FrameStatus.OK, FrameStatus.FRAME_UNREADABLE}


def test_a_damaged_middle_keeps_the_number_of_frames(tmp_path: Path) -> None:
    frames = list(read_frames(damaged_middle(tmp_path / "v.mp4")))
    assert [f.number for f in frames] == list(range(1, 61))
    assert frames[0].outcome is FrameStatus.OK


def test_real_clips_agree_with_their_containers(real_clips: Path) -> None:
    for name, expected in (("laughing.mp4", 472), ("single_face.mp4", 72)):
        frames = list(read_frames(real_clips / name))
        assert len(frames) == expected
        times = [f.time for f in frames]
        assert times == sorted(times)


def test_frames_that_an_edit_list_cuts_are_not_lost_frames(real_clips: Path) -> None:
    with av.open(str(real_clips / "no_face.mp4")) as container:
        stated = container.streams.video[0].frames
        shown = sum(1 for _ in container.decode(video=0))
    frames = list(read_frames(real_clips / "no_face.mp4"))
    assert shown < stated
    assert len(frames) == shown
    assert {f.outcome for f in frames} == {FrameStatus.OK}


def turned(path: Path) -> Path:
    """Let a video's display matrix ask for a quarter turn, as phones write it.

    The stored point (x, y) is shown at (48 - y, x).
    """
    data = bytearray(path.read_bytes())
    # tkhd: ... matrix (9 x 32 bit) right before width and height.
    start = data.index(b"tkhd") + 4
    matrix = start + 4 + 20 + 8 + 8
    quarter = [0, 0x10000, 0, -0x10000, 0, 0, 48 << 16, 0, 0x40000000]
    data[matrix : matrix + 36] = struct.pack(">9i", *quarter)
    path.write_bytes(bytes(data))
    return path


def test_a_turned_video_is_shown_upright(tmp_path: Path) -> None:
    frames = list(read_frames(turned(write_video(tmp_path / "v.mp4", frames=3, size=(64, 48)))))
    assert [(f.width, f.height) for f in frames] == [(48, 64)] * 3
    assert all(f.pixels.shape == (64, 48, 3) for f in frames)


def test_a_playlist_does_not_read_another_file(tmp_path: Path) -> None:
    write_video(tmp_path / "other.mp4")
    path = tmp_path / "list.mp4"
    path.write_text("ffconcat version 1.0\nfile other.mp4\n")
    (frame,) = read_frames(path)
    assert frame.outcome is FrameStatus.VIDEO_UNREADABLE


def test_every_outcome_has_a_meaning() -> None:
    assert set(MEANING) == set(FrameStatus)


def test_the_corner_of_a_turned_video_is_where_a_viewer_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:16, :16] = 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    shown = next(read_frames(turned(path))).pixels
    assert shown.shape == (64, 48, 3)
    # The left upper corner of what is stored is the right upper corner of what is shown.
    assert shown[4, -4].min() > 200
    assert max(shown[4, 4].max(), shown[-4, -4].max(), shown[-4, 4].max()) < 60


@pytest.mark.parametrize(("rate", "each"), [(10.0, 3), (5.0, 6), (6.0, 5)])
def test_a_rate_that_divides_the_videos_takes_every_nth_frame(rate: float, each: int) -> None:
    sampler = Sampler(Faces(rate=rate))
    frames = [Frame(k + 1, 7 + k / 30, 8, 8, FrameStatus.OK) for k in range(3000)]
    assert [f.number for f in frames if sampler(f)] == list(range(1, 3001, each))
