"""Stage ``evaluation``: frame scores and tidy tables of every head and reference of one task.

Under k-fold evaluation every frame is scored by heads that were trained on the other folds. Rows of
``fold`` 0 are over the frames of all folds together (pooled); the folds' own rows stand beside.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from clipaffect.config.models import Missing, Probe
from clipaffect.config.training import Training
from clipaffect.errors import UserError
from clipaffect.evaluation.metrics import accuracy, confusion, decide, f1_per_target
from clipaffect.evaluation.missing import ScorePlan, plan_scores
from clipaffect.evaluation.references import constant_scores, probe_scores
from clipaffect.outcomes import Outcome
from clipaffect.splits import TRAIN, VALIDATION
from clipaffect.table import KEYS, Split, folds_of, read_annotated, read_split
from clipaffect.tables import read_frame, write_batches, write_frame, write_text
from clipaffect.tasks import Task
from clipaffect.training.data import check_trainable
from clipaffect.training.history import probabilities
from clipaffect.training.learner import evaluator
from clipaffect.training.stage import finished_heads, load_head


@dataclass(frozen=True)
class Fold:
    """The validation rows of one fold, and what they are scored from.

    Attributes:
        number: 0 where there are no folds.
        annotated: how many rows have a label.
        rows: (n,) those that get a score: video, person, frame.
        labels: (n, 1) or (n, targets) int8.
        plan: from the rows with a crop to these.
        features: (m, d) of the rows with a crop.
        trained: labels of the training rows.
    """

    number: int
    annotated: int
    rows: pd.DataFrame
    labels: np.ndarray
    plan: ScorePlan
    features: torch.Tensor
    trained: np.ndarray


@dataclass(frozen=True)
class Scored:
    """Probabilities (n, targets) of one method on the validation rows, by fold."""

    method: str
    encoder: str
    scores: dict[int, np.ndarray]
    variant: str = ""
    alpha: float = float("nan")
    seed: int = -1


def score_schema(task: Task) -> pa.Schema:
    """Columns of ``scores/<task>.parquet``."""
    return pa.schema(
        [
            ("method", pa.string()),
            ("encoder", pa.string()),
            ("variant", pa.string()),
            ("alpha", pa.float64()),
            ("seed", pa.int32()),
            ("fold", pa.int32()),
            ("video", pa.string()),
            ("person", pa.string()),
            ("frame", pa.int32()),
            ("scores", pa.list_(pa.float32(), len(task.targets))),
        ]
    )


def _check(trained: np.ndarray, validation: Split, task: Task, table: Path) -> None:
    check_trainable(trained, task)
    if not len(validation.labels):
        raise UserError(
            f"no validation frame of {task.name} has both a label and a face",
            where=table,
            mend="see the statuses in its rows.parquet; docs/outcomes.md explains them",
        )


def _read_fold(table: Path, task: Task, missing: Missing, number: int) -> Fold:
    rows, labels = read_annotated(table, task, TRAIN, number)
    trained = labels[(rows["status"] == Outcome.OK).to_numpy()]
    validation = read_split(table, task, VALIDATION, number)
    _check(trained, validation, task, table)
    annotated, labels = read_annotated(table, task, VALIDATION, number)
    plan = plan_scores(annotated, validation.rows, missing)
    kept = annotated.iloc[plan.kept][KEYS]
    return Fold(number, len(annotated), kept, labels[plan.kept], plan, validation.features, trained)


def _of_reference(
    frame: pd.DataFrame, table: Path, task: Task, missing: Missing, fold: Fold
) -> tuple[Fold, np.ndarray]:
    """A fold as a reference scores it: imported features may be there for other frames."""
    frame = frame[frame["fold"] == fold.number]
    annotated, labels = read_annotated(table, task, VALIDATION, fold.number)
    known = frame[KEYS].astype({name: annotated[name].dtype for name in KEYS})
    plan = plan_scores(annotated, known, missing)
    rows = annotated.iloc[plan.kept][KEYS]
    scored = replace(fold, rows=rows, labels=labels[plan.kept], plan=plan)
    return scored, plan.apply(np.stack(frame["scores"].to_list()))


def fit_references(table: Path, task: Task, encoder: str, probe: Probe, out: Path) -> None:
    """Write the linear probe's scores on one encoder's features to ``out``."""
    torch.set_num_threads(1)

    def tables() -> Iterator[pa.Table]:
        for fold in folds_of(table):
            train, validation = (read_split(table, task, s, fold) for s in (TRAIN, VALIDATION))
            _check(train.labels.numpy(), validation, task, table)
            scores = {fold: probe_scores(train, validation, task, probe)}
            yield _score_table(Scored("linear_probe", encoder, scores), fold, validation.rows, task)

    write_batches(out, score_schema(task), tables(), 65536)


def _score_table(scored: Scored, fold: int, rows: pd.DataFrame, task: Task) -> pa.Table:
    rows = rows[KEYS]
    keys = {
        "method": scored.method,
        "encoder": scored.encoder,
        "variant": scored.variant,
        "alpha": scored.alpha,
        "seed": scored.seed,
        "fold": fold,
    }
    frame = rows.assign(**keys)[[*keys, *rows.columns]]
    values = pa.array(scored.scores[fold].astype(np.float32).ravel())
    column = pa.FixedSizeListArray.from_arrays(values, len(task.targets))
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return table.append_column("scores", column).cast(score_schema(task))


def _tidy(scored: Scored, folds: list[Fold], task: Task) -> Iterator[dict[str, Any]]:
    """Metrics over all folds together, unless one of them has no score, and of each fold."""
    own = [fold for fold in folds if fold.number in scored.scores]
    if len(own) == len(folds):
        labels = np.concatenate([fold.labels for fold in folds])
        scores = np.concatenate([scored.scores[fold.number] for fold in folds])
        yield from _metrics(scored, 0, labels, scores, task)
    for fold in own:
        if fold.number:
            scores = scored.scores[fold.number]
            yield from _metrics(scored, fold.number, fold.labels, scores, task)


def _metrics(
    scored: Scored, fold: int, labels: np.ndarray, scores: np.ndarray, task: Task
) -> Iterator[dict[str, Any]]:
    base = {
        "task": task.name,
        "method": scored.method,
        "encoder": scored.encoder,
        "variant": scored.variant,
        "alpha": scored.alpha,
        "seed": scored.seed,
        "fold": fold,
        "split": "validation",
    }
    decisions = decide(scores, task)
    f1 = f1_per_target(labels, decisions, task)
    yield base | {"metric": "frames", "target": "", "value": float(len(labels))}
    yield base | {"metric": "macro_f1", "target": "", "value": float(f1.mean())}
    yield base | {"metric": "accuracy", "target": "", "value": accuracy(labels, decisions)}
    for name, value in zip(task.targets, f1, strict=True):
        yield base | {"metric": "f1", "target": name, "value": float(value)}
    for position, count in np.ndenumerate(confusion(labels, decisions, task)):
        if task.multilabel:
            target = f"{task.targets[position[0]]}:{position[1]}>{position[2]}"
        else:
            target = f"{task.targets[position[0]]}>{task.targets[position[1]]}"
        yield base | {"metric": "count", "target": target, "value": float(count)}


def evaluate_heads(
    settings: Training,
    missing: Missing,
    encoder: str,
    task: Task,
    table: Path,
    bundles: list[Path],
    references: list[Path],
    out: Path,
) -> None:
    """Write ``scores.parquet``, ``metrics.parquet`` and ``heads.parquet`` of a task to ``out``.

    And ``frames.json``: how many annotated validation frames are scored by a crop of their own,
    filled, and left out; and ``support``, the scored frames that show each class or unit.

    Args:
        settings: the ``training`` section.
        missing: what is done with annotated frames without a crop.
        encoder: the one that the heads were trained on.
        task: the task.
        table: of that encoder.
        bundles: every part of the grid.
        references: score tables of ``fit_references``, one an encoder.
        out: a folder.
    """
    torch.set_num_threads(1)
    folds = [_read_fold(table, task, missing, number) for number in folds_of(table)]
    listed = finished_heads(bundles)
    metrics: list[dict[str, Any]] = []

    def methods() -> Iterator[Scored]:
        constant = {f.number: constant_scores(f.trained, len(f.rows), task) for f in folds}
        yield Scored("all_positive" if task.multilabel else "constant", "", constant)
        finished = listed[listed["status"] == "ok"]
        keys = ["variant", "alpha", "seed"]
        for (variant, alpha, seed), own in finished.groupby(keys, dropna=False, sort=False):
            scores = {}
            for fold in folds:
                for _, row in own[own["fold"] == fold.number].iterrows():
                    head = load_head(row, task, settings, fold.features.shape[1])
                    every = np.arange(len(fold.features))
                    found = probabilities(evaluator(head), fold.features, every, task)
                    scores[fold.number] = fold.plan.apply(found)
            yield Scored("head", encoder, scores, variant, alpha, seed)

    def tables() -> Iterator[pa.Table]:
        for scored in methods():
            metrics.extend(_tidy(scored, folds, task))
            for fold in folds:
                if fold.number in scored.scores:
                    yield _score_table(scored, fold.number, fold.rows, task)

    write_batches(out / "scores.parquet", score_schema(task), tables(), 65536)
    for path in references:
        frame = read_frame(path)
        own = [_of_reference(frame, table, task, missing, fold) for fold in folds]
        scores = {fold.number: found for fold, found in own}
        scored = Scored(str(frame["method"].iloc[0]), str(frame["encoder"].iloc[0]), scores)
        metrics.extend(_tidy(scored, [fold for fold, _ in own], task))
    tidy = pd.DataFrame(metrics).sort_values(
        ["method", "encoder", "variant", "alpha", "seed", "fold", "metric"],
        kind="stable",
        ignore_index=True,
    )
    write_frame(out / "metrics.parquet", tidy)
    write_frame(out / "heads.parquet", listed.drop(columns="bundle"))
    labels = np.concatenate([fold.labels for fold in folds])
    own_crop = np.concatenate([fold.plan.own for fold in folds])
    annotated = sum(fold.annotated for fold in folds)
    counts = {
        "missing": missing,
        "annotated": annotated,
        "with_crop": int(own_crop.sum()),
        "filled": int((~own_crop).sum()),
        "left_out": annotated - len(labels),
        "folds": [fold.number for fold in folds if fold.number],
        "support": task.frames_showing(pd.DataFrame(labels, columns=list(task.columns))),
    }
    write_text(out / "frames.json", json.dumps(counts, indent=2) + "\n")
