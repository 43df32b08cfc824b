"""The tail card finds what was put in: a hard person, wrong labels, labels that come late."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from clipaffect.core.tasks import AU, EXPR
from clipaffect.studies.hard_examples import (
    elements,
    find_tail,
    in_tail,
    lags,
    shares,
    suspects,
    tail_answer,
)

PEOPLE, FRAMES = 24, 120


def made(late: int = 0, noise: float = 0.05, seed: int = 0) -> pd.DataFrame:
    """Cross-fitted scores that are right up to noise; labels may come late by some frames."""
    rng = np.random.default_rng(seed)
    parts = []
    for person in range(PEOPLE):
        truth = np.repeat(rng.integers(0, 8, FRAMES // 12 + 2), 12)[: FRAMES + late]
        scores = np.full((FRAMES, 8), 0.02)
        seen = np.where(rng.random(FRAMES) < noise, rng.integers(0, 8, FRAMES), truth[late:])
        scores[np.arange(FRAMES), seen] = 0.86
        rows = pd.DataFrame(
            {
                "fold": 0,
                "group": f"p{person}",
                "video": f"v{person}",
                "person": "",
                "frame": np.arange(1, FRAMES + 1),
                "label": truth[:FRAMES],
            }
        )
        parts.append(rows.assign(scores=list(scores)))
    return pd.concat(parts, ignore_index=True)


def parts_of(frame: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    return frame, frame[["label"]].to_numpy(copy=True), np.stack(frame["scores"].to_list())


def test_losses_are_minus_log_of_what_is_annotated() -> None:
    scores = np.array([[0.7, 0.2, 0.1, 0, 0, 0, 0, 0]])
    found = elements(np.array([[1]]), scores, EXPR)
    assert found.loss == pytest.approx([-np.log(0.2)])
    labels = np.full((2, 12), -1)
    labels[0, 3], labels[1, 5] = 1, 0
    units = np.full((2, 12), 0.3)
    found = elements(labels, units, AU)
    assert found.row.tolist() == [0, 1]
    assert found.target.tolist() == [3, 5]
    assert found.loss == pytest.approx([-np.log(0.3), -np.log(0.7)])
    labels[0, 5] = 0
    found = elements(labels, units, AU, "samples")
    mean = -(np.log(0.3) + np.log(0.7)) / 2
    assert found.loss == pytest.approx([mean, mean, -np.log(0.7)])


def test_the_tail_is_cvars() -> None:
    loss = np.random.default_rng(0).exponential(size=1000)
    tail = in_tail(loss, 0.25)
    assert tail.sum() == 250
    assert loss[tail].min() >= loss[~tail].max()
    # CVaR at 0.25 is the least over lambda of lambda + mean of what lies above it / 0.25.
    limits = np.sort(loss)
    above = [x + np.maximum(loss - x, 0).mean() / 0.25 for x in limits]
    assert loss[tail].mean() == pytest.approx(min(above))


def test_a_hard_person_leads_the_table() -> None:
    frame, labels, scores = parts_of(made())
    hard = (frame["group"] == "p7").to_numpy()
    scores[hard] = 1 / 8
    found = elements(labels, scores, EXPR)
    tail = in_tail(found.loss, 0.08)
    table = shares(pd.Categorical(frame["group"])[found.row], tail)
    assert table["name"].iloc[0] == "p7"
    assert table["share"].sum() == pytest.approx(1)
    assert table["share_of_tail"].sum() == pytest.approx(1)
    assert table["times"].iloc[0] == pytest.approx(
        table["share_of_tail"].iloc[0] / (FRAMES / len(frame))
    )


def test_wrong_labels_are_found_as_one_stretch() -> None:
    frame, labels, scores = parts_of(made(noise=0))
    scores = scores * 0 + 0.004
    scores[np.arange(len(frame)), labels[:, 0]] = 0.972
    wrong = ((frame["video"] == "v3") & frame["frame"].between(49, 60)).to_numpy()
    right = labels[wrong, 0].copy()
    labels[wrong] = (labels[wrong] + 1) % 8
    table = suspects(frame, labels, scores, EXPR)
    assert table["frames"].sum() == 12
    assert set(table["video"]) == {"v3"}
    assert table["first"].min() == 49
    assert table["last"].max() == 60
    assert table["said"].iloc[0] in np.array(EXPR.targets)[right]
    # One frame alone is noise, not a stretch.
    labels[wrong] = right[:, None]
    labels[500] = (labels[500] + 1) % 8
    assert suspects(frame, labels, scores, EXPR).empty


def test_a_gap_ends_a_stretch_and_units_are_named() -> None:
    rows = pd.DataFrame({"video": "v", "person": "", "frame": [1, 2, 3, 7, 8, 9, 10], "group": "p"})
    labels = np.full((7, 12), -1)
    labels[:, 2] = 0
    scores = np.full((7, 12), 0.98)
    table = suspects(rows, labels, scores, AU)
    assert table[["first", "last"]].to_numpy().tolist() == [[7, 10], [1, 3]]
    assert table["annotated"].iloc[0] == "AU4 absent"
    assert table["said"].iloc[0] == "AU4 present"


@pytest.mark.parametrize("late", [0, 4])
def test_a_lag_that_was_put_in_comes_out(late: int) -> None:
    # Labels of frame t say what was to be seen at frame t - late.
    frame = made()
    labels = frame.groupby("video")["label"].shift(late).bfill().astype(int).to_numpy()[:, None]
    table = lags(frame, labels, parts_of(frame)[2], EXPR, 500)
    best = table.loc[table["macro_f1"].idxmax()]
    assert best["shift"] == -late
    assert table["shift"].tolist() == list(range(-15, 16))
    if late:
        assert best["p_adjusted"] < 0.1
        assert best["difference"] > 0.2


def test_the_answer_follows_the_tail() -> None:
    frame = made()
    scores = parts_of(frame)[2]
    late = frame.assign(label=frame.groupby("video")["label"].shift(4).bfill().astype(int))
    said = tail_answer("EXPR", find_tail(late, scores, EXPR, 0.1, 5000), "people")
    assert "Labels are 4 frames late" in said
    assert "2 of 24 people hold " in said
    said = tail_answer("EXPR", find_tail(frame, scores, EXPR, 0.1, 500), "people")
    assert "Labels fit best without a shift." in said
    kept = (frame["frame"] < 20).to_numpy()
    short = frame[kept].reset_index(drop=True)
    assert "No frame has enough neighbours" in tail_answer(
        "EXPR", find_tail(short, scores[kept], EXPR, 0.1, 500), "people"
    )
