"""Conditional Value at Risk (Rockafellar and Uryasev 2000), exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from clipaffect.training.losses.base import TINY, SingleLosses, Weighted


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
