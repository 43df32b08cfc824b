"""Focal loss (Lin et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from clipaffect.config.training import Recipe
from clipaffect.core.tasks import Task
from clipaffect.training.losses.base import (
    Risk,
    SingleLosses,
    Weighted,
    mean_share,
    no_threshold,
)


class Focal:
    """Mean of (1 - p)^gamma * loss, with p = exp(-loss) the probability of the truth.

    Lin et al. 2017, eq. 4. The weights are its full derivative, not the factor alone.
    """

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma

    def __call__(self, losses: SingleLosses) -> Weighted:
        """See ``Risk``."""
        values = losses.values.detach()
        p = torch.exp(-values)
        miss = -torch.expm1(-values)  # 1 - p without cancellation
        factor = miss**self.gamma
        # loss / (1 - p) -> 1 as the loss -> 0
        ratio = torch.where(miss > 0, values / miss.clamp(min=torch.finfo(p.dtype).tiny), 1.0)
        weights = factor * (1 + self.gamma * p * ratio)
        share = mean_share(losses, values)
        return Weighted((factor * values * share).sum(-1), weights * share, no_threshold(values))


def build(recipe: Recipe, alpha: float | Tensor, labels: Tensor, task: Task) -> Risk:
    """With the recipe's gamma."""
    return Focal(recipe.focal.gamma)
