"""Losses of single frames or units, their gradients at the logits, and the risks on top.

A batch's losses are a vector: one for each frame (EXPR), one for each frame and unit (AU), or one
for each frame as the mean over its annotated units. A ``Risk`` weighs them: losses in, weights
out. The weights are the risk's gradient with respect to the losses; their product with
``logit_gradient`` is the gradient that enters the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from clipaffect.core.tasks import NOT_ANNOTATED, Task

Over = Literal["elements", "samples"]


@dataclass(frozen=True)
class SingleLosses:
    """The losses that a risk weights.

    Attributes:
        values: (..., n); 0 where nothing is annotated.
        known: (..., n) whether it is annotated; None if all are.
        labels: (..., n, k) what each loss is about: the class (EXPR), or the unit's bit; k = 12
            where a frame's units are averaged.
    """

    values: Tensor
    known: Tensor | None
    labels: Tensor


def single_losses(
    logits: Tensor, labels: Tensor, task: Task, over: Over, complete: bool
) -> SingleLosses:
    """Cross-entropy of each frame or unit.

    Args:
        logits: (..., B, targets).
        labels: (..., B, 1) classes or (..., B, 12) bits, integers; -1 is not annotated.
        task: EXPR: softmax over classes; AU: a sigmoid for each unit.
        over: AU: ``elements`` gives n = 12 B losses, ``samples`` n = B.
        complete: whether the caller knows that every label is annotated.
    """
    if not task.multilabel:
        log_p = torch.log_softmax(logits, -1)
        return SingleLosses(-log_p.gather(-1, labels.long())[..., 0], None, labels)
    known = None if complete else labels != NOT_ANNOTATED
    targets = labels.to(logits.dtype) if known is None else (labels == 1).to(logits.dtype)
    values = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if known is not None:
        values = values * known
    if over == "samples":
        if known is None:
            return SingleLosses(values.mean(-1), None, labels)
        count = known.sum(-1)
        return SingleLosses(values.sum(-1) / count.clamp(min=1), count > 0, labels)
    if known is not None:
        known = known.flatten(-2)
    return SingleLosses(values.flatten(-2), known, labels.flatten(-2)[..., None])


def logit_gradient(
    logits: Tensor, labels: Tensor, weights: Tensor, task: Task, over: Over, complete: bool
) -> Tensor:
    """Gradient (..., B, targets) of sum(weights * single losses) with respect to the logits.

    Softmax and sigmoid cross-entropy both have the derivative p - y; an element that is not
    annotated has none, and where a frame's units are averaged each has its share.
    """
    if not task.multilabel:
        gradient = torch.softmax(logits, -1)
        classes = labels.long()
        gradient.scatter_add_(-1, classes, gradient.new_full((), -1.0).expand(classes.shape))
        return gradient.mul_(weights[..., None])
    if complete:
        gradient = torch.sigmoid(logits).sub_(labels)
        count: Tensor | int = labels.shape[-1]
    else:
        known = labels != NOT_ANNOTATED
        gradient = torch.sigmoid(logits).sub_((labels == 1).to(logits.dtype)).mul_(known)
        count = known.sum(-1, keepdim=True).clamp(min=1)
    if over == "samples":
        return gradient.mul_(weights[..., None] / count)
    return gradient.mul_(weights.view(gradient.shape))


TINY = torch.finfo(torch.float64).tiny  # keeps 0 / 0 at 0


@dataclass(frozen=True)
class Weighted:
    """The result of a risk for one batch, or for each of a stack of batches (...).

    Attributes:
        value: (...) the risk.
        weights: (..., n) its gradient with respect to the losses.
        threshold: (...) CVaR's lambda or the eta of a divergence ball; NaN where there is none.
    """

    value: Tensor
    weights: Tensor
    threshold: Tensor


class Risk(Protocol):
    """Weights the losses of a batch."""

    def __call__(self, losses: SingleLosses) -> Weighted:
        """Value, weights and threshold; nothing annotated: zero, no weights, NaN."""
        ...


def mean_share(losses: SingleLosses, values: Tensor) -> Tensor | float:
    """1 / n for each annotated loss, (..., n) or a scalar."""
    if losses.known is None:
        return 1 / values.shape[-1]
    known = losses.known.to(values.dtype)
    return known / known.sum(-1, keepdim=True).clamp(min=1)


def no_threshold(values: Tensor) -> Tensor:
    """NaN for each batch."""
    return values.new_full(values.shape[:-1], np.nan)


def constant(values: Tensor, value: float) -> Weighted:
    """The result if nothing is annotated (0) or a loss is not a number (NaN)."""
    alike = values.new_full(values.shape[:-1], value)
    return Weighted(alike, torch.full_like(values, value), no_threshold(values))
