"""Conditional Value at Risk as published, for a stack of heads on a device."""

from __future__ import annotations

import torch
from torch import Tensor

from clipaffect.training.losses.base import SingleLosses, Weighted
from clipaffect.training.losses.bounded_search import bounded_minimum
from clipaffect.training.losses.exact_cvar import Cvar


class StackedPublishedCvar:
    """``cvar.PublishedCvar`` for a stack: the same searches at once, without the host.

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
