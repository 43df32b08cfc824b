"""Losses of single frames or units, and CVaR as weights on them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from clipaffect.tasks import NOT_ANNOTATED


def expression_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax cross-entropy of each frame: logits (B, 8), labels (B, 1) -> (B,)."""
    return functional.cross_entropy(logits, labels[:, 0].long(), reduction="none")


def unit_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Sigmoid cross-entropy of every annotated unit: logits and labels (B, 12) -> (n,).

    Elements that are not annotated (-1) are left out; the row's other units stay.
    """
    annotated = labels != NOT_ANNOTATED
    targets = labels[annotated].to(logits.dtype)
    return functional.binary_cross_entropy_with_logits(logits[annotated], targets, reduction="none")


def cvar_weights(losses: Tensor, alpha: float) -> Tensor:
    """Weights (n,) with which ``losses`` (n,) sum to their CVaR at level ``alpha``.

    CVaR = min over lambda of  lambda + mean(relu(loss - lambda)) / alpha
    (Rockafellar & Uryasev 2000, eq. 4; arXiv 2403.09915, the loss's CVaR form). On n losses the
    minimum is reached at their (1 - alpha) quantile, where it is the mean of the worst alpha * n
    of them: the i-th largest (i = 0, 1, ...) has weight clip(alpha * n - i, 0, 1) / (alpha * n),
    the last one fractional. The weights sum to 1; alpha = 1 is the plain mean.
    """
    share = alpha * losses.numel()
    rank = torch.arange(losses.numel(), dtype=torch.float64)
    sorted_weights = (torch.clamp(share - rank, 0, 1) / share).to(losses)
    order = torch.argsort(losses.detach(), descending=True, stable=True)
    return torch.empty_like(sorted_weights).scatter_(0, order, sorted_weights)


def cvar(losses: Tensor, alpha: float) -> tuple[Tensor, float]:
    """CVaR of ``losses`` (differentiable) and a minimising lambda.

    lambda is the smallest loss that still has weight; where alpha * n is whole, every value
    between it and the next smaller loss minimises too.
    """
    if losses.numel() == 0:  # a batch in which nothing is annotated moves nothing
        return losses.sum(), float("nan")
    weights = cvar_weights(losses, alpha)
    return (weights * losses).sum(), float(losses.detach()[weights > 0].min())
