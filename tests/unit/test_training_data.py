"""Rows to train on: batches, held-out videos, incomplete rows, refused data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from clipaffect.config.training import Recipe
from clipaffect.core.errors import UserError
from clipaffect.core.tasks import AU, EXPR
from clipaffect.training.data import (
    Split,
    batches,
    check_trainable,
    data_digest,
    inner_rows,
    training_data,
)
from clipaffect.training.trainer import TrainedHead


def split(labels: np.ndarray, videos: int = 6) -> Split:
    rng = np.random.default_rng(0)
    names = [f"v{k * videos // len(labels)}" for k in range(len(labels))]
    rows = pd.DataFrame(
        {
            "group": names,
            "video": names,
            "person": [["_left", "_right"][k % 2] for k in range(len(labels))],
            "frame": range(len(labels)),
        }
    )
    features = torch.from_numpy(rng.normal(size=(len(labels), 5)).astype(np.float16))
    return Split(rows, features, torch.from_numpy(labels.astype(np.int8)))


EVERY_CLASS = np.arange(120)[:, None] % 8


@pytest.mark.parametrize("rows", [1, 2, 16, 17, 33, 65])
def test_batches_hold_every_row_once_and_never_one_row(rows: int) -> None:
    chosen = np.arange(rows) * 3
    parts = batches(chosen, 16, seed=0, epoch=0)
    assert sorted(torch.cat(parts).tolist()) == chosen.tolist()
    assert all(len(part) > 1 for part in parts) or rows == 1
    assert not torch.equal(torch.cat(parts), torch.cat(batches(chosen, 16, 0, 1))) or rows < 3


def test_held_out_videos_are_whole_and_show_every_class() -> None:
    train = split(EVERY_CLASS)
    held = inner_rows(train, np.ones(120, bool), EXPR, 0.34)
    by_video = train.rows.assign(held=held).groupby("video")["held"].nunique()
    assert (by_video == 1).all()
    assert train.rows[held]["video"].nunique() == 2
    for side in (held, ~held):
        assert set(train.labels[torch.from_numpy(side), 0].tolist()) == set(range(8))
    data = training_data(train, train, EXPR, Recipe(select_on="inner", inner_share=0.34))
    assert sorted([*data.rows, *data.inner]) == list(range(120))
    assert (data.inner == np.flatnonzero(held)).all()


def test_no_choice_of_videos_is_an_error() -> None:
    labels = EVERY_CLASS.copy()
    labels[20:][labels[20:] == 3] = 2  # class 3 is in the first video alone: it must be trained on
    every = np.ones(120, bool)
    held = inner_rows(split(labels), every, EXPR, 0.3)
    assert not held[:20].any()
    assert len(set(labels[held, 0])) == 7
    for video in range(6):  # every video has a class of its own
        labels[20 * video : 20 * video + 20] = video
    with pytest.raises(UserError, match="leaves no training frames for some class of EXPR"):
        inner_rows(split(labels % 8), every, EXPR, 0.3)


def test_incomplete_rows_are_dropped_only_when_asked() -> None:
    labels = np.random.default_rng(0).integers(0, 2, (40, 12))
    labels[::4, 2] = -1
    train = split(labels)
    assert len(training_data(train, train, AU, Recipe()).rows) == 40
    data = training_data(train, train, AU, Recipe(drop_incomplete_rows=True))
    assert data.rows.tolist() == [k for k in range(40) if k % 4]
    complete = split(np.abs(labels))
    data = training_data(complete, train, AU, Recipe(drop_incomplete_rows=True))
    assert data.rows.tolist() == list(range(40))
    labels[:, 5] = -1
    with pytest.raises(
        UserError, match="training frames of AU with both a label and a face: 0"
    ) as error:
        training_data(split(labels), train, AU, Recipe(drop_incomplete_rows=True))
    assert "drop_incomplete_rows" in str(error.value)


def test_a_unit_that_only_incomplete_rows_show_is_refused_when_they_are_dropped() -> None:
    labels = np.random.default_rng(0).integers(0, 2, (120, 12))
    labels[labels[:, 3] == 1, 7] = -1
    with pytest.raises(UserError, match="no training frame shows AU6"):
        training_data(split(labels), split(labels), AU, Recipe(drop_incomplete_rows=True))
    labels[20:, 7] = np.where(labels[20:, 3] == 1, -1, 1)
    labels[:20, 7] = np.arange(20) % 2  # the first video alone has complete rows with AU6
    recipe = Recipe(drop_incomplete_rows=True, select_on="inner", inner_share=0.34)
    data = training_data(split(labels), split(labels), AU, recipe)
    assert (labels[data.rows] >= 0).all()
    assert (labels[data.rows, 3] == 1).any()
    assert data.inner.min() >= 20


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_feature_that_is_not_finite_is_named(value: float) -> None:
    train = split(EVERY_CLASS)
    train.features[37, 2] = value
    with pytest.raises(UserError, match=r"video 'v1', person _right, frame 37 is not finite"):
        data_digest(train, train)


def test_the_digest_sees_features_labels_and_both_splits() -> None:
    found = {data_digest(split(EVERY_CLASS), split(EVERY_CLASS))}
    for side in range(2):
        for change in ("features", "labels"):
            splits = [split(EVERY_CLASS), split(EVERY_CLASS)]
            getattr(splits[side], change)[5] += 1
            found.add(data_digest(*splits))
    assert len(found) == 5
    assert data_digest(split(EVERY_CLASS), split(EVERY_CLASS)) in found


def test_a_class_that_never_occurs_and_no_frame_at_all_are_refused() -> None:
    with pytest.raises(UserError, match="no training frame shows Fear"):
        check_trainable(np.where(EVERY_CLASS == 3, 2, EVERY_CLASS), EXPR)
    labels = np.ones((20, 12), int)
    labels[:, 11] = [0, -1] * 10
    with pytest.raises(UserError, match="no training frame shows AU26"):
        check_trainable(labels, AU)
    with pytest.raises(UserError, match="training frames of EXPR with both a label and a face: 0"):
        check_trainable(EVERY_CLASS[:0], EXPR)


def test_a_held_out_person_goes_with_all_their_videos() -> None:
    train = split(EVERY_CLASS, videos=12)
    rows = train.rows.assign(group=[f"p{int(v[1:]) // 2}" for v in train.rows["video"]])
    held = inner_rows(Split(rows, train.features, train.labels), np.ones(120, bool), EXPR, 0.34)
    assert held.any()
    assert (rows.assign(held=held).groupby("group")["held"].nunique() == 1).all()


def test_the_heads_key_knows_who_is_in_which_row() -> None:
    one = split(EVERY_CLASS)
    rows = one.rows.copy()
    rows.loc[0, "group"] = "somebody else"
    other = Split(rows, one.features, one.labels)
    assert data_digest(one, one) == data_digest(split(EVERY_CLASS), split(EVERY_CLASS))
    assert data_digest(other, one) != data_digest(one, one) != data_digest(one, other)


def test_of_equal_epochs_the_first_is_kept() -> None:
    head, recipe = TrainedHead(), Recipe(select_on="inner")
    for epoch, score in ((1, 0.4), (2, 0.5), (3, 0.5)):
        row = {"epoch": epoch, "inner_macro_f1": score}
        head.finish(row, {"w": torch.tensor(float(epoch))}, recipe)
    assert head.kept == 2
    assert head.weights["w"] == 2
