"""Stage ``evaluation``: frame scores and tidy tables of every head and reference of one task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
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
from clipaffect.evaluation.missing import plan_scores
from clipaffect.evaluation.references import constant_scores, probe_scores
from clipaffect.table import KEYS, Split, read_annotated, read_split
from clipaffect.tables import read_frame, write_batches, write_frame, write_text
from clipaffect.tasks import TASKS, Task, TaskName
from clipaffect.training.data import check_trainable
from clipaffect.training.history import probabilities
from clipaffect.training.learner import evaluator
from clipaffect.training.stage import load_heads


@dataclass(frozen=True)
class Scored:
    """Probabilities (n, targets) of one method on the validation split."""

    method: str
    encoder: str
    scores: np.ndarray
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
            ("video", pa.string()),
            ("person", pa.string()),
            ("frame", pa.int32()),
            ("scores", pa.list_(pa.float32(), len(task.targets))),
        ]
    )


def _read_splits(table: Path, task: Task) -> tuple[Split, Split]:
    """The training and validation split of a table, both fit for use."""
    train, validation = (read_split(table, task, split) for split in ("train", "validation"))
    check_trainable(train.labels.numpy(), task)
    if not len(validation.labels):
        raise UserError(
            f"no validation frame of {task.name} has both a label and a face",
            where=table,
            mend="see the statuses in its rows.parquet; docs/outcomes.md explains them",
        )
    return train, validation


def fit_references(table: Path, task_name: TaskName, encoder: str, probe: Probe, out: Path) -> None:
    """Write the linear probe's scores on one encoder's features to ``out``."""
    torch.set_num_threads(1)
    task = TASKS[task_name]
    train, validation = _read_splits(table, task)
    scored = Scored("linear_probe", encoder, probe_scores(train, validation, task, probe))
    write_batches(out, score_schema(task), [_score_table(scored, validation.rows, task)], 65536)


def _score_table(scored: Scored, rows: pd.DataFrame, task: Task) -> pa.Table:
    rows = rows[KEYS]
    keys = {
        "method": scored.method,
        "encoder": scored.encoder,
        "variant": scored.variant,
        "alpha": scored.alpha,
        "seed": scored.seed,
    }
    frame = rows.assign(**keys)[[*keys, *rows.columns]]
    values = pa.array(scored.scores.astype(np.float32).ravel())
    column = pa.FixedSizeListArray.from_arrays(values, len(task.targets))
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return table.append_column("scores", column).cast(score_schema(task))


def _tidy(scored: Scored, labels: np.ndarray, task: Task) -> Iterator[dict[str, Any]]:
    base = {
        "task": task.name,
        "method": scored.method,
        "encoder": scored.encoder,
        "variant": scored.variant,
        "alpha": scored.alpha,
        "seed": scored.seed,
        "split": "validation",
    }
    decisions = decide(scored.scores, task)
    f1 = f1_per_target(labels, decisions, task)
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
    task_name: TaskName,
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
        table: of that encoder.
        bundles: every part of the grid.
        references: score tables of ``fit_references``, one an encoder.
    """
    torch.set_num_threads(1)
    task = TASKS[task_name]
    train, validation = _read_splits(table, task)
    annotated, every_label = read_annotated(table, task, "validation")
    plan = plan_scores(annotated, validation.rows, missing)
    scored_rows, labels = annotated.iloc[plan.kept], every_label[plan.kept]
    listed = pd.concat([read_frame(bundle / "heads.parquet") for bundle in bundles])
    listed = listed.sort_values(["variant", "alpha", "seed"], ignore_index=True)
    every = np.arange(len(validation.labels))
    grid = {row["head"]: row for row in listed.to_dict("records")}
    metrics: list[dict[str, Any]] = []

    def methods() -> Iterator[Scored]:
        constant = constant_scores(train, len(labels), task)
        yield Scored("all_positive" if task.multilabel else "constant", "", constant)
        for bundle in bundles:
            inputs = validation.features.shape[1]
            for name, head in load_heads(bundle, task, settings, inputs).items():
                scores = probabilities(evaluator(head), validation.features, every, task)
                scores = plan.apply(scores)
                row = grid[name]
                yield Scored("head", encoder, scores, row["variant"], row["alpha"], row["seed"])

    def tables() -> Iterator[pa.Table]:
        for scored in methods():
            metrics.extend(_tidy(scored, labels, task))
            yield _score_table(scored, scored_rows, task)

    write_batches(out / "scores.parquet", score_schema(task), tables(), 65536)
    for path in references:
        # Another encoder's rows are the same frames: the crops are shared, so are their statuses.
        frame = read_frame(path)
        scores = plan.apply(np.stack(frame["scores"].to_list()))
        scored = Scored(str(frame["method"].iloc[0]), str(frame["encoder"].iloc[0]), scores)
        metrics.extend(_tidy(scored, labels, task))
    tidy = pd.DataFrame(metrics).sort_values(
        ["method", "encoder", "variant", "alpha", "seed", "metric"],
        kind="stable",
        ignore_index=True,
    )
    write_frame(out / "metrics.parquet", tidy)
    write_frame(out / "heads.parquet", listed)
    counts = {
        "missing": missing,
        "annotated": len(annotated),
        "with_crop": int(plan.own.sum()),
        "filled": int((~plan.own).sum()),
        "left_out": len(annotated) - len(plan.kept),
        "support": task.frames_showing(pd.DataFrame(labels, columns=list(task.columns))),
    }
    write_text(out / "frames.json", json.dumps(counts, indent=2) + "\n")
