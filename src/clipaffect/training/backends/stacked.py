"""Many MLP heads in training on a GPU: one stack, whose step is one captured CUDA graph.

The host draws the order of the batches and starts the graphs; everything else stays on the device.
It is ordinary torch and is tested on the CPU; only the capture needs a GPU.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from clipaffect.config.training import Recipe
from clipaffect.core.tasks import NOT_ANNOTATED, Task
from clipaffect.training.backends.cuda_graphs import Step, graphed
from clipaffect.training.backends.stacked_masks import StackedMasks
from clipaffect.training.backends.stacked_step import FIELDS, StackedStep
from clipaffect.training.data import TrainingData, batches
from clipaffect.training.history import Row, learning_rate, mean_of, probe_steps
from clipaffect.training.losses.base import Risk, SingleLosses, Weighted
from clipaffect.training.losses.registry import build_risk
from clipaffect.training.mlp_head import Head

OWN = {"loss", "cvar", "class_balanced", "focal", "chi_square", "rho"}


def stack_key(recipe: Recipe) -> str:
    """What recipes must share for their heads to be trained in one stack: all but the loss and rho.

    Without SAM a step has one pass, so such heads have a stack of their own.
    """
    return recipe.model_dump_json(exclude=OWN) + f" SAM: {recipe.rho > 0}"


class Stack:
    """Heads stacked on a device, as a ``trainer.Backend``.

    The features lie on the device in float16; on CUDA each step is one captured graph.

    Args:
        data: see ``training_data``.
        task: the task.
        heads: recipe, alpha and seed of each, all MLPs of one ``stack_key``.
        device: where they are trained.
    """

    def __init__(
        self, data: TrainingData, task: Task, heads: list[tuple[Recipe, float, int]], device: str
    ) -> None:
        self.stack, self.rows = make_stack(data, task, heads, device), data.rows
        self.recipe = self.stack.recipe
        self.masks = StackedMasks(self.stack.seeds, self.recipe, self.stack.bias)
        self.step: Step = graphed(self.stack) if device != "cpu" else self.stack.step
        self.features, self.labels = data.features.to(device), data.labels.to(device)
        self.heads = len(heads)

    def epoch(self, number: int) -> list[Row]:
        """Train an epoch; the host waits at its end, and while it captures."""
        stack, recipe = self.stack, self.recipe
        rate = learning_rate(recipe, number)
        stack.rate.fill_(rate)
        orders = [batches(self.rows, recipe.batch, seed, number) for seed in stack.seeds]
        sizes = [len(batch) for batch in orders[0]]
        order = torch.stack([torch.cat(parts) for parts in orders]).to(self.features.device)
        probes = probe_steps(len(sizes))
        masks = self.masks.of_steps(number * len(sizes), sizes)
        steps = [
            self.step(self.features[at], self.labels[at], drop, index in probes)
            for index, (at, drop) in enumerate(zip(order.split(sizes, dim=1), masks, strict=True))
        ]
        records = torch.stack(steps).cpu().numpy()  # (steps, 6, G)
        row: Row = {"epoch": number + 1, "learning_rate": rate}
        return [row | _summary(records[:, :, head]) for head in range(self.heads)]

    def logits(self, features: Tensor) -> Tensor:
        """Logits (G, n, targets)."""
        return self.stack.logits(features)

    def head_state(self, head: int) -> dict[str, Tensor]:
        """A head's weights and statistics."""
        return self.stack.head_state(head)

    def state(self) -> dict[str, Tensor]:
        """The stack's."""
        return self.stack.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The stack's."""
        self.stack.load_state(state)


def make_stack(
    data: TrainingData, task: Task, heads: list[tuple[Recipe, float, int]], device: str
) -> StackedStep:
    """A stack of MLP heads; see ``Stack``."""
    inputs, outputs = data.features.shape[1], len(task.targets)
    recipes, levels, seeds = (list(column) for column in zip(*heads, strict=True))
    modules = [
        Head(inputs, outputs, recipe.hidden_layers, recipe.width, seed) for recipe, _, seed in heads
    ]
    labels = data.labels[torch.from_numpy(data.rows)]
    complete = bool((labels != NOT_ANNOTATED).all())
    risk = _StackedRisk(recipes, levels, labels, task, device)
    return StackedStep(modules, seeds, risk, task, recipes, complete, device)


class _StackedRisk:
    """The risks of a stack: heads of one loss, which follow one another, are weighed together."""

    def __init__(
        self, recipes: list[Recipe], levels: list[float], labels: Tensor, task: Task, device: str
    ) -> None:
        losses = [recipe.model_dump_json(include=OWN - {"rho"}) for recipe in recipes]
        first = [k for k in range(len(losses)) if k == 0 or losses[k] != losses[k - 1]]
        self.counts = [b - a for a, b in zip(first, [*first[1:], len(losses)], strict=True)]
        self.risks: list[Risk] = []
        for start, count in zip(first, self.counts, strict=True):
            own = torch.tensor(levels[start : start + count], dtype=torch.float64).to(device)
            self.risks.append(build_risk(recipes[start], own[:, None], labels, task))

    def __call__(self, losses: SingleLosses) -> Weighted:
        """See ``Risk``."""
        if len(self.risks) == 1:
            return self.risks[0](losses)
        known = losses.known
        knowns = [None] * len(self.counts) if known is None else known.split(self.counts)
        parts = zip(
            losses.values.split(self.counts), knowns, losses.labels.split(self.counts), strict=True
        )
        found = [risk(SingleLosses(*part)) for risk, part in zip(self.risks, parts, strict=True)]
        return Weighted(
            torch.cat([part.value for part in found]),
            torch.cat([part.weights for part in found]),
            torch.cat([part.threshold for part in found]),
        )


def _summary(records: np.ndarray) -> Row:
    """Means of one head's (steps, 6) records; cut short at the first loss that is not finite."""
    values = records[:, FIELDS.index("value")]
    broken = values[~np.isfinite(values)]
    if len(broken):
        return {"value": float(broken[0])}
    return {name: mean_of(records[:, k].astype(float)) for k, name in enumerate(FIELDS)}
