"""Distributionally robust loss over a chi-square ball (Hashimoto et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from clipaffect.config.training import Recipe
from clipaffect.core.tasks import Task
from clipaffect.training.losses.base import (
    TINY,
    Risk,
    SingleLosses,
    Weighted,
)


class ChiSquare:
    """Largest expected loss over weights q with n sum (q - 1/n)^2 <= radius.

    Its dual is  min over eta of  eta + sqrt(1 + radius) sqrt(mean(relu(loss - eta)^2))
    (Hashimoto et al. 2018, eq. 4), and q_i is proportional to relu(loss_i - eta). With k losses
    above eta, of mean m and population variance v, stationarity gives
    eta = m - sqrt(v / ((1 + radius) k / n - 1)): of all k, the one whose eta lies between the
    k-th and the next loss. Where the ball holds all weight on the largest losses, they share it.

    Args:
        radius: of the ball; towards 0 it is the plain mean.
    """

    def __init__(self, radius: float) -> None:
        self.radius = radius

    def __call__(self, losses: SingleLosses) -> Weighted:
        """See ``Risk``."""
        values = losses.values.detach()
        if losses.known is not None:
            values = values.masked_fill(~losses.known, -torch.inf)
        counted = torch.ones_like(values, dtype=torch.bool)
        if losses.known is not None:
            counted = losses.known
        count = counted.sum(-1, keepdim=True).double()
        ordered = values.double().sort(dim=-1, descending=True, stable=True).values
        top = ordered[..., :1]
        gap = torch.where(torch.isfinite(ordered), ordered - top, 0.0)  # near 0: no cancellation
        k = torch.arange(1, values.shape[-1] + 1, device=values.device, dtype=torch.float64)
        mean = gap.cumsum(-1) / k
        variance = ((gap**2).cumsum(-1) / k - mean**2).clamp(min=0)
        room = (1 + self.radius) * k / count.clamp(min=1) - 1
        eta = mean - torch.sqrt(variance / room.clamp(min=TINY))
        fits = (room > 0) & (k <= count) & (gap > eta)
        last = torch.where(fits, k, 0).amax(-1, keepdim=True).long()  # 0: all on the largest
        eta = eta.gather(-1, (last - 1).clamp(min=0))
        lift = torch.where(counted, torch.relu(values.double() - top - eta), 0.0)
        ties = (counted & (values == top)).double()
        q = torch.where((last > 0) & (lift.sum(-1, keepdim=True) > 0), lift, ties)
        q = q / q.sum(-1, keepdim=True).clamp(min=TINY)
        value = (q * torch.where(counted, values.double(), 0.0)).sum(-1)
        threshold = (top + eta)[..., 0].masked_fill(count[..., 0] == 0, torch.nan)
        finite = losses.values.detach().isfinite().all(-1)
        value = value.masked_fill(~finite, torch.nan)
        dtype = losses.values.dtype
        return Weighted(value.to(dtype), q.to(dtype), threshold.to(dtype))


def build(recipe: Recipe, alpha: float | Tensor, labels: Tensor, task: Task) -> Risk:
    """With the recipe's radius."""
    return ChiSquare(recipe.chi_square.radius)
