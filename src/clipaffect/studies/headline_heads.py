"""Apply the headline heads of a run to the frames of a study."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor, nn

from clipaffect.config.training import Training
from clipaffect.core.layout import Layout
from clipaffect.core.metrics import decide
from clipaffect.core.tasks import Task
from clipaffect.evaluation.person_counts import cluster_counts
from clipaffect.training.history import probabilities, spread
from clipaffect.training.mlp_head import evaluator
from clipaffect.training.train_heads import finished_heads, load_head


def headline_heads(
    folder: Path, settings: Training, task: Task, fold: int, inputs: int
) -> Iterator[tuple[int, nn.Module]]:
    """The finished heads of the grid at the headline's alpha, by seed, in evaluation mode.

    Args:
        folder: ``results/<run>``.
        settings: the run's ``training`` section.
        task: the task.
        fold: whose validation rows they were not trained on; 0 where there are no folds.
        inputs: feature dimension.
    """
    folders = [Layout(folder).heads(task.name, p).folder for p in range(settings.parts)]
    listed = finished_heads(folders)
    chosen = listed[
        (listed["status"] == "ok")
        & (listed["variant"] == "")
        & (listed["fold"] == fold)
        & (listed["alpha"] == settings.headline_alpha)
    ]
    for _, row in chosen.iterrows():
        yield int(row["seed"]), load_head(row, task, settings, inputs)


def head_counts(
    head: nn.Module, features: Tensor, labels: np.ndarray, groups: np.ndarray, task: Task
) -> pd.DataFrame:
    """Each person's counts (see ``cluster_counts``) of a head's decisions on features (n, d)."""
    scores = probabilities(evaluator(head), features, np.arange(len(labels)), task)
    return cluster_counts(labels, decide(scores, task), groups, task)


def spread_over_people(rows: pd.DataFrame, count: int) -> np.ndarray:
    """Positions of at most ``count`` rows of each ``group``, evenly spread, in order."""
    groups = rows.reset_index(drop=True).groupby("group", observed=True, sort=True).indices
    return np.sort(np.concatenate([own[spread(count, len(own))] for own in groups.values()]))
