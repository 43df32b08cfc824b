"""Compute the predictions of one task from face features, with the heads and steps of a bundle.

The same functions as in the evaluation score the heads and apply the steps, so a frame gets the
scores that it had in the evaluation. Smoothing uses all frames of a video here, but only annotated
frames in the evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import normalize

from clipaffect.bundle.format import Bundle, TaskModel, Thresholds
from clipaffect.core.metrics import THRESHOLD, decide
from clipaffect.postprocess.smoothing import sequences
from clipaffect.postprocess.steps import Rows, apply_steps
from clipaffect.training.history import probabilities
from clipaffect.training.mlp_head import Head, evaluator

ByFeatures = dict[str, dict[int, Head]]


@dataclass(frozen=True)
class Answers:
    """Predictions of one task for n faces.

    Attributes:
        probability: (n, targets) float32 of each class or label, behind the steps but for the
            last one's shift (``adjust``), which only moves decisions.
        decision: (n, 1) a class's number, or (n, targets) bits.
        threshold: (targets,) from which probability on a label is decided to be shown.
        spread: (n, targets) sample deviation of the heads' own scores over the seeds; NaN for one.
        final: (n, targets) behind every step: what the evaluation scores, at 0.5 or the largest.
        heads: (S, n, targets) the heads' own scores, seed by seed.
    """

    probability: np.ndarray
    decision: np.ndarray
    threshold: np.ndarray
    spread: np.ndarray
    final: np.ndarray
    heads: np.ndarray


def head_scores(
    features: torch.Tensor, heads: dict[int, Head], model: TaskModel, name: str
) -> np.ndarray:
    """Probabilities (S, n, targets) float32 of the heads on the features ``name``, seed by seed."""
    if next(own.unit for own in model.heads if own.features == name):
        features = normalize(features.float(), dim=1)
    at, task = np.arange(len(features)), model.task("")
    in_order = [evaluator(head) for _, head in sorted(heads.items())]
    return np.stack([probabilities(logits, features, at, task) for logits in in_order])


def answer(
    scores: dict[str, np.ndarray], seeds: dict[str, list[int]], rows: pd.DataFrame, model: TaskModel
) -> Answers:
    """Apply the steps of a bundle to the heads' scores.

    Args:
        scores: by features, ``head_scores`` of the same n faces.
        seeds: whose they are, by features.
        rows: columns video, person and frame of the faces.
        model: the task's part of the bundle.
    """
    own, *others = [heads.features for heads in model.heads]
    beside = {name: _of_seeds(scores[name], seeds[name], seeds[own]) for name in others}
    task = model.task("")
    at = Rows(np.zeros((len(rows), 1), np.int8), sequences(rows), task, beside)
    chosen = [(step.step, step.choice.model_dump()) for step in model.steps]
    *earlier, values = apply_steps(scores[own], chosen, at)
    # A threshold is one of the mean's only where the seeds have been averaged before.
    adjusted = bool(chosen) and chosen[-1][0] == "adjust" and len(earlier[-1]) == 1
    before = earlier[-1] if adjusted else values
    final = _one(values)
    threshold = np.full(len(model.targets), THRESHOLD)
    if adjusted and isinstance(model.steps[-1].choice, Thresholds):
        threshold = np.array(model.steps[-1].choice.thresholds)
    spread = scores[own].std(axis=0, ddof=1) if len(scores[own]) > 1 else np.nan * scores[own][0]
    return Answers(
        _one(before).astype(np.float32),
        decide(final, task),
        threshold,
        spread.astype(np.float32),
        final,
        scores[own],
    )


def answer_tasks(
    bundle: Bundle,
    heads: dict[str, ByFeatures],
    scores: dict[str, dict[str, np.ndarray]],
    rows: pd.DataFrame,
) -> dict[str, Answers]:
    """The predictions of all tasks of a bundle for the same n faces.

    Args:
        bundle: names the steps.
        heads: of each task.
        scores: ``head_scores`` of each task, by features.
        rows: columns video, person and frame of the faces.
    """
    return {
        name: answer(
            scores[name],
            {features: sorted(own) for features, own in heads[name].items()},
            rows,
            model,
        )
        for name, model in bundle.tasks.items()
    }


def _one(scores: np.ndarray) -> np.ndarray:
    """The mean over the remaining seeds, as in a submission."""
    return np.asarray(scores[0] if len(scores) == 1 else scores.mean(axis=0))


def _of_seeds(scores: np.ndarray, seeds: list[int], wanted: list[int]) -> np.ndarray:
    """Another encoder's scores for the run's own seeds; NaN for missing seeds."""
    found = np.full((len(wanted), *scores.shape[1:]), np.nan, np.float32)
    for index, seed in enumerate(wanted):
        if seed in seeds:
            found[index] = scores[seeds.index(seed)]
    return found
