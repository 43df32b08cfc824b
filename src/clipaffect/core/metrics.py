"""The challenge's metrics.

EXPR: mean of the F1 of all 8 classes; AU: mean of the positive-class F1 of all 12 units; frames
pooled over videos, not-annotated ones left out. A class that never occurs counts as 0. Annotated
frames without a face have no score; they are left out here and counted in the coverage.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from clipaffect.core.tasks import NOT_ANNOTATED, Task

THRESHOLD = 0.5  # AU decision on the probability: fixed, not tuned on what is scored
BINS = 15  # of confidence, as Guo et al. 2017


def _sklearn() -> Any:
    """Import sklearn.metrics on first use; this saves prediction 0.8 s."""
    return import_module("sklearn.metrics")


def decide(scores: np.ndarray, task: Task) -> np.ndarray:
    """Decisions from probabilities (n, targets): (n, 1) class numbers, or (n, 12) bits."""
    if task.multilabel:
        return (scores >= THRESHOLD).astype(np.int64)
    return scores.argmax(axis=1)[:, None]


def f1_per_target(labels: np.ndarray, decisions: np.ndarray, task: Task) -> np.ndarray:
    """F1 = 2 TP / (2 TP + FP + FN) (targets,) of each class, or of each unit where annotated.

    Counted here for speed, to the bit what sklearn.metrics.f1_score gives: that takes over 10 ms
    for twelve units however few the frames, twice an epoch and head.
    """
    if task.multilabel:
        shown, decided = labels == 1, (decisions == 1) & (labels != NOT_ANNOTATED)
    else:
        classes = np.arange(len(task.targets))
        shown, decided = labels == classes, decisions == classes
    doubled = 2.0 * (shown & decided).sum(axis=0)
    below = shown.sum(axis=0) + decided.sum(axis=0)
    found: np.ndarray = np.divide(doubled, below, out=np.zeros(len(below)), where=below > 0)
    return found


def accuracy(labels: np.ndarray, decisions: np.ndarray) -> float:
    """Share of annotated labels that were predicted correctly."""
    known = labels != NOT_ANNOTATED
    return float(_sklearn().accuracy_score(labels[known], decisions[known]))


def confusion(labels: np.ndarray, decisions: np.ndarray, task: Task) -> np.ndarray:
    """(8, 8) counts, rows the truth; or (12, 2, 2) for units."""
    if not task.multilabel:
        return np.asarray(
            _sklearn().confusion_matrix(
                labels[:, 0], decisions[:, 0], labels=range(len(task.targets))
            )
        )
    tables = []
    for unit in range(len(task.targets)):
        known = labels[:, unit] != NOT_ANNOTATED
        if not known.any():
            tables.append(np.zeros((2, 2), int))
            continue
        tables.append(
            _sklearn().confusion_matrix(labels[known, unit], decisions[known, unit], labels=[0, 1])
        )
    return np.array(tables)


def ranking_per_target(
    labels: np.ndarray, scores: np.ndarray, task: Task
) -> tuple[np.ndarray, np.ndarray]:
    """Area under the ROC curve and average precision (targets,), each class against the rest.

    NaN where every annotated frame shows the target or none does: there is nothing to rank.
    """
    auc, precision = np.full((2, len(task.targets)), np.nan)
    for number in range(len(task.targets)):
        known = labels[:, number if task.multilabel else 0] != NOT_ANNOTATED
        truth = labels[known, number] == 1 if task.multilabel else labels[:, 0] == number
        if truth.any() and not truth.all():
            auc[number] = _sklearn().roc_auc_score(truth, scores[known, number])
            precision[number] = _sklearn().average_precision_score(truth, scores[known, number])
    return auc, precision


def mean_known(values: np.ndarray) -> float:
    """Mean over the targets that have a value; NaN if none does."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def reliability(labels: np.ndarray, scores: np.ndarray, task: Task) -> np.ndarray:
    """(BINS, 3): decisions, their mean confidence, and the share that is right.

    Of classes: the decided one's probability, and whether it is the annotated one (Guo et al.
    2017). Of labels such as units: the probability that it is present, and whether it is, all
    labels together. Bins are of equal width; an empty one is 0.
    """
    if task.multilabel:
        known = labels != NOT_ANNOTATED
        confidence, right = scores[known], labels[known] == 1
    else:
        confidence, right = scores.max(axis=1), scores.argmax(axis=1) == labels[:, 0]
    number = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(number, minlength=BINS)
    sums = [np.bincount(number, weights, BINS) for weights in (confidence, right)]
    return np.stack([counts, *(s / np.maximum(counts, 1) for s in sums)], axis=1)


def expected_calibration_error(bins: np.ndarray) -> float:
    """Mean distance between confidence and share, over decisions (Guo et al. 2017, eq. 3)."""
    counts, confidence, share = bins.T
    return float((counts * np.abs(confidence - share)).sum() / max(1, counts.sum()))
