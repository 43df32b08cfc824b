"""One training step: sharpness-aware minimisation around a CVaR loss (the readable reference)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clipaffect.training.losses import cvar

TINY = 1e-12  # keeps a zero gradient from dividing by zero


@dataclass(frozen=True)
class StepRecord:
    """What one step saw.

    Attributes:
        mean_loss, cvar, threshold: plain mean, CVaR and its lambda at the unperturbed weights.
        gradient_norm: L2 norm of the CVaR gradient over all parameters.
        perturbed_cvar: CVaR at w + epsilon; NaN without SAM.
    """

    mean_loss: float
    cvar: float
    threshold: float
    gradient_norm: float
    perturbed_cvar: float


def sam_step(
    parameters: list[nn.Parameter],
    losses: Callable[[int], Tensor],
    optimiser: torch.optim.Optimizer,
    alpha: float,
    rho: float,
) -> StepRecord:
    """Take one step on CVaR at level ``alpha`` with SAM radius ``rho``.

    epsilon = rho * g / ||g||, one L2 norm over all parameters (Foret et al. 2021, eq. 2 with
    p = 2; published code of arXiv 2403.09915); the gradient at w + epsilon moves w. With
    ``rho`` = 0 there is one pass and the step is the base optimiser's.

    Args:
        parameters: what is trained.
        losses: single losses (n,) of the batch; called with 0 for the first pass (BatchNorm
            statistics follow) and 1 for the second (they do not).
        optimiser: over the same parameters.
    """
    first = losses(0)
    value, threshold = cvar(first, alpha)
    optimiser.zero_grad()
    value.backward()
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
    perturbed = float("nan")
    if rho > 0:
        before = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p.add_(g * (rho / (norm + TINY)))
        optimiser.zero_grad()
        second, _ = cvar(losses(1), alpha)
        second.backward()
        perturbed = float(second.detach())
        with torch.no_grad():
            for p, saved in zip(parameters, before, strict=True):
                p.copy_(saved)
    optimiser.step()
    mean = float(first.detach().mean()) if first.numel() else float("nan")
    return StepRecord(mean, float(value.detach()), threshold, float(norm), perturbed)
