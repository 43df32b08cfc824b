"""The data to train and monitor a head on: rows of one table, memory-mapped."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import torch
from torch import Tensor

from clipaffect.config.training import Recipe
from clipaffect.core.errors import UserError
from clipaffect.core.frame_status import KEYS
from clipaffect.core.tasks import NOT_ANNOTATED, Task
from clipaffect.features.build_table import label_array, rows_of, table_features
from clipaffect.features.columns import first_not_finite, not_finite


@dataclass(frozen=True)
class Split:
    """One split of a table.

    Attributes:
        rows: its frames with a face: group, video, person, frame.
        features: (n, d) float16; a view of the memory-mapped file, read as it is used.
        labels: (n, 1) or (n, 12) int8; -1 is not annotated.
    """

    rows: pd.DataFrame
    features: torch.Tensor
    labels: torch.Tensor


def read_split(table: Path, task: Task, split: str, fold: int = 0) -> Split:
    """The usable rows of the training or validation split of a table (or of one of its folds).

    Rows are sorted by split, so a split's features are one slice of the file: 1.36 million of them
    cost no memory but the pages that are read. The training rows of a fold lie on both sides of
    its validation rows; their features are copied (1.5 kB a row of 768).
    """
    found = rows_of(table, ["feature_row", "group", *KEYS, *task.columns], split, fold)
    found = found.filter(pc.greater_equal(found["feature_row"], 0))
    at = found["feature_row"].to_numpy()
    # Copy on write: torch warns of memory that it may not write to.
    features = table_features(table)
    start = int(at[0]) if len(at) else 0
    in_one_piece = not len(at) or int(at[-1]) - start + 1 == len(at)
    own = features[start : start + len(at)] if in_one_piece else features[at]
    return Split(
        found.select(["group", *KEYS]).to_pandas(),
        torch.from_numpy(own),
        torch.from_numpy(label_array(found, task)),
    )


DRAWS = 500  # of held-out videos, until one has every class on both sides
ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class TrainingData:
    """Rows of a table.

    Attributes:
        features: (N, d) float16 of the training split, memory-mapped.
        labels: (N, 1 or 12) int8; -1 is not annotated.
        rows: (n,) the training rows that move the weights.
        inner: (m,) the training rows held out to choose the epoch; empty for the last epoch.
        validation: the split whose score is watched, never used.
    """

    features: Tensor
    labels: Tensor
    rows: np.ndarray
    inner: np.ndarray
    validation: Split


def training_data(train: Split, validation: Split, task: Task, recipe: Recipe) -> TrainingData:
    """Choose the rows that a recipe trains on, and the rows that it holds out.

    Raises:
        UserError: no held-out choice of whole videos leaves every class to train on, or
            ``drop_incomplete_rows`` leaves too few frames or a class that never occurs.
    """
    usable = np.ones(len(train.labels), bool)
    if task.multilabel and recipe.drop_incomplete_rows:
        usable = (train.labels.numpy() != NOT_ANNOTATED).all(axis=1)
        if not usable.all():
            where = "the frames with every unit annotated (training.drop_incomplete_rows)"
            check_trainable(train.labels.numpy()[usable], task, where)
    held = np.zeros(len(train.labels), bool)
    if recipe.select_on == "inner":
        held = inner_rows(train, usable, task, recipe.inner_share)
    rows, inner = np.flatnonzero(usable & ~held), np.flatnonzero(held)
    return TrainingData(train.features, train.labels, rows, inner, validation)


def inner_rows(train: Split, usable: np.ndarray, task: Task, share: float) -> np.ndarray:
    """(N,) bool: frames of the whole groups (people, source videos) that are held out.

    ``_left`` and ``_right`` are two people of one video, so both go with it. The draw is the same
    for every head: it does not depend on the head's seed. Of many draws that leave every class in
    the ``usable`` frames to train on, the first that holds out the most classes is taken.

    Raises:
        UserError: no draw leaves every class to train on.
    """
    names, code = np.unique(train.rows["group"].to_numpy().astype(str), return_inverse=True)
    count = max(1, round(share * len(names)))
    rng = np.random.default_rng(0)
    labels = train.labels.numpy()
    shows = _shown_by_video(labels, code, len(names), task)
    teaches = _shown_by_video(labels[usable], code[usable], len(names), task)
    best, most = None, 0
    for _ in range(DRAWS):
        held = np.zeros(len(names), bool)
        held[rng.permutation(len(names))[:count]] = True
        classes = int(shows[held].any(axis=0).sum())
        if teaches[~held].any(axis=0).all() and classes > most:
            best, most = held, classes
            if most == len(task.targets):
                break
    if best is None:
        raise UserError(
            f"holding out {count} of {len(names)} training people or videos leaves no training "
            f"frames for some class of {task.name}",
            where="training.select_on",
            fix="set select_on: last, decrease inner_share, or add videos",
        )
    return best[code]


def _shown_by_video(labels: np.ndarray, code: np.ndarray, videos: int, task: Task) -> np.ndarray:
    """(videos, targets): whether a video shows each class or unit."""
    shows = np.zeros((videos, len(task.targets)), bool)
    for index in range(len(task.targets)):
        found = labels[:, index] == 1 if task.multilabel else labels[:, 0] == index
        shows[np.unique(code[found]), index] = True
    return shows


def targets_shown(labels: np.ndarray, task: Task) -> np.ndarray:
    """(targets,) bool: whether any of the labels (N, 1 or 12) shows each class or unit."""
    shown: np.ndarray = _shown_by_video(labels, np.zeros(len(labels), np.int64), 1, task)[0]
    return shown


def data_digest(train: Split, validation: Split) -> str:
    """sha256 of all data that a head and its history depend on.

    Raises:
        UserError: a feature is not finite.
    """
    sha = hashlib.sha256()
    for name, split in (("train", train), ("validation", validation)):
        sha.update(f"{name} {tuple(split.features.shape)}".encode())
        for start in range(0, len(split.features), ROWS_AT_ONCE):
            part = split.features[start : start + ROWS_AT_ONCE].numpy()
            damaged = first_not_finite(part)
            if damaged is not None:
                fix = "check the encoder's weights and precision, then rebuild the table"
                raise not_finite(split.rows.iloc[start + damaged], f"the table, split {name}", fix)
            sha.update(part.data)
        sha.update(split.labels.numpy().data)
        sha.update("\0".join(split.rows["group"].astype(str)).encode())
    return sha.hexdigest()


def check_trainable(labels: np.ndarray, task: Task, where: str = "") -> None:
    """Reject training labels (N, 1 or 12) that cannot train a head.

    Raises:
        UserError: no frame with a face, or a class that never occurs; ``where`` names which frames
            were looked at.
    """
    where = where or f"the {task.name} table, split train"
    if len(labels) < 2:  # BatchNorm needs two
        raise UserError(
            f"too few training frames of {task.name} with both a label and a face: {len(labels)}",
            where=where,
            fix="check the statuses in its rows.parquet, which docs/outcomes.md explains",
        )
    for name, present in zip(task.targets, targets_shown(labels, task), strict=True):
        if not present:
            raise UserError(
                f"no training frame shows {name}",
                where=where,
                fix="add videos that show it: a head cannot learn what it never sees",
            )


def batches(rows: np.ndarray, size: int, seed: int, epoch: int) -> list[Tensor]:
    """Row numbers of each batch, shuffled by seed and epoch alone.

    A last batch of one row would have no variance for BatchNorm: it joins the one before.
    """
    order = torch.from_numpy(rows[np.random.default_rng((seed, epoch)).permutation(len(rows))])
    starts = list(range(0, len(rows), size))
    if len(starts) > 1 and len(rows) - starts[-1] == 1:
        starts.pop()
    return [order[a:b] for a, b in zip(starts, [*starts[1:], len(rows)], strict=True)]
