"""One training step in plain torch: the reference that the fast steps are tested against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

BETAS, EPSILON = (0.9, 0.999), 1e-8  # AdamW's, in the published code and in torch
TINY = 1e-12  # keeps a zero gradient from dividing by zero, as in the published SAM


@dataclass(frozen=True)
class Evaluated:
    """An objective on one batch.

    Attributes:
        surrogate: scalar whose gradient is the objective's.
        value: the objective, e.g. CVaR.
        mean_loss: plain mean of the annotated losses.
        threshold: CVaR's lambda; NaN where the objective has none.
        losses, weights: (n,) single losses and their weights; empty for a loss of the user's.
    """

    surrogate: Tensor
    value: float
    mean_loss: float
    threshold: float
    losses: Tensor
    weights: Tensor


@dataclass(frozen=True)
class StepRecord:
    """The record of one step, for the history.

    Attributes:
        mean_loss, value, threshold: at the unperturbed weights.
        gradient_norm: L2 norm of the gradient over all parameters.
        perturbation_norm: L2 norm of SAM's epsilon; 0 without SAM.
        sharpness: value at w + epsilon less value at w, both under the first pass's dropout masks;
            NaN where it was not asked for, or without SAM.
    """

    mean_loss: float
    value: float
    threshold: float
    gradient_norm: float
    perturbation_norm: float
    sharpness: float


@dataclass(frozen=True)
class StepTrace:
    """A step with everything that it computed.

    Attributes:
        record: its summary.
        first, second: the objective at w and at w + epsilon (None without SAM).
        gradient: of the first pass, in the parameters' order.
        perturbation: epsilon; empty without SAM.
        update_gradient: what the optimiser was given.
    """

    record: StepRecord
    first: Evaluated
    second: Evaluated | None
    gradient: list[Tensor]
    perturbation: list[Tensor]
    update_gradient: list[Tensor]


def training_step(
    head: nn.Module,
    optimiser: torch.optim.Optimizer,
    objective: Callable[[int], Evaluated],
    rho: float,
    perturbation: Literal["l2", "sign"] = "l2",
    probe: bool = False,
) -> StepTrace:
    """Take one SAM step on an objective.

    epsilon = rho g / |g|_2, one norm over all parameters (Foret et al. 2021, eq. 2 with p = 2;
    published code of arXiv 2403.09915), or rho sign(g) (p = infinity). The gradient at
    w + epsilon moves w. BatchNorm's running statistics follow the first pass only. With
    ``rho`` = 0 there is one pass, and the step is the base optimiser's bit for bit.

    To compare it with another program: build ``head`` with that program's weights, without
    dropout, in float64; ``objective = lambda sam_pass: weighed(head(x), y)`` with ``weighed``
    from ``backends.autograd.WeighedObjective``; and look at the returned trace, at ``head`` and at
    ``optimiser.state``.

    Args:
        head: the module, in training mode.
        optimiser: over its parameters.
        objective: evaluates the batch at the head's present weights; called with 0 for the first
            pass (and again with 0 for the sharpness) and 1 for the second, so that it can choose
            dropout masks.
        rho: radius.
        probe: whether to measure the sharpness, which costs one more forward pass.
    """
    parameters = list(head.parameters())
    first = objective(0)
    optimiser.zero_grad()
    first.surrogate.backward()
    gradient = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    norm = _norm(gradient)
    second, sharpness, epsilon = None, float("nan"), []
    if rho > 0:
        before = [p.detach().clone() for p in parameters]
        epsilon = [
            g * (rho / (norm + TINY)) if perturbation == "l2" else rho * g.sign() for g in gradient
        ]
        with torch.no_grad():
            for p, e in zip(parameters, epsilon, strict=True):
                p.add_(e)
        optimiser.zero_grad()
        with frozen_statistics(head):
            second = objective(1)
            second.surrogate.backward()
            if probe:
                with torch.no_grad():
                    sharpness = objective(0).value - first.value
        with torch.no_grad():
            for p, saved in zip(parameters, before, strict=True):
                p.copy_(saved)
    update = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    optimiser.step()
    record = StepRecord(
        first.mean_loss, first.value, first.threshold, float(norm), _norm_of(epsilon), sharpness
    )
    return StepTrace(record, first, second, gradient, epsilon, update)


def _norm(tensors: list[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t) for t in tensors]))


def _norm_of(tensors: list[Tensor]) -> float:
    return float(_norm(tensors)) if tensors else 0.0


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """BatchNorm normalises by the batch and leaves its running statistics alone."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    tracked = [norm.track_running_stats for norm in norms]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, track in zip(norms, tracked, strict=True):
            norm.track_running_stats = track
