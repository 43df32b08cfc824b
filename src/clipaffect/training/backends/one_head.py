"""One head in training, on one CPU core."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from clipaffect.config.training import LOSSES, Recipe
from clipaffect.core.tasks import Task
from clipaffect.training.backends.autograd import (
    AutogradLearner,
    build_objective,
)
from clipaffect.training.backends.cpu import FastLearner
from clipaffect.training.build_head import build_head
from clipaffect.training.data import TrainingData, batches
from clipaffect.training.history import Row, learning_rate, probe_steps, summarise
from clipaffect.training.losses.registry import build_risk
from clipaffect.training.mlp_head import Head
from clipaffect.training.sam import StepRecord


class Learner(Protocol):
    """A head in training."""

    def step(
        self, features: Tensor, labels: Tensor, number: int, learning_rate: float, probe: bool
    ) -> StepRecord:
        """Take step ``number`` (from 0) on a batch (B, d), (B, 1 or 12)."""
        ...

    def logits(self, features: Tensor) -> Tensor:
        """Logits (B, targets) in evaluation mode."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything the next step depends on."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a ``state``."""
        ...

    def head_state(self) -> dict[str, Tensor]:
        """The head's weights and statistics by name."""
        ...


def make_learner(
    data: TrainingData, task: Task, recipe: Recipe, alpha: float, seed: int
) -> Learner:
    """The fast step for the MLP and the built-in losses; autograd for user code."""
    head = build_head(recipe, data.features.shape[1], len(task.targets), seed)
    labels = data.labels[torch.from_numpy(data.rows)]
    if isinstance(head, Head) and recipe.loss in LOSSES:
        risk = build_risk(recipe, alpha, labels, task)
        return FastLearner(head.train(), risk, task, recipe, seed)
    return AutogradLearner(head, build_objective(recipe, alpha, labels, task), recipe, seed)


class OneHead:
    """One head as a ``trainer.Backend``.

    Args:
        learner: takes its steps.
        data: see ``training_data``.
        recipe: of the head.
        seed: of the order of its batches.
    """

    heads = 1

    def __init__(self, learner: Learner, data: TrainingData, recipe: Recipe, seed: int) -> None:
        self.learner, self.data, self.recipe, self.seed = learner, data, recipe, seed

    def epoch(self, number: int) -> list[Row]:
        """Train an epoch; returns its row. Stops at the first loss that is not finite."""
        data = self.data
        parts = batches(data.rows, self.recipe.batch, self.seed, number)
        rate = learning_rate(self.recipe, number)
        probes = probe_steps(len(parts))
        row: Row = {"epoch": number + 1, "learning_rate": rate}
        records = []
        for index, rows in enumerate(parts):
            step = number * len(parts) + index
            x, y = data.features[rows].float(), data.labels[rows]
            record = self.learner.step(x, y, step, rate, index in probes)
            records.append(record)
            if not math.isfinite(record.value):
                return [row | {"value": record.value}]
        return [row | summarise(records)]

    def logits(self, features: Tensor) -> Tensor:
        """Logits (1, n, targets)."""
        return self.learner.logits(features)[None]

    def head_state(self, head: int) -> dict[str, Tensor]:
        """The head's weights and statistics."""
        return self.learner.head_state()

    def state(self) -> dict[str, Tensor]:
        """The learner's."""
        return self.learner.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The learner's."""
        self.learner.load_state(state)
