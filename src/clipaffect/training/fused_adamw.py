"""AdamW's step on lists of tensors, as all hand-written backends take it."""

from __future__ import annotations

from torch import Tensor
from torch.optim.adamw import adamw

from clipaffect.training.sam import BETAS, EPSILON


def fused_adamw(
    weights: list[Tensor],
    gradients: list[Tensor],
    moment: list[Tensor],
    square: list[Tensor],
    count: list[Tensor],
    rate: float | Tensor,
    weight_decay: float,
) -> None:
    """Move the weights by torch's fused kernel (Loshchilov & Hutter 2019, algorithm 2).

    Args:
        weights, gradients, moment, square: alike; all but the gradients change.
        count: the number of steps of each, which grows by one.
        rate: a tensor where it lies on the device.
        weight_decay: decoupled.
    """
    adamw(
        weights,
        gradients,
        moment,
        square,
        [],
        count,
        fused=True,
        amsgrad=False,
        beta1=BETAS[0],
        beta2=BETAS[1],
        lr=rate,
        weight_decay=weight_decay,
        eps=EPSILON,
        maximize=False,
    )
