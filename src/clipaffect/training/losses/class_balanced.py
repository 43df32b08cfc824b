"""Losses weighted by the effective number of their class (Cui et al. 2019)."""

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
    mean_share,
    no_threshold,
)


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
        weights = weights * mean_share(losses, values)
        return Weighted((weights * values).sum(-1), weights, no_threshold(values))


def build(recipe: Recipe, alpha: float | Tensor, labels: Tensor, task: Task) -> Risk:
    """With the recipe's beta and the frequencies of the training labels."""
    return ClassBalanced(labels, task, recipe.class_balanced.beta)
