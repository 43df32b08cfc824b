"""Stage ``evaluation``: frame scores and tidy tables of every head and reference of one task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from clipaffect.config.models import Missing
from clipaffect.config.training import Training
from clipaffect.core.files import read_json, write_text
from clipaffect.core.layout import Evaluation, Heads
from clipaffect.core.metrics import decide
from clipaffect.core.parquet import read_table, write_batches, write_table
from clipaffect.core.setting import Setting, known_alpha
from clipaffect.core.tasks import Task
from clipaffect.evaluation.fold_data import (
    Fold,
    Scored,
    named_counts,
    read_fold,
    read_scores,
    rows_of_reference,
    score_schema,
    score_table,
)
from clipaffect.evaluation.metrics_table import pooled, tidy_rows
from clipaffect.evaluation.person_counts import cluster_counts
from clipaffect.evaluation.references import constant_scores
from clipaffect.features.build_table import folds_of
from clipaffect.training.history import probabilities
from clipaffect.training.mlp_head import evaluator
from clipaffect.training.train_heads import finished_heads, load_head

REFERENCES = ("linear_probe", "zero_shot")
LAST_EPOCHS = 5
GRID = ["variant", "alpha", "fold"]
ORDER = ["method", "encoder", "variant", "alpha", "seed"]


def evaluate_heads(
    settings: Training,
    missing: Missing,
    encoder: str,
    task: Task,
    table: Path,
    folders: list[Path],
    references: list[Path],
    copies: Path,
    out: Path,
) -> None:
    """Write the predictions and the metrics of all heads and references of a task to ``out``.

    ``scores.parquet`` has the probabilities, ``rows.parquet`` the labels of the frames that they
    are of, ``metrics.parquet`` the tidy table, ``clusters.parquet`` each person's counts,
    ``heads.parquet`` a row for each head; ``references.json`` how the linear probes were fitted;
    ``frames.json`` how many annotated validation frames are
    scored from their own crop, filled or left out, and how many show each class or unit.

    Args:
        settings: the ``training`` section.
        missing: what is done with annotated frames without a crop.
        encoder: the one that the heads were trained on.
        task: the task.
        table: of that encoder.
        folders: of the heads, one for each part of the grid.
        references: score tables of ``fit_references``, one an encoder.
        copies: recordings that are in two splits (``find_copies``); scores are given with and
            without them.
        out: a folder.
    """
    torch.set_num_threads(1)
    copied = read_table(copies)
    folds = [read_fold(table, task, missing, number) for number in folds_of(table)]
    listed = finished_heads(folders)
    metrics: list[dict[str, Any]] = []
    clusters: list[pd.DataFrame] = []

    def methods() -> Iterator[tuple[Scored, list[Fold]]]:
        constant = {f.number: constant_scores(f.trained, len(f.rows), task) for f in folds}
        method = "all_positive" if task.multilabel else "constant"
        yield Scored(Setting(method), constant), folds
        yield from ((scored, folds) for scored in _heads(listed, settings, encoder, task, folds))
        for path in references:
            for method in REFERENCES:
                frame, found = read_scores(path, method=method)
                if frame.empty:
                    continue
                own = [
                    rows_of_reference(frame, found, table, task, missing, fold) for fold in folds
                ]
                scores = {fold.number: values for fold, values in own}
                name = str(frame["encoder"].iloc[0])
                yield Scored(Setting(method, name), scores), [fold for fold, _ in own]

    def tables() -> Iterator[pa.Table]:
        for scored, own in methods():
            metrics.extend(tidy_rows(scored, own, task, copied))
            clusters.extend(_clusters(scored, own, task))
            for fold in own:
                if fold.number in scored.scores:
                    yield score_table(scored, fold.number, fold.rows, task)

    files = Evaluation(out)
    write_batches(files.scores, score_schema(task), tables(), 65536)
    tidy = pd.DataFrame(metrics).sort_values(
        [*ORDER, "fold", "metric"], kind="stable", ignore_index=True
    )
    write_table(files.metrics, tidy)
    counts = pd.concat(clusters).sort_values(ORDER, kind="stable", ignore_index=True)
    write_table(files.person_counts, counts)
    last = last_epochs(pd.concat([read_table(Heads(path).history) for path in folders]))
    write_table(files.heads, listed.drop(columns="folder").merge(last, on=GRID, how="left"))
    fits = [read_json(path.with_suffix(".json")) for path in references]
    by_encoder = {own["encoder"]: own["folds"] for own in fits}
    write_text(files.reference_fits, json.dumps(by_encoder, indent=2) + "\n")
    _write_rows(folds, task, missing, files)


def last_epochs(history: pd.DataFrame) -> pd.DataFrame:
    """How macro F1 on validation, mean over seeds, varies over the last ``LAST_EPOCHS`` epochs.

    A row for each variant, alpha and fold; columns last_epochs_count, _low and _high. They show how
    much a score depends on the epoch in which training ends; nothing is chosen by them.
    """
    by_epoch = history.groupby([*GRID, "epoch"], dropna=False)["validation_macro_f1"].mean()
    last = by_epoch.groupby(GRID, dropna=False).tail(LAST_EPOCHS)
    found = last.groupby(GRID, dropna=False).agg(["count", "min", "max"])
    found.columns = ["last_epochs_count", "last_epochs_low", "last_epochs_high"]
    return found.reset_index()


def _heads(
    listed: pd.DataFrame, settings: Training, encoder: str, task: Task, folds: list[Fold]
) -> Iterator[Scored]:
    """Every finished head, by fold."""
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
        setting = Setting("head", encoder, variant, known_alpha(alpha), seed)
        yield Scored(setting, scores)


def _clusters(scored: Scored, folds: list[Fold], task: Task) -> Iterator[pd.DataFrame]:
    """The counts of each person over all folds; none where a fold has no score."""
    together = pooled(scored, folds)
    if together is not None:
        labels, scores = together
        groups = np.concatenate([fold.rows["group"].to_numpy() for fold in folds])
        counts = cluster_counts(labels, decide(scores, task), groups, task)
        yield named_counts(scored.setting, counts)


def _write_rows(folds: list[Fold], task: Task, missing: Missing, files: Evaluation) -> None:
    columns = list(task.columns)
    rows = pd.concat(
        [
            fold.rows.astype({name: str for name in ("group", "video", "person")}).assign(
                fold=fold.number,
                own_crop=fold.plan.own,
                **dict(zip(columns, fold.labels.T, strict=True)),
            )
            for fold in folds
        ],
        ignore_index=True,
    )
    write_table(files.rows, rows)
    annotated = sum(fold.annotated for fold in folds)
    counts = {
        "missing": missing,
        "annotated": annotated,
        "with_crop": int(rows["own_crop"].sum()),
        "filled": int((~rows["own_crop"]).sum()),
        "left_out": annotated - len(rows),
        "folds": [fold.number for fold in folds if fold.number],
        "support": task.frames_showing(rows),
    }
    write_text(files.frames, json.dumps(counts, indent=2) + "\n")
