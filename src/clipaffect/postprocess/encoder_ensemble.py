"""Score a run's frames with heads on another encoder's features, to average with its own."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from clipaffect.config.training import Training
from clipaffect.core.frame_status import KEYS
from clipaffect.core.store import Store
from clipaffect.core.tasks import Task
from clipaffect.postprocess.cross_fitting import (
    CannotChoose,
    CrossFitted,
    cross_fit,
    validation_scores,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Other:
    """The predictions of another encoder's heads.

    Attributes:
        training: probabilities (S, n, targets) of the run's training rows, cross-fitted.
        validation: of its validation rows. NaN where the other encoder saw no face, or where a
            seed's head did not finish.
        heads: by seed, those that scored the validation rows.
    """

    training: np.ndarray
    validation: np.ndarray
    heads: dict[int, nn.Module]


def other_scores(
    table: Path,
    task: Task,
    fold: int,
    settings: Training,
    parts: int,
    store: Store,
    fitted: CrossFitted,
    rows: pd.DataFrame,
    seeds: list[int],
) -> Other:
    """Another encoder's scores of the training rows and of the validation rows.

    The heads are the headline's, by the run's own recipe, on that encoder's table.

    Args:
        table: of the other encoder.
        task: the task.
        fold: whose training people; 0 where there are no folds.
        settings: the ``training`` section.
        parts: of the training people.
        store: the store.
        fitted: the run's own training rows and their seeds.
        rows: the run's own validation rows.
        seeds: of their scores.
    """
    try:
        crossed = cross_fit(table, task, fold, settings, parts, store)
    except CannotChoose as error:  # the run's own scores stand, as where a head did not finish
        logger.warning("%s is left out of the average: %s", table, error.what)
        nothing = [
            np.full((len(s), len(r), len(task.targets)), np.nan, np.float32)
            for s, r in ((fitted.seeds, fitted.rows), (seeds, rows))
        ]
        return Other(nothing[0], nothing[1], {})
    there = validation_scores(table, task, fold, settings, store)
    inside = _placed(crossed.rows, crossed.scores, crossed.seeds, fitted.rows, fitted.seeds)
    outside = _placed(there.rows, there.scores, list(settings.seeds), rows, seeds)
    return Other(inside, outside, there.heads)


def _placed(
    rows: pd.DataFrame,
    scores: np.ndarray,
    seeds: list[int],
    wanted: pd.DataFrame,
    wanted_seeds: list[int],
) -> np.ndarray:
    """(S, n, targets) scores of the wanted rows and seeds; NaN for missing ones."""
    at = pd.MultiIndex.from_frame(rows[KEYS]).get_indexer(pd.MultiIndex.from_frame(wanted[KEYS]))
    found = np.full((len(wanted_seeds), len(wanted), scores.shape[2]), np.nan, np.float32)
    for index, seed in enumerate(wanted_seeds):
        if seed in seeds:
            found[index, at >= 0] = scores[seeds.index(seed), at[at >= 0]]
    return found
