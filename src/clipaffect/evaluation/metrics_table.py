"""One row for each (method, setting, seed, fold, metric, target): ``metrics.parquet``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from clipaffect.core import metrics
from clipaffect.core.tasks import NOT_ANNOTATED, Task
from clipaffect.evaluation.fold_data import Fold, Scored, score_columns
from clipaffect.training.data import targets_shown

Row = dict[str, Any]
RANKING = ("auc", "average_precision", "macro_auc", "macro_average_precision")


def pooled(scored: Scored, folds: list[Fold]) -> tuple[np.ndarray, np.ndarray] | None:
    """Labels and scores of all folds together; None where a fold has no score."""
    if any(fold.number not in scored.scores for fold in folds):
        return None
    labels = np.concatenate([fold.labels for fold in folds])
    return labels, np.concatenate([scored.scores[fold.number] for fold in folds])


def copied_frames(rows: pd.DataFrame, copies: pd.DataFrame) -> np.ndarray:
    """(n,) bool: whether a frame is in a recording of another split, too.

    Args:
        rows: (n,) video, person and frame.
        copies: pairs of recordings, as ``find_copies`` writes them.
    """
    found = np.zeros(len(rows), bool)
    frames = rows["frame"].to_numpy()
    places = rows.groupby(["video", "person"], observed=True).indices
    for copy in copies.itertuples(index=False):
        sides = ((copy.video, copy.person, 0), (copy.other_video, copy.other_person, copy.shift))
        for video, person, shift in sides:
            own = places.get((video, person), np.zeros(0, np.int64))
            first, last = copy.first + shift, copy.last + shift
            found[own[(frames[own] >= first) & (frames[own] <= last)]] = True
    return found


def tidy_rows(scored: Scored, folds: list[Fold], task: Task, copies: pd.DataFrame) -> Iterator[Row]:
    """Metrics of each fold, and over all folds together unless one of them has no score.

    Counts of decisions are pooled. AUC and average precision of all folds are the folds' mean: the
    scores of different heads in one ranking would bias them downwards (Forman & Scholz 2010).
    """
    own: list[Row] = []
    for fold in folds:
        if fold.number and fold.number in scored.scores:
            own += _metrics(scored, fold.number, fold.labels, scored.scores[fold.number], task)
    together = pooled(scored, folds)
    if together is not None:
        for row in _metrics(scored, 0, *together, task):
            if own and row["metric"] in RANKING:
                kind = (row["metric"], row["target"])
                alike = [r["value"] for r in own if (r["metric"], r["target"]) == kind]
                row["value"] = metrics.mean_known(np.array(alike))
            yield row
        yield from _off_copies(scored, folds, task, copies, *together)
    yield from own


def _off_copies(
    scored: Scored,
    folds: list[Fold],
    task: Task,
    copies: pd.DataFrame,
    labels: np.ndarray,
    scores: np.ndarray,
) -> Iterator[Row]:
    """Macro F1 on the frames that are in another split, too, and on all others.

    It is the mean over the targets that both kinds of frames show; NaN without any.
    """
    if copies.empty:
        return
    copied = np.concatenate([copied_frames(fold.rows, copies) for fold in folds])
    decisions = metrics.decide(scores, task)
    base = {"task": task.name, **score_columns(scored.setting), "fold": 0, "split": "validation"}
    values = {"copied_frames": float(copied.sum())}
    sides = {"on": copied, "off": ~copied}
    shown = np.all([targets_shown(labels[at], task) for at in sides.values()], axis=0)
    for name, at in sides.items():
        f1 = metrics.f1_per_target(labels[at], decisions[at], task)[shown]
        values[f"macro_f1_{name}_copies"] = metrics.mean_known(f1)
    for metric, value in values.items():
        yield base | {"metric": metric, "target": "", "value": value}


def _metrics(
    scored: Scored, fold: int, labels: np.ndarray, scores: np.ndarray, task: Task
) -> Iterator[Row]:
    base = {"task": task.name, **score_columns(scored.setting), "fold": fold, "split": "validation"}

    def row(metric: str, value: float, target: str = "") -> Row:
        return base | {"metric": metric, "target": target, "value": float(value)}

    decisions = metrics.decide(scores, task)
    f1 = metrics.f1_per_target(labels, decisions, task)
    auc, precision = metrics.ranking_per_target(labels, scores, task)
    yield row("frames", len(labels))
    yield row("macro_f1", f1.mean())
    if task.multilabel:  # the published lists hold rows with every label annotated, and no others
        complete = (labels != NOT_ANNOTATED).all(axis=1)
        own = metrics.f1_per_target(labels[complete], decisions[complete], task)
        yield row("complete_frames", complete.sum())
        yield row("complete_macro_f1", own.mean())
    yield row("accuracy", metrics.accuracy(labels, decisions))
    yield row("macro_auc", metrics.mean_known(auc))
    yield row("macro_average_precision", metrics.mean_known(precision))
    bins = metrics.reliability(labels, scores, task)
    yield row("calibration_error", metrics.expected_calibration_error(bins))
    for name, *values in zip(task.targets, f1, auc, precision, strict=True):
        for metric, value in zip(("f1", "auc", "average_precision"), values, strict=True):
            yield row(metric, value, name)
    for number, (count, confidence, share) in enumerate(bins):
        if count:
            target = f"{number:02d}"
            yield row("reliability_frames", count, target)
            yield row("reliability_confidence", confidence, target)
            yield row("reliability_share", share, target)
    for position, count in np.ndenumerate(metrics.confusion(labels, decisions, task)):
        if task.multilabel:
            target = f"{task.targets[position[0]]}:{position[1]}>{position[2]}"
        else:
            target = f"{task.targets[position[0]]}>{task.targets[position[1]]}"
        yield row("count", count, target)
