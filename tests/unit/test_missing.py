"""Scores for frames without a crop, against numpy's interpolation and a search by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from clipaffect.evaluation.fill_missing import plan_scores


def frames(*numbers: int, video: str = "v", person: str = "") -> pd.DataFrame:
    return pd.DataFrame({"video": video, "person": person, "frame": list(numbers)})


def several(rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Three people, rows in no order, one of them without any crop."""
    wanted, known = [], []
    for video, person, last in (("a", "left", 60), ("a", "right", 40), ("b", "", 30)):
        wanted.append(frames(*rng.permutation(np.arange(1, last)), video=video, person=person))
        if video == "a":
            own = rng.choice(np.arange(5, last - 5), 12, replace=False)
            known.append(frames(*own, video=video, person=person))
    rows = pd.concat(known, ignore_index=True)
    return pd.concat(wanted, ignore_index=True), rows, rng.uniform(size=(len(rows), 3))


@pytest.mark.parametrize("seed", range(5))
def test_interpolation_is_numpys_person_by_person(seed: int) -> None:
    wanted, known, scores = several(np.random.default_rng(seed))
    plan = plan_scores(wanted, known, "interpolate")
    assert set(wanted.iloc[plan.kept]["video"]) == {"a"}
    found = plan.apply(scores)
    for row, values in zip(wanted.iloc[plan.kept].itertuples(), found, strict=True):
        own = (known["video"] == row.video) & (known["person"] == row.person)
        order = known.loc[own, "frame"].sort_values()
        for k in range(3):
            expected = np.interp(row.frame, order, scores[order.index, k])
            assert values[k] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_nearest_is_the_nearest_and_the_earlier_of_two(seed: int) -> None:
    wanted, known, scores = several(np.random.default_rng(seed))
    plan = plan_scores(wanted, known, "nearest")
    found = plan.apply(scores)
    for row, values in zip(wanted.iloc[plan.kept].itertuples(), found, strict=True):
        own = known[(known["video"] == row.video) & (known["person"] == row.person)]
        best = min(own.index, key=lambda i: (abs(own["frame"][i] - row.frame), own["frame"][i]))
        assert np.array_equal(values, scores[best])


def test_left_out_frames_have_no_score_and_others_their_own_bytes() -> None:
    known = frames(2, 5, 6)
    scores = np.float32([[0.1, 0.9], [1 / 3, 2 / 3], [0.7, 0.3]])
    plan = plan_scores(frames(1, 2, 3, 5, 6, 9), known, "leave_out")
    assert plan.kept.tolist() == [1, 3, 4]
    assert plan.apply(scores).tobytes() == scores.tobytes()
    for policy in ("nearest", "interpolate"):
        plan = plan_scores(frames(2, 5, 6), known, policy)
        assert plan.own.all()
        assert plan.apply(scores).tobytes() == scores.tobytes()


def test_edges_take_the_last_frame_with_a_crop() -> None:
    scores = np.array([[1.0], [2.0]])
    for policy in ("nearest", "interpolate"):
        plan = plan_scores(frames(1, 10), frames(4, 6), policy)
        assert plan.apply(scores)[:, 0].tolist() == [1.0, 2.0]
        assert not plan.own.any()


def test_nobody_has_a_crop() -> None:
    plan = plan_scores(frames(1, 2), frames(), "nearest")
    assert len(plan.kept) == 0
    assert plan.apply(np.zeros((0, 4))).shape == (0, 4)
