"""Labels by several raters: their majority, and how well they agree."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from clipaffect.config.data import Data
from clipaffect.core.errors import UserError
from clipaffect.core.parquet import read_table, write_table
from clipaffect.core.tasks import EXPR, Task
from clipaffect.dataset.index_dataset import index_dataset
from clipaffect.dataset.raters import majority
from clipaffect.evaluation.measure_agreement import (
    agreement,
    krippendorff,
    measure_agreement,
)

MOOD = Task("mood", ("calm", "tense", "bored"), False)
MARKS = Task("marks", ("smile", "frown"), True)
# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: four observers, twelve
# units, five values, and missing ones. Alpha of nominal data is 0.743.
PUBLISHED = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""


def rated(values: np.ndarray, task: Task, people: int = 3) -> pd.DataFrame:
    """Rows of (raters, units) values, -1 where there is none; units dealt to people."""
    raters, units = values.shape[:2]
    rows = [
        {
            "video": f"v{u % people}",
            "person": "",
            "frame": u,
            "group": f"p{u % people}",
            "rater": f"r{r}",
            **dict(zip(task.columns, np.atleast_1d(values[r, u]).tolist(), strict=True)),
        }
        for u in range(units)
        for r in range(raters)
        if (np.atleast_1d(values[r, u]) >= 0).any()
    ]
    return pd.DataFrame(rows)


def test_alpha_is_the_published_one() -> None:
    lines = [line.split() for line in PUBLISHED.strip().splitlines()]
    values = np.array([[-1 if c == "." else int(c) - 1 for c in line] for line in lines])
    found = agreement(rated(values, EXPR), EXPR)
    assert found["alpha"]["estimate"] == pytest.approx(0.743, abs=5e-4)
    assert found["raters"] == ["r0", "r1", "r2", "r3"]
    assert found["frames"] == 11  # the last unit has one rating
    assert found["alpha"]["low"] is None  # three people are too few


def test_alpha_is_one_for_agreement_and_about_zero_for_chance() -> None:
    rng = np.random.default_rng(0)
    same = np.repeat(rng.integers(0, 3, (1, 600)), 3, axis=0)
    assert agreement(rated(same, MOOD, 30), MOOD)["alpha"]["estimate"] == 1
    chance = agreement(rated(rng.integers(0, 3, (3, 600)), MOOD, 30), MOOD)["alpha"]
    assert chance["low"] < 0 < chance["high"]
    assert abs(chance["estimate"]) < 0.08
    assert np.isnan(krippendorff(np.diag([5.0, 0.0])))  # nothing varies


def test_a_rater_is_scored_against_the_majority_of_the_others() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 400)
    wrong = rng.random((3, 400)) < 0.2
    values = np.where(wrong, rng.integers(0, 3, (3, 400)), truth)
    found = agreement(rated(values, MOOD, 40), MOOD)
    expected = []
    for own in range(3):
        one, other = (values[k] for k in range(3) if k != own)
        agreed = one == other
        expected.append(
            f1_score(one[agreed], values[own][agreed], average="macro", labels=range(3))
        )
    assert list(found["raters_f1"].values()) == pytest.approx(expected)
    assert found["macro_f1"]["estimate"] == pytest.approx(np.mean(expected))
    assert found["macro_f1"]["low"] < np.mean(expected) < found["macro_f1"]["high"]


def test_labels_have_an_alpha_each() -> None:
    rng = np.random.default_rng(2)
    smile = np.repeat(rng.integers(0, 2, (1, 300)), 2, axis=0)
    frown = rng.integers(0, 2, (2, 300))
    found = agreement(rated(np.stack([smile, frown], axis=-1), MARKS, 30), MARKS)
    assert found["alphas"]["smile"] == 1
    assert abs(found["alphas"]["frown"]) < 0.15
    assert found["alpha"]["estimate"] == pytest.approx(np.mean(list(found["alphas"].values())))


def test_the_majority_decides_and_a_tie_is_no_label() -> None:
    labels = np.array([[0], [0], [2], [1], [2], [-1]])
    code = np.array([0, 0, 0, 1, 1, 2])
    found, ties = majority(labels, code, MOOD)
    assert found[:, 0].tolist() == [0, -1, -1]
    assert ties == 1


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for rater in ("anna", "ben", "cem"):
        rows = []
        for number in range(12):
            (tmp_path / f"{number}.png").write_bytes(b"x")
            mood = MOOD.targets[number % 3 if rng.random() < 0.8 else 0]
            rows.append(
                {
                    "image": f"{number}.png",
                    "person": f"p{number // 2}",
                    "split": "train" if number < 6 else "validation",
                    "mood": mood,
                    "who": rater,
                }
            )
        pd.DataFrame(rows).to_csv(tmp_path / f"{rater}.csv", index=False)
    every = [pd.read_csv(tmp_path / f"{rater}.csv") for rater in ("anna", "ben", "cem")]
    pd.concat(every).to_csv(tmp_path / "all.csv", index=False)
    return tmp_path


def settings(**own: object) -> Data:
    return Data.model_validate(
        {"format": "table", "tasks": {"mood": {"classes": list(MOOD.targets)}}, **own}
    )


def test_a_column_and_a_table_for_each_rater_are_the_same(tables: Path) -> None:
    one = settings(table=str(tables / "all.csv"), rater="who")
    names = {rater: str(tables / f"{rater}.csv") for rater in ("anna", "ben", "cem")}
    for data, out in ((one, "one"), (settings(raters=names), "three")):
        index_dataset(data, (MOOD,), tables / out)
    for file in ("labels/mood.parquet", "ratings/mood.parquet"):
        found = [read_table(tables / out / file) for out in ("one", "three")]
        pd.testing.assert_frame_equal(*found)
    every = pd.read_csv(tables / "all.csv")
    votes = every.groupby(["image", "mood"]).size().unstack(fill_value=0)
    labels = read_table(tables / "one/labels/mood.parquet").set_index("video")
    for image, own in votes.iterrows():
        best = own[own == own.max()].index
        expected = MOOD.targets.index(best[0]) if len(best) == 1 else -1
        assert labels.loc[image, "label"] == expected
    assert len(read_table(tables / "one/ratings/mood.parquet")) == len(every)
    summary = json.loads((tables / "one/summary.json").read_text())
    assert summary["tasks"]["mood"]["train"]["rows"] == 6


def test_agreement_is_measured_where_raters_disagree_too(tables: Path) -> None:
    """Frames without a majority are scored by nobody, and count all the same."""
    two = {rater: str(tables / f"{rater}.csv") for rater in ("anna", "ben")}
    index_dataset(settings(raters=two), (MOOD,), tables / "two")
    # As the frames of one video, of which one is scored.
    ratings = read_table(tables / "two/ratings/mood.parquet").assign(video="all", person="")
    ratings["frame"] = ratings.groupby("rater").cumcount() + 1
    write_table(tables / "ratings.parquet", ratings)
    one = pd.DataFrame({"group": ["p"], "video": "all", "person": "", "frame": [1]})
    write_table(tables / "rows.parquet", one)
    out = tables / "agreement.json"
    measure_agreement(tables / "ratings.parquet", tables / "rows.parquet", MOOD, out)
    found = json.loads(out.read_text())
    differ = sum(own["label"].nunique() > 1 for _, own in ratings.groupby("frame"))
    assert found["frames"] == 12
    assert found["tied"] == differ > 0
    assert found["alpha"]["estimate"] < 1


def test_raters_must_agree_on_the_split(tables: Path) -> None:
    ben = pd.read_csv(tables / "ben.csv")
    ben["split"] = ben["split"].map({"train": "validation", "validation": "train"})
    ben.to_csv(tables / "ben.csv", index=False)
    names = {rater: str(tables / f"{rater}.csv") for rater in ("anna", "ben")}
    with pytest.raises(UserError, match=r"raters put frame 1 of '0\.png' into different splits"):
        index_dataset(settings(raters=names), (MOOD,), tables / "out")


def test_two_labels_of_one_rater_are_an_error(tables: Path) -> None:
    with pytest.raises(UserError, match=r"name the column of the rater in data\.rater"):
        index_dataset(settings(table=str(tables / "all.csv")), (MOOD,), tables / "out")
    every = pd.read_csv(tables / "all.csv")
    pd.concat([every, every[:1]]).to_csv(tables / "twice.csv", index=False)
    data = settings(table=str(tables / "twice.csv"), rater="who")
    with pytest.raises(UserError, match="has two labels for mood"):
        index_dataset(data, (MOOD,), tables / "out")
    with pytest.raises(UserError, match="no column 'rater'"):
        index_dataset(settings(table=str(tables / "all.csv"), rater="rater"), (MOOD,), tables)
