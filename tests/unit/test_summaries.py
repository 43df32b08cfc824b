"""Episodes and shares of a made-up video, counted by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from clipaffect.bundle.load import open_bundle
from clipaffect.prediction.prediction_table import Predicted
from clipaffect.prediction.scoring import Answers
from clipaffect.prediction.summaries import summarise

FIRST = open_bundle(ROOT / "tests/data/bundle-v1")


def video(decided: list[int | None], step: float = 0.1) -> Predicted:
    """One person; of each frame the class, None where there is no face."""
    rows = pd.DataFrame(
        {
            "video": "v",
            "person": ["" if d is None else "1" for d in decided],
            "frame": range(1, len(decided) + 1),
            "time": np.arange(len(decided)) * step,
            "status": ["no_face" if d is None else "ok" for d in decided],
        }
    )
    known = [d for d in decided if d is not None]
    at = np.full(len(decided), -1)
    at[[d is not None for d in decided]] = np.arange(len(known))
    answers = {}
    for name, model in FIRST.bundle.tasks.items():
        size = len(model.targets)
        probability = np.full((len(known), size), 0.1, np.float32)
        probability[np.arange(len(known)), known] = 0.5 + np.arange(len(known)) / 1000
        decision = np.array(known)[:, None]
        if model.multilabel:
            decision = np.eye(size, dtype=int)[known]
        answers[name] = Answers(
            probability,
            decision,
            np.full(size, 0.5),
            probability * 0,
            probability,
            probability[None],
        )
    return Predicted(FIRST, "all", Path(), rows, at, answers)


def test_an_episode_is_a_run_of_frames_and_lasts_until_the_next() -> None:
    persons, episodes = summarise(video([0, 0, 4, 4, 4, 0]), 0, 6)
    own = episodes[episodes["task"] == "EXPR"]
    found = own[["target", "start_frame", "end_frame", "frames", "peak_frame"]].to_numpy().tolist()
    assert found == [
        ["Neutral", 1, 2, 2, 2],
        ["Neutral", 6, 6, 1, 6],
        ["Happiness", 3, 5, 3, 5],
    ]
    happy = own[own["target"] == "Happiness"].iloc[0]
    assert (happy["start_time"], happy["end_time"]) == (pytest.approx(0.2), pytest.approx(0.5))
    assert happy["seconds"] == pytest.approx(0.3)
    assert happy["peak_probability"] == pytest.approx(0.504)
    shares = persons[persons["task"] == "EXPR"].set_index("target")["share"]
    assert shares["Happiness"] == pytest.approx(0.5)
    assert shares.sum() == pytest.approx(1)
    units = persons[persons["task"] == "AU"].set_index("target")
    assert units.loc["AU1", "share"] == pytest.approx(0.5)  # number 0
    assert units.loc["AU1", "episodes"] == 2


def test_a_short_gap_stays_in_an_episode_and_a_long_one_ends_it() -> None:
    _, episodes = summarise(video([4] * 3 + [None] * 4 + [4] * 3), 0, 10)
    assert len(episodes[episodes["task"] == "EXPR"]) == 1
    _, episodes = summarise(video([4] * 3 + [None] * 5 + [4] * 3), 0, 11)
    assert len(episodes[episodes["task"] == "EXPR"]) == 2


def test_nobody_has_no_summary() -> None:
    persons, episodes = summarise(video([None, None]), 0, 2)
    assert persons.empty
    assert episodes.empty


def test_at_a_low_rate_an_episode_goes_on_from_look_to_look() -> None:
    """Every tenth of 31 frames is looked at, one a second."""
    made = video([4] * 31)
    rows = made.rows.assign(
        status=["ok" if k % 10 == 0 else "not_sampled" for k in range(31)],
        person=["1" if k % 10 == 0 else "" for k in range(31)],
    )
    at = np.full(31, -1)
    at[::10] = np.arange(4)
    _, episodes = summarise(replace(made, rows=rows, at=at), 0, 31)
    own = episodes[episodes["task"] == "EXPR"]
    assert len(own) == 1
    assert own["seconds"].iloc[0] == pytest.approx(4)
