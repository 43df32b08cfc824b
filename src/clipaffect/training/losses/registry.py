"""The module that builds each loss, by its name in ``config.training.LOSSES``.

A new loss is one module here, with ``build``, and its name in that list.
"""

from __future__ import annotations

from importlib import import_module

from torch import Tensor

from clipaffect.config.training import Recipe
from clipaffect.core.tasks import Task
from clipaffect.training.losses.base import Risk


def build_risk(recipe: Recipe, alpha: float | Tensor, labels: Tensor, task: Task) -> Risk:
    """The risk of a recipe.

    Args:
        recipe: names the loss and has its settings.
        alpha: CVaR's level, or (G, 1) float64 levels of a stack of G heads; the others ignore it.
        labels: (N, 1 or 12) of the training frames, for class frequencies.
        task: EXPR or AU.
    """
    module = import_module(f"clipaffect.training.losses.{recipe.loss}")
    risk: Risk = module.build(recipe, alpha, labels, task)
    return risk
