"""From a recipe to what is minimised: a risk over single losses, or the user's own loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from clipaffect.config.training import Recipe
from clipaffect.core.tasks import NOT_ANNOTATED, Task
from clipaffect.training.cvar import ChiSquare, ClassBalanced, Cvar, Focal, PublishedCvar, Risk
from clipaffect.training.losses import single_losses
from clipaffect.training.sam import Evaluated


def build_risk(recipe: Recipe, alpha: float, labels: Tensor, task: Task) -> Risk:
    """The risk of a recipe.

    Args:
        recipe: names it.
        alpha: CVaR's level; ignored by the others.
        labels: (N, 1 or 12) of the training frames, for class frequencies.
        task: EXPR or AU.
    """
    if recipe.loss == "cvar":
        # At alpha = 1, plain ERM, every lambda below the losses minimises: nothing to search.
        published = recipe.cvar.gradient == "published" and alpha < 1
        return PublishedCvar(alpha) if published else Cvar(alpha)
    if recipe.loss == "focal":
        return Focal(recipe.focal.gamma)
    if recipe.loss == "class_balanced":
        return ClassBalanced(labels, task, recipe.class_balanced.beta)
    return ChiSquare(recipe.chi_square.radius)


class WeighedObjective:
    """A risk over the single losses, as autograd sees it.

    Args:
        risk: weighs the losses.
        task, recipe: what a single loss is.
    """

    def __init__(self, risk: Risk, task: Task, recipe: Recipe) -> None:
        self.risk, self.task, self.over = risk, task, recipe.loss_over

    def __call__(self, logits: Tensor, labels: Tensor) -> Evaluated:
        """Evaluate logits (B, targets) against labels (B, 1 or 12)."""
        complete = bool((labels != NOT_ANNOTATED).all())
        losses = single_losses(logits, labels, self.task, self.over, complete)
        weighed = self.risk(losses)
        known = losses.values if losses.known is None else losses.values[losses.known]
        mean = float(known.detach().mean()) if known.numel() else float("nan")
        return Evaluated(
            (weighed.weights * losses.values).sum(),
            float(weighed.value),
            mean,
            float(weighed.threshold),
            losses.values.detach(),
            weighed.weights,
        )


class UserObjective:
    """A loss of the user's: ``loss(logits, labels)`` is a differentiable scalar.

    It keeps nothing between calls: a checkpoint does not hold it.
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.loss = loss

    def __call__(self, logits: Tensor, labels: Tensor) -> Evaluated:
        """Evaluate logits (B, targets) against labels (B, 1 or 12)."""
        value = self.loss(logits, labels)
        number, nothing = float(value.detach()), torch.empty(0)
        return Evaluated(value, number, number, float("nan"), nothing, nothing)
