"""Counts of each person (or source video): all that macro F1 needs to know of them.

F1 of a class is 2 TP / (2 TP + FP + FN); over any set of people the three counts add up. So a
bootstrap over people never looks at a frame.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from clipaffect.tasks import NOT_ANNOTATED, Task

COUNTS = ("hits", "false_alarms", "misses")  # TP, FP, FN
NOTHING = pd.DataFrame(columns=["group", "target", *COUNTS, "annotated"])


def cluster_counts(
    labels: np.ndarray, decisions: np.ndarray, groups: np.ndarray, task: Task
) -> pd.DataFrame:
    """Columns group, target, hits, false_alarms, misses, annotated: a row a group and target.

    ``annotated`` counts the frames that were asked about the target.

    Args:
        labels: (n, 1) class numbers or (n, targets) bits; -1 is not annotated and counts nothing.
        decisions: like ``labels``.
        groups: (n,) the person or source video of each frame.
        task: the task.
    """
    if task.multilabel:
        truth, said, known = labels == 1, decisions == 1, labels != NOT_ANNOTATED
    else:
        classes = np.arange(len(task.targets))
        truth, said = labels == classes, decisions == classes
        known = np.ones_like(truth)
    names, code = np.unique(groups.astype(str), return_inverse=True)
    columns = {}
    for name, cells in zip(COUNTS, (truth & said, ~truth & said, truth & ~said), strict=True):
        sums = [np.bincount(code, column, len(names)) for column in (cells & known).T]
        columns[name] = np.stack(sums, axis=1).ravel().astype(np.int64)
    asked = np.stack([np.bincount(code, column, len(names)) for column in known.T], axis=1)
    columns["annotated"] = asked.ravel().astype(np.int64)
    keys = {
        "group": np.repeat(names, len(task.targets)),
        "target": np.tile(task.targets, len(names)),
    }
    return pd.DataFrame(keys | columns)


def count_array(
    counts: pd.DataFrame,
    groups: list[str],
    targets: tuple[str, ...],
    columns: tuple[str, ...] = COUNTS,
) -> np.ndarray:
    """(groups, targets, columns) float64 of one method's rows; a group that is not there has 0."""
    found = np.zeros((len(groups), len(targets), len(columns)))
    at = pd.Index(groups).get_indexer(counts["group"])
    target = pd.Index(targets).get_indexer(counts["target"])
    found[at, target] = counts[list(columns)].to_numpy(float)
    return found
