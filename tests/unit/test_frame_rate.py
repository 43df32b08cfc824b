"""The frame rate of videos, and what is said of a model whose training videos had another."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from clipaffect.bundle.format import Bundle, TrainedOn, read_bundle
from clipaffect.bundle.trained_on import rate_remark
from clipaffect.dataset.frame_rate import frame_rate

FIRST = read_bundle(ROOT / "tests/data/bundle-v1/bundle.json")


def timed(**videos: list[float]) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"video": name, "frame": np.arange(len(times)) + 1, "time": times})
        for name, times in videos.items()
    ]
    return pd.concat(parts, ignore_index=True)


def test_the_rate_is_the_median_over_videos_and_counts_frames_that_are_left_out() -> None:
    rows = timed(
        a=[0, 0.2, 0.4, 0.6], b=[5, 5.1, 5.2], c=[0, 0.04, 0.08, 0.12, 0.16], image=[np.nan]
    )
    assert frame_rate(rows) == pytest.approx(10)
    assert frame_rate(rows[rows["frame"] != 2]) == pytest.approx(10)
    assert frame_rate(timed(a=[0.0], image=[np.nan])) is None


def model(rate: float | None, kind: str) -> Bundle:
    smooth = {"step": "smooth", "choice": {"kind": kind, "width": 5 * (kind != "none")}}
    values = FIRST.model_dump(mode="json")
    facts = TrainedOn(source="own", people=1, videos=1, frames=9, frame_rate=rate)
    for task in values["tasks"].values():
        task |= {"steps": [smooth], "trained_on": facts.model_dump(mode="json")}
    return Bundle.model_validate(values)


@pytest.mark.parametrize(
    ("own", "kind", "rate", "said"),
    [
        (5.0, "mean", 25.0, "25 frames per second, and 5 in the training videos: smoothing of "),
        (30.0, "mean", 6.0, "covers a longer time than in training"),
        (5.0, "mean", 7.0, None),
        (5.0, "none", 25.0, None),
        (None, "mean", 25.0, None),
        (5.0, "mean", None, None),
    ],
)
def test_another_rate_is_said_where_scores_are_smoothed(
    own: float | None, kind: str, rate: float | None, said: str | None
) -> None:
    found = rate_remark(model(own, kind), rate)
    assert found is None if said is None else said in str(found)
