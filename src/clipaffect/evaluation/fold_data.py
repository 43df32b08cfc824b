"""The validation rows of a table, fold by fold, and their scores.

Under k-fold evaluation every frame is scored by heads that were trained on the other folds.
``fold`` 0 stands for the frames of all folds together (pooled), in addition to the numbers of the
single folds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from clipaffect.config.models import Missing
from clipaffect.core.errors import UserError
from clipaffect.core.frame_status import KEYS, FrameStatus
from clipaffect.core.parquet import read_arrow
from clipaffect.core.setting import Setting
from clipaffect.core.split_names import TRAIN, VALIDATION
from clipaffect.core.tasks import Task
from clipaffect.evaluation.fill_missing import ScorePlan, plan_scores
from clipaffect.features.build_table import read_annotated
from clipaffect.training.data import Split, check_trainable, read_split


@dataclass(frozen=True)
class Fold:
    """The validation rows of one fold, and what they are scored from.

    Attributes:
        number: 0 where there are no folds.
        annotated: how many rows have a label.
        rows: (n,) those that get a score: group, video, person, frame.
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
    """Probabilities (n, targets) of one setting on the validation rows, by fold."""

    setting: Setting
    scores: dict[int, np.ndarray]


def score_columns(setting: Setting) -> dict[str, str | float | int]:
    """The columns that identify a setting's rows in tables that distinguish seeds."""
    return {**setting.columns(), "seed": setting.seed}


def named_counts(setting: Setting, counts: pd.DataFrame) -> pd.DataFrame:
    """A person's counts after the columns that name the setting: rows of ``clusters.parquet``."""
    named = score_columns(setting)
    return counts.assign(**named)[[*named, *counts.columns]]


def score_schema(task: Task) -> pa.Schema:
    """Columns of ``scores.parquet``."""
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


def score_table(scored: Scored, fold: int, rows: pd.DataFrame, task: Task) -> pa.Table:
    """The rows of ``scores.parquet`` of one method and fold."""
    keys = score_columns(scored.setting) | {"fold": fold}
    frame = rows[KEYS].assign(**keys)[[*keys, *KEYS]]
    values = pa.array(scored.scores[fold].astype(np.float32).ravel())
    column = pa.FixedSizeListArray.from_arrays(values, len(task.targets))
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return table.append_column("scores", column).cast(score_schema(task))


def check_scorable(trained: np.ndarray, validation: Split, task: Task, table: Path) -> None:
    """Raise a UserError if there is nothing to train on or to score."""
    check_trainable(trained, task)
    if not len(validation.labels):
        raise UserError(
            f"no validation frame of {task.name} has both a label and a face",
            where=table,
            fix="check the statuses in its rows.parquet, which docs/outcomes.md explains",
        )


def read_fold(table: Path, task: Task, missing: Missing, number: int) -> Fold:
    """Read the validation rows of a fold, as scored from the heads' own features."""
    rows, labels = read_annotated(table, task, TRAIN, number)
    trained = labels[(rows["status"] == FrameStatus.OK).to_numpy()]
    validation = read_split(table, task, VALIDATION, number)
    check_scorable(trained, validation, task, table)
    annotated, labels = read_annotated(table, task, VALIDATION, number)
    plan = plan_scores(annotated, validation.rows, missing)
    kept = annotated.iloc[plan.kept].drop(columns="status")
    return Fold(number, len(annotated), kept, labels[plan.kept], plan, validation.features, trained)


def read_scores(path: Path, **where: str | float) -> tuple[pd.DataFrame, np.ndarray]:
    """The key columns of a table of scores, and the probabilities (n, targets) float32.

    Only rows with the given values are read: at full size the table of every method does not fit
    into memory as a data frame.
    """
    table = read_arrow(path, filters=[(k, "==", v) for k, v in where.items()] or None)
    column = table["scores"].combine_chunks()
    shape = (len(table), column.type.list_size)
    values = column.flatten().to_numpy(zero_copy_only=False).reshape(shape)
    return table.drop_columns(["scores"]).to_pandas(), values


def rows_of_reference(
    frame: pd.DataFrame, scores: np.ndarray, table: Path, task: Task, missing: Missing, fold: Fold
) -> tuple[Fold, np.ndarray]:
    """A fold as a reference scores it: imported features may cover different frames."""
    own = (frame["fold"] == fold.number).to_numpy()
    annotated, labels = read_annotated(table, task, VALIDATION, fold.number)
    known = frame.loc[own, KEYS].astype({name: annotated[name].dtype for name in KEYS})
    plan = plan_scores(annotated, known, missing)
    rows = annotated.iloc[plan.kept].drop(columns="status")
    scored = replace(fold, rows=rows, labels=labels[plan.kept], plan=plan)
    return scored, plan.apply(scores[own])
