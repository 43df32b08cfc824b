"""Stage ``references``: scores of the references, the linear probe and zero-shot CLIP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import torch

from clipaffect.config.models import Probe
from clipaffect.core.parquet import write_batches
from clipaffect.core.setting import Setting
from clipaffect.core.split_names import TRAIN, VALIDATION
from clipaffect.core.tasks import Task
from clipaffect.evaluation.fold_data import (
    Scored,
    check_scorable,
    score_schema,
    score_table,
)
from clipaffect.evaluation.references import probe_scores, zero_shot_scores
from clipaffect.features.build_table import folds_of
from clipaffect.training.data import read_split


def fit_references(
    table: Path,
    task: Task,
    encoder: str,
    probe: Probe,
    prompts: dict[str, torch.Tensor] | None,
    out: Path,
) -> None:
    """Write the scores of the references on one encoder's features to ``out``.

    These are the linear probe and, if there are prompt features, zero-shot CLIP.
    """
    torch.set_num_threads(1)

    def tables() -> Iterator[pa.Table]:
        for fold in folds_of(table):
            train, validation = (read_split(table, task, s, fold) for s in (TRAIN, VALIDATION))
            check_scorable(train.labels.numpy(), validation, task, table)
            scores = {fold: probe_scores(train, validation, task, probe)}
            scored = Scored(Setting("linear_probe", encoder), scores)
            yield score_table(scored, fold, validation.rows, task)
            if prompts is not None:
                scores = {fold: zero_shot_scores(validation.features, prompts)}
                scored = Scored(Setting("zero_shot", encoder), scores)
                yield score_table(scored, fold, validation.rows, task)

    write_batches(out, score_schema(task), tables(), 65536)
