"""The history of a head: what is recorded about each epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipaffect.config.training import Recipe
from clipaffect.core.metrics import decide, f1_per_target
from clipaffect.core.tasks import Task
from clipaffect.training.data import TrainingData
from clipaffect.training.sam import StepRecord

PROBES = 8  # steps of an epoch whose sharpness is measured
SAMPLE = 1024  # training frames whose largest probability is averaged
BLOCK = 1024  # rows that are scored at once, always so many
COLLAPSED = 0.1  # share of the way from the uniform answer to certainty

Row = dict[str, Any]
Logits = Callable[[Tensor], Tensor]


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """AdamW's rate in an epoch (from 0): a cosine schedule with one step per epoch.

    eta_t = eta_min + (eta_0 - eta_min) (1 + cos(pi t / T)) / 2 (Loshchilov & Hutter 2017, eq. 5)
    with T = ``cosine_share`` of the epochs; past T it climbs back, as torch's CosineAnnealingLR
    does in the published code.
    """
    period = recipe.epochs * recipe.cosine_share
    fall = (1 + np.cos(np.pi * epoch / period)) / 2
    low, high = recipe.final_learning_rate, recipe.learning_rate
    return float(low + (high - low) * fall)


def spread(count: int, size: int) -> np.ndarray:
    """At most ``count`` of ``size`` positions, evenly spread."""
    return np.unique(np.linspace(0, size - 1, count).astype(np.int64)) if size else np.arange(0)


def probe_steps(steps: int) -> set[int]:
    """The steps of an epoch at which the sharpness is measured."""
    return set(spread(PROBES, steps).tolist())


def summarise(records: list[StepRecord]) -> Row:
    """Means over the steps of an epoch that have a value."""
    columns: dict[str, list[float]] = {}
    for record in records:
        for name, value in asdict(record).items():
            columns.setdefault(name, []).append(value)
    return {name: mean_of(np.array(values)) for name, values in columns.items()}


def mean_of(values: np.ndarray) -> float:
    """Mean of the values that are numbers; NaN if none is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def probabilities(logits: Logits, features: Tensor, rows: np.ndarray, task: Task) -> np.ndarray:
    """(..., len(rows), targets): softmax over classes, or sigmoid of each unit.

    ``logits`` maps (n, d) to (..., n, targets): one head, or a stack of them. Blocks have one size,
    padded with zeros: products of another number of rows take another path, and a frame's last bits
    would depend on how many others it is scored with.
    """
    index = torch.from_numpy(rows)
    parts = [_scores(logits(features[:0].float()), task)]  # no rows still have a shape
    for start in range(0, len(rows), BLOCK):
        batch = features[index[start : start + BLOCK]].float()
        padding = batch.new_zeros(BLOCK - len(batch), *batch.shape[1:])
        found = _scores(logits(torch.cat([batch, padding])), task)
        parts.append(found[..., : len(batch), :])
    return torch.cat(parts, dim=-2).numpy()


def _scores(logits: Tensor, task: Task) -> Tensor:
    return torch.sigmoid(logits) if task.multilabel else torch.softmax(logits, -1)


def watch(logits: Logits, data: TrainingData, task: Task) -> list[np.ndarray]:
    """Probabilities after an epoch on a sample of the training rows, inner and validation rows."""
    sample = data.rows[spread(SAMPLE, len(data.rows))]
    every = np.arange(len(data.validation.labels))
    return [
        probabilities(logits, data.features, sample, task),
        probabilities(logits, data.features, data.inner, task),
        probabilities(logits, data.validation.features, every, task),
    ]


def epoch_scores(data: TrainingData, task: Task, watched: list[np.ndarray]) -> Row:
    """Metrics of one head's probabilities, as returned by ``watch``, for an epoch's row.

    ``validation_macro_f1`` is kept only to show how far the best epoch on validation, an
    optimistic figure, lies above the honest one; nothing is chosen by it.
    """
    sample, inner, validation = watched
    largest = np.maximum(sample, 1 - sample) if task.multilabel else sample.max(axis=1)
    labels = data.labels.numpy()
    return {
        "mean_largest_probability": float(largest.mean()),
        "inner_macro_f1": challenge_score(inner, labels[data.inner], task),
        "validation_macro_f1": challenge_score(validation, data.validation.labels.numpy(), task),
    }


def challenge_score(answers: np.ndarray, labels: np.ndarray, task: Task) -> float:
    """Macro F1 of probabilities by the challenge's definition; NaN without rows."""
    if not len(labels):
        return float("nan")
    return float(f1_per_target(labels, decide(answers, task), task).mean())


def is_collapsed(mean_largest_probability: float, task: Task) -> bool:
    """Whether a head predicts nearly uniform probabilities for any input."""
    uniform = 0.5 if task.multilabel else 1 / len(task.targets)
    return mean_largest_probability < uniform + COLLAPSED * (1 - uniform)
