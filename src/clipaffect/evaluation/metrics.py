"""The challenge's metrics.

EXPR: mean of the F1 of all 8 classes; AU: mean of the positive-class F1 of all 12 units; frames
pooled over videos, not-annotated ones left out. A class that never occurs counts as 0. Annotated
frames without a face have no score; they are left out here and counted in the coverage.
"""

from __future__ import annotations

import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from clipaffect.tasks import NOT_ANNOTATED, Task

THRESHOLD = 0.5  # AU decision on the probability: fixed, not tuned on what is scored


def decide(scores: np.ndarray, task: Task) -> np.ndarray:
    """Decisions from probabilities (n, targets): (n, 1) class numbers, or (n, 12) bits."""
    if task.multilabel:
        return (scores >= THRESHOLD).astype(np.int64)
    return scores.argmax(axis=1)[:, None]


def f1_per_target(labels: np.ndarray, decisions: np.ndarray, task: Task) -> np.ndarray:
    """F1 (targets,) of each class, or of each unit over the frames that annotate it."""
    if not task.multilabel:
        classes = range(len(task.targets))
        return np.asarray(
            f1_score(labels[:, 0], decisions[:, 0], labels=classes, average=None, zero_division=0)
        )
    values = []
    for unit in range(len(task.targets)):
        known = labels[:, unit] != NOT_ANNOTATED
        if not known.any():  # never annotated: it counts like a class that never occurs
            values.append(0.0)
            continue
        values.append(f1_score(labels[known, unit], decisions[known, unit], zero_division=0))
    return np.array(values)


def accuracy(labels: np.ndarray, decisions: np.ndarray) -> float:
    """Share of annotated labels that were decided right."""
    known = labels != NOT_ANNOTATED
    return float(accuracy_score(labels[known], decisions[known]))


def confusion(labels: np.ndarray, decisions: np.ndarray, task: Task) -> np.ndarray:
    """(8, 8) counts, rows the truth; or (12, 2, 2) for units."""
    if not task.multilabel:
        return np.asarray(
            confusion_matrix(labels[:, 0], decisions[:, 0], labels=range(len(task.targets)))
        )
    tables = []
    for unit in range(len(task.targets)):
        known = labels[:, unit] != NOT_ANNOTATED
        if not known.any():
            tables.append(np.zeros((2, 2), int))
            continue
        tables.append(confusion_matrix(labels[known, unit], decisions[known, unit], labels=[0, 1]))
    return np.array(tables)
