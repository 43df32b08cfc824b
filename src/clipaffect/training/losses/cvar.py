"""Conditional Value at Risk (Rockafellar and Uryasev 2000): exactly, or as published."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import fminbound
from torch import Tensor

from clipaffect.config.training import Recipe
from clipaffect.core.tasks import Task
from clipaffect.training.losses.base import Risk, SingleLosses, Weighted, constant
from clipaffect.training.losses.exact_cvar import Cvar
from clipaffect.training.losses.stacked_cvar import StackedPublishedCvar


class PublishedCvar:
    """CVaR as the paper's published code computes it.

    lambda comes from scipy's bounded search on [smallest loss - 1000, largest loss] and is held
    constant in the gradient: every loss above it has weight 1 / (alpha n). The weights sum to
    floor or ceil of alpha n, over alpha n, so this differs from the exact gradient where alpha n
    is not whole. The search stops up to 1e-5 from the minimum: of losses that are tied, all or
    none have weight.

    Args:
        alpha: the level.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def __call__(self, losses: SingleLosses) -> Weighted:
        """See ``Risk``."""
        values = losses.values.detach()
        counted = values if losses.known is None else values[losses.known]
        if not counted.numel():
            return constant(values, 0.0)
        if not bool(counted.isfinite().all()):
            return constant(values, np.nan)

        def objective(threshold: float) -> float:
            return threshold + (1 / self.alpha) * float(torch.relu(counted - threshold).mean())

        low, high = counted.min().numpy() - 1000.0, counted.max().numpy()
        threshold = float(fminbound(objective, low, high))
        above = (values > threshold).to(values.dtype)
        if losses.known is not None:
            above = above * losses.known
        weights = above / (self.alpha * counted.numel())
        return Weighted(
            values.new_tensor(objective(threshold)), weights, values.new_tensor(threshold)
        )


def build(recipe: Recipe, alpha: float | Tensor, labels: Tensor, task: Task) -> Risk:
    """CVaR at level ``alpha``, exact or as the published code computes it."""
    if recipe.cvar.gradient == "exact":
        return Cvar(alpha)
    if isinstance(alpha, Tensor):
        return StackedPublishedCvar(alpha)
    # At alpha = 1, plain ERM, every lambda below the losses minimises: nothing to search.
    return PublishedCvar(alpha) if alpha < 1 else Cvar(alpha)
