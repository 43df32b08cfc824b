"""Stage ``references``: scores of the references, the linear probe and zero-shot CLIP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from clipaffect.config.models import Probe
from clipaffect.config.training import Recipe
from clipaffect.core.files import write_text
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
from clipaffect.evaluation.references import fit_probe, zero_shot_scores
from clipaffect.features.build_table import folds_of
from clipaffect.training.data import read_split, training_data


def fit_references(
    table: Path,
    task: Task,
    encoder: str,
    probe: Probe,
    recipe: Recipe,
    prompts: dict[str, torch.Tensor] | None,
    out: Path,
) -> None:
    """Write the scores of the references on one encoder's features to ``out``.

    These are the linear probe and, if there are prompt features, zero-shot CLIP. How the probe was
    fitted is written next to it, as ``.json``.

    Args:
        table: labels and features.
        task: the task.
        encoder: whose features these are.
        probe: how the linear probe is fitted.
        recipe: which training frames heads are trained on; the probe gets the same.
        prompts: see ``prompt_features``.
        out: a Parquet file.
    """
    torch.set_num_threads(1)
    fits: dict[str, dict[str, Any]] = {}

    def tables() -> Iterator[pa.Table]:
        for fold in folds_of(table):
            train, validation = (read_split(table, task, s, fold) for s in (TRAIN, VALIDATION))
            check_scorable(train.labels.numpy(), validation, task, table)
            rows = training_data(train, validation, task, recipe).rows
            found = fit_probe(train, rows, validation, task, probe)
            fits[str(fold)] = {k: v for k, v in vars(found).items() if k != "scores"}
            scored = Scored(Setting("linear_probe", encoder), {fold: found.scores})
            yield score_table(scored, fold, validation.rows, task)
            if prompts is not None:
                scores = {fold: zero_shot_scores(validation.features, prompts)}
                scored = Scored(Setting("zero_shot", encoder), scores)
                yield score_table(scored, fold, validation.rows, task)

    write_batches(out, score_schema(task), tables(), 65536)
    write_text(
        out.with_suffix(".json"), json.dumps({"encoder": encoder, "folds": fits}, indent=2) + "\n"
    )
