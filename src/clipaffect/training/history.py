"""What is written down about each epoch of a head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipaffect.config.training import Recipe
from clipaffect.evaluation.metrics import decide, f1_per_target
from clipaffect.tasks import Task
from clipaffect.training.data import ROWS_AT_ONCE, TrainingData
from clipaffect.training.step import StepRecord

PROBES = 8  # steps of an epoch whose sharpness is measured
SAMPLE = 4096  # training frames whose largest probability is averaged
COLLAPSED = 0.1  # share of the way from the uniform answer to certainty

Row = dict[str, Any]
Logits = Callable[[Tensor], Tensor]


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """AdamW's rate in an epoch (from 0): a cosine, stepped once an epoch.

    eta_t = eta_min + (eta_0 - eta_min) (1 + cos(pi t / T)) / 2 (Loshchilov & Hutter 2017, eq. 5)
    with T = ``cosine_share`` of the epochs; past T it climbs back, as torch's CosineAnnealingLR
    does in the published code.
    """
    period = recipe.epochs * recipe.cosine_share
    fall = (1 + np.cos(np.pi * epoch / period)) / 2
    low, high = recipe.final_learning_rate, recipe.learning_rate
    return float(low + (high - low) * fall)


def is_probe(step: int, steps: int) -> bool:
    """Whether the sharpness is measured at this step of an epoch."""
    return step % max(1, steps // PROBES) == 0


def summarise(records: list[StepRecord]) -> Row:
    """Means over an epoch's steps, of those that have a value."""
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
    """(len(rows), targets): softmax over classes, or sigmoid of each unit."""
    index = torch.from_numpy(rows)
    parts = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        batch = features[index[start : start + ROWS_AT_ONCE]].float()
        found = logits(batch)
        parts.append(torch.sigmoid(found) if task.multilabel else torch.softmax(found, -1))
    return torch.cat(parts).numpy()


def macro_f1(
    logits: Logits, features: Tensor, labels: Tensor, rows: np.ndarray, task: Task
) -> float:
    """The challenge's score on some rows; NaN if there are none."""
    if not len(rows):
        return float("nan")
    decisions = decide(probabilities(logits, features, rows, task), task)
    return float(f1_per_target(labels.numpy()[rows], decisions, task).mean())


def watch(logits: Logits, data: TrainingData, task: Task) -> Row:
    """Scores of a head after an epoch, in evaluation mode.

    ``validation_macro_f1`` is kept only to show how far the best epoch on validation, an
    optimistic figure, lies above the honest one; nothing is chosen by it.
    """
    sample = data.rows[:: max(1, len(data.rows) // SAMPLE)][:SAMPLE]
    p = probabilities(logits, data.features, sample, task)
    largest = np.maximum(p, 1 - p) if task.multilabel else p.max(axis=1)
    every = np.arange(len(data.validation.labels))
    validation = data.validation
    return {
        "mean_largest_probability": float(largest.mean()),
        "inner_macro_f1": macro_f1(logits, data.features, data.labels, data.inner, task),
        "validation_macro_f1": macro_f1(
            logits, validation.features, validation.labels, every, task
        ),
    }


def is_collapsed(mean_largest_probability: float, task: Task) -> bool:
    """Whether a head answers nearly uniformly, whatever it is shown."""
    uniform = 0.5 if task.multilabel else 1 / len(task.targets)
    return mean_largest_probability < uniform + COLLAPSED * (1 - uniform)
