"""Conditional Value at Risk as published, for a stack of heads on a device."""

from __future__ import annotations

import torch
from torch import Tensor

from clipaffect.training.losses.base import SingleLosses, Weighted
from clipaffect.training.losses.bounded_search import bounded_minimum
from clipaffect.training.losses.exact_cvar import Cvar


class StackedPublishedCvar:
    """``cvar.PublishedCvar`` for a stack: all searches at once, without the host.

    A golden-section search in place of scipy's, between the smallest and the largest loss. Both
    stop within 1e-5 of the minimum, on either side of the loss at which it lies. How often each
    side is met is alike: the mean sum of the weights differs by 1 % at most (3.2 to 345.6 losses
    above lambda, 4,000 random batches each), where a bisection's would differ by 11 %.

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
        wide = values.double()
        if losses.known is not None:
            wide = wide.masked_fill(~known, -torch.inf)  # never above lambda
        share = 1 / (alphas * count)

        def objective(threshold: Tensor) -> Tensor:
            excess = torch.relu(wide - threshold[:, None])
            return torch.addcmul(threshold, excess.sum(-1), share)

        low = values.masked_fill(~known, torch.inf).amin(-1).double()
        threshold = bounded_minimum(objective, low, wide.amax(-1))
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
