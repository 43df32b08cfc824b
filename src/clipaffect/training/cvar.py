"""Risks: from the losses of a batch to one number and a weight for each loss.

One interface serves every robust loss: losses in, weights out. The weights are the risk's
gradient with respect to the losses, so sum(weights * d loss) is the gradient of the risk, whether
it comes from autograd or from a hand-written backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.optimize import fminbound
from torch import Tensor

from clipaffect.core.tasks import Task
from clipaffect.training.losses import SingleLosses

TINY = torch.finfo(torch.float64).tiny  # keeps 0 / 0 at 0


@dataclass(frozen=True)
class Weighted:
    """A risk's answer for one batch, or for each of a stack of batches (...).

    Attributes:
        value: (...) the risk.
        weights: (..., n) its gradient with respect to the losses.
        threshold: (...) CVaR's lambda or the eta of a divergence ball; NaN where there is none.
    """

    value: Tensor
    weights: Tensor
    threshold: Tensor


class Risk(Protocol):
    """Weighs the losses of a batch."""

    def __call__(self, losses: SingleLosses) -> Weighted:
        """Value, weights and threshold; nothing annotated: zero, no weights, NaN."""
        ...


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
    is not whole. The search stops up to 1e-5 beside the minimum: of losses that are tied, all or
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
            return _constant(values, 0.0)
        if not bool(counted.isfinite().all()):
            return _constant(values, np.nan)

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
        share = _share(losses, values)
        return Weighted((factor * values * share).sum(-1), weights * share, _no_threshold(values))


class ClassBalanced:
    """Mean of the losses weighted by the inverse effective number of their class.

    w_c is proportional to (1 - beta) / (1 - beta^n_c), scaled so that the weights average 1 over
    the training labels (Cui et al. 2019, eq. 2, there scaled over classes). For units, each unit's
    0 and 1 are its two classes.

    Args:
        labels: (N, 1) classes or (N, 12) bits of the training frames; losses are over elements.
        task: EXPR or AU.
        beta: 0 weighs all alike, towards 1 by inverse frequency.
    """

    def __init__(self, labels: Tensor, task: Task, beta: float) -> None:
        if task.multilabel:
            counts = torch.stack([(labels == bit).sum(0) for bit in (0, 1)], 1).double()
        else:
            counts = torch.bincount(labels[:, 0].long(), minlength=len(task.targets))[None].double()
        weights = torch.where(counts > 0, (1 - beta) / (1 - beta**counts), 0.0)
        share = counts / counts.sum(1, keepdim=True).clamp(min=1)
        scale = (weights * share).sum(1, keepdim=True)
        self.table = weights / scale.clamp(min=TINY)  # (1 or 12, K)

    def __call__(self, losses: SingleLosses) -> Weighted:
        """See ``Risk``."""
        values = losses.values.detach()
        if self.table.device != values.device:  # once: a CUDA graph may not copy from the host
            self.table = self.table.to(values.device)
        table = self.table.to(values.dtype)
        classes = losses.labels.long().clamp(min=0)
        units = torch.arange(len(table), device=values.device)
        by_unit = classes.reshape(*values.shape[:-1], -1, len(table))
        weights = table[units, by_unit].reshape(values.shape)
        weights = weights * _share(losses, values)
        return Weighted((weights * values).sum(-1), weights, _no_threshold(values))


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


def _share(losses: SingleLosses, values: Tensor) -> Tensor | float:
    """1 / n for each annotated loss, (..., n) or a scalar."""
    if losses.known is None:
        return 1 / values.shape[-1]
    known = losses.known.to(values.dtype)
    return known / known.sum(-1, keepdim=True).clamp(min=1)


def _no_threshold(values: Tensor) -> Tensor:
    return values.new_full(values.shape[:-1], np.nan)


def _constant(values: Tensor, value: float) -> Weighted:
    """Nothing annotated (0), or a loss that is not a number (NaN)."""
    alike = values.new_full(values.shape[:-1], value)
    return Weighted(alike, torch.full_like(values, value), _no_threshold(values))
