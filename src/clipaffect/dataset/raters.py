"""Labels by several raters: one label for each frame by majority, and the raters' own labels."""

from __future__ import annotations

import numpy as np
import pandas as pd

from clipaffect.core.frame_status import KEYS
from clipaffect.core.tasks import NOT_ANNOTATED, Task


def consensus(rows: pd.DataFrame, task: Task) -> tuple[pd.DataFrame, int]:
    """One row for each frame and person, with the label of most raters.

    Where as many raters say one thing as another, the label is not annotated.

    Args:
        rows: ``KEYS``, the columns of the task and others, a row for each rater; sorted by
            ``KEYS``. The other columns are those of the first rater.
        task: the task.

    Returns:
        The rows, and how many labels were tied.
    """
    code = rows.groupby(KEYS, sort=False, observed=True).ngroup().to_numpy()
    first = ~rows.duplicated(KEYS).to_numpy()
    labels = rows[list(task.columns)].to_numpy()
    found, ties = majority(labels, code, task)
    joined = rows[first].reset_index(drop=True)
    for place, column in enumerate(task.columns):
        joined[column] = found[:, place]
    joined["annotated"] = (found != NOT_ANNOTATED).any(axis=1)
    return joined, ties


def majority(labels: np.ndarray, code: np.ndarray, task: Task) -> tuple[np.ndarray, int]:
    """The label of most rows with one code, or ``NOT_ANNOTATED`` in a tie.

    Args:
        labels: (n, 1) classes or (n, labels) bits; -1 is not annotated.
        code: (n,) numbers from 0 without gaps.
        task: the task.

    Returns:
        (codes, 1) or (codes, labels) int8, and the number of ties.
    """
    count = int(code.max()) + 1 if len(code) else 0
    values = 2 if task.multilabel else len(task.targets)
    found = np.full((count, labels.shape[1]), NOT_ANNOTATED, np.int8)
    ties = 0
    for place in range(labels.shape[1]):
        votes = count_votes(labels[:, place], code, count, values)
        most = votes.max(axis=1, initial=0)
        tied = (votes == most[:, None]).sum(axis=1) > 1
        known = most > 0
        ties += int((tied & known).sum())
        found[:, place] = np.where(known & ~tied, votes.argmax(axis=1), NOT_ANNOTATED)
    return found, ties


def count_votes(labels: np.ndarray, code: np.ndarray, count: int, values: int) -> np.ndarray:
    """(count, values) how many rows with each code have each value; -1 is no vote."""
    known = labels != NOT_ANNOTATED
    flat = code[known].astype(np.int64) * values + labels[known]
    return np.bincount(flat, minlength=count * values).reshape(count, values)
