"""Conditional Value at Risk (Rockafellar and Uryasev 2000): exactly, and as published."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import fminbound
from torch import Tensor

from clipaffect.config.training import Recipe
from clipaffect.core.tasks import Task
from clipaffect.training.losses.base import (
    TINY,
    Risk,
    SingleLosses,
    Weighted,
    constant,
)
from clipaffect.training.losses.bounded_search import bounded_minimum


class Cvar:
    """Conditional Value at Risk at level ``alpha``, exactly.

    CVaR = min over lambda of  lambda + mean(relu(loss - lambda)) / alpha
    (Rockafellar & Uryasev 2000, eq. 4; arXiv 2403.09915, the loss's CVaR form). On n losses the
    minimum is reached at their (1 - alpha) quantile, where it is the mean of the worst alpha n of
    them: the i-th largest (i = 0, 1, ...) has weight clip(alpha n - i, 0, 1) / (alpha n), the last
    one fractional. The weights sum to 1; alpha = 1 is the plain mean. Where alpha n < 1 the
    largest loss has it all.

    The threshold is the smallest loss that still has weight; where alpha n is whole, every value
    between it and the next smaller loss minimises too.

    Args:
        alpha: one level, or (G, 1) levels of a stack of G batches.
    """

    def __init__(self, alpha: float | Tensor) -> None:
        self.alpha = alpha
        self._tables: dict[tuple[int, torch.dtype], Tensor] = {}

    def __call__(self, losses: SingleLosses) -> Weighted:
        """See ``Risk``."""
        values, known = losses.values.detach(), losses.known
        if known is not None:
            values = values.masked_fill(~known, -torch.inf)
        ordered, order = values.sort(dim=-1, descending=True, stable=True)
        ranked = self._ranked(values) if known is None else self._masked(values, known)
        weights = torch.empty_like(values).scatter_(-1, order, ranked)
        held = ranked > 0
        value = torch.where(held, ordered, 0.0).mul(ranked).sum(-1)
        threshold = ordered.masked_fill(~held, torch.inf).amin(-1)
        return Weighted(value, weights, threshold.masked_fill(~held.any(-1), torch.nan))

    def _ranked(self, values: Tensor) -> Tensor:
        """Weights of the sorted losses where all count: a table for each batch size."""
        key = (values.shape[-1], values.dtype)
        if key not in self._tables:
            count = torch.tensor(float(values.shape[-1]), dtype=torch.float64)
            self._tables[key] = self._of_count(count.to(values.device), key[0]).to(values.dtype)
        return self._tables[key].expand(values.shape)

    def _masked(self, values: Tensor, known: Tensor) -> Tensor:
        count = known.sum(-1, keepdim=True).double()
        return self._of_count(count, values.shape[-1]).to(values.dtype)

    def _of_count(self, count: Tensor, size: int) -> Tensor:
        share = self.alpha * count
        rank = torch.arange(size, dtype=torch.float64, device=count.device)
        return torch.clamp(share - rank, 0, 1) / share.clamp(min=TINY)


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


class StackedPublishedCvar:
    """``PublishedCvar`` for a stack: the same searches, all at once and without the host.

    Args:
        alphas: (G, 1) float64 levels.
    """

    def __init__(self, alphas: Tensor) -> None:
        self.alphas, self.exact = alphas, Cvar(alphas)

    def __call__(self, losses: SingleLosses) -> Weighted:
        """See ``Risk``."""
        values, alphas = losses.values.detach(), self.alphas[:, 0]
        known = torch.ones_like(values, dtype=torch.bool) if losses.known is None else losses.known
        count = known.sum(-1)

        def objective(threshold: Tensor) -> Tensor:
            excess = torch.relu(values - threshold[:, None].to(values.dtype)) * known
            return threshold + (1 / alphas) * (excess.sum(-1) / count).double()

        low = values.masked_fill(~known, torch.inf).amin(-1) - 1000.0
        high = values.masked_fill(~known, -torch.inf).amax(-1)
        threshold = bounded_minimum(objective, low.double(), high.double())
        above = (values > threshold[:, None].to(values.dtype)) & known
        weights = (above / (self.alphas * count[:, None])).to(values.dtype)
        # As for one head: at alpha = 1 nothing is searched, and an empty batch has no threshold.
        searched = (alphas < 1) & (count > 0)
        exact = self.exact(losses)
        value = torch.where(searched, objective(threshold).to(values.dtype), exact.value)
        weights = torch.where(searched[:, None], weights, exact.weights)
        threshold = torch.where(searched, threshold.to(values.dtype), exact.threshold)
        broken = searched & ~values.masked_fill(~known, 0).isfinite().all(-1)
        return Weighted(
            value.masked_fill(broken, torch.nan),
            weights.masked_fill(broken[:, None], torch.nan),
            threshold.masked_fill(broken, torch.nan),
        )


def build(recipe: Recipe, alpha: float | Tensor, labels: Tensor, task: Task) -> Risk:
    """CVaR at level ``alpha``, exact or as the published code computes it."""
    if recipe.cvar.gradient == "exact":
        return Cvar(alpha)
    if isinstance(alpha, Tensor):
        return StackedPublishedCvar(alpha)
    # At alpha = 1, plain ERM, every lambda below the losses minimises: nothing to search.
    return PublishedCvar(alpha) if alpha < 1 else Cvar(alpha)
