"""Which frames are looked at, and which faces count."""

from __future__ import annotations

import math
from itertools import pairwise

import pandas as pd
import pyarrow as pa
import pytest
from pydantic import ValidationError

from clipaffect.config.faces import Faces, Quality
from clipaffect.core.frame_status import FrameStatus
from clipaffect.core.video import Frame
from clipaffect.dataset.extract_frames import Sampler
from clipaffect.faces.face_rows import SCHEMA, with_quality_status


def frames(times: list[float]) -> list[Frame]:
    return [Frame(k, time, 8, 8, FrameStatus.OK) for k, time in enumerate(times, 1)]


def wanted(settings: Faces, times: list[float]) -> list[int]:
    sampler = Sampler(settings)
    return [frame.number for frame in frames(times) if sampler(frame)]


def test_a_stride_starts_at_the_first_frame() -> None:
    assert wanted(Faces(), [k / 25 for k in range(7)]) == [1, 2, 3, 4, 5, 6, 7]
    assert wanted(Faces(stride=3), [k / 25 for k in range(8)]) == [1, 4, 7]


@pytest.mark.parametrize("fps", [10, 23.976, 25, 29.97, 30, 60])
@pytest.mark.parametrize("start", [0.0, 1.48])
def test_a_rate_takes_one_frame_a_tick(fps: float, start: float) -> None:
    times = [start + k / fps for k in range(int(20 * fps))]
    taken = wanted(Faces(rate=5), times)
    assert len(taken) == pytest.approx(100, abs=1)
    assert taken[0] == 1
    steps = [(times[b - 1] - times[a - 1]) for a, b in pairwise(taken)]
    assert max(abs(step - 0.2) for step in steps) <= 1 / fps + 1e-9


def test_a_rate_above_the_videos_takes_every_frame_and_gaps_are_not_made_up_for() -> None:
    assert wanted(Faces(rate=50), [0.0, 0.04, 0.08, 0.12]) == [1, 2, 3, 4]
    assert wanted(Faces(rate=10), [0.0, 0.05, 1.0, 1.05, 1.1, 1.15]) == [1, 3, 5]


def test_a_frame_without_a_time_is_looked_at() -> None:
    assert wanted(Faces(rate=5), [math.nan, 0.0, 0.1, math.nan]) == [1, 2, 4]


def test_a_file_that_cannot_be_read_keeps_its_status_under_any_sampling() -> None:
    for settings in (Faces(stride=2), Faces(stride=7), Faces(rate=1)):
        assert Sampler(settings)(Frame(0, math.nan, 0, 0, FrameStatus.VIDEO_MISSING))


def test_stride_and_rate_together_are_refused() -> None:
    with pytest.raises(ValidationError, match="'stride' or 'rate', not both"):
        Faces(stride=2, rate=5)


GOOD = {
    "eye_distance": 40.0,
    "yaw": 5.0,
    "pitch": -5.0,
    "roll": 0.0,
    "visible": 1.0,
    "sharpness": 80.0,
}


@pytest.mark.parametrize(
    ("measured", "status"),
    [
        ({}, FrameStatus.OK),
        ({"eye_distance": 19.9}, FrameStatus.FACE_SMALL),
        ({"sharpness": 9.9}, FrameStatus.FACE_BLURRED),
        ({"yaw": -46.0}, FrameStatus.FACE_TURNED),
        ({"pitch": 31.0}, FrameStatus.FACE_TURNED),
        ({"visible": 0.79}, FrameStatus.FACE_CUT_OFF),
        ({"visible": 0.79, "sharpness": 1.0}, FrameStatus.FACE_CUT_OFF),
    ],
)
def test_a_face_below_a_bound_gets_its_status(measured: dict, status: FrameStatus) -> None:
    bounds = Quality(eye_distance=20, sharpness=10, yaw=45, pitch=30, visible=0.8)
    row = GOOD | measured | {"video": "v", "frame": 1, "status": "ok", "crop": b"jpeg"}
    other = {"video": "v", "frame": 2, "status": "no_face"}
    rows = pa.Table.from_pylist([row, other], SCHEMA)
    found = with_quality_status(rows, Faces(quality=bounds)).to_pylist()
    assert [r["status"] for r in found] == [status, "no_face"]
    assert (found[0]["crop"] is not None) == (status is FrameStatus.OK)
    assert found[0]["yaw"] == row["yaw"]
    # By default every face that is found counts.
    assert with_quality_status(rows, Faces()).equals(rows)


def test_the_bounds_are_inclusive() -> None:
    row = GOOD | {"status": "ok"}
    exact = Quality(eye_distance=40, sharpness=80, yaw=5, pitch=5, visible=1)
    from clipaffect.faces.face_rows import quality_status

    assert quality_status(pd.DataFrame([row]), exact).tolist() == ["ok"]
