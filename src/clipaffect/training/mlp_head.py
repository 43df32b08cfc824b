"""The head: a small MLP with externally supplied dropout masks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from clipaffect.training.matmul import affine


class Head(nn.Module):
    """``hidden_layers`` x [Linear, BatchNorm, ReLU, Dropout], then Linear to the targets.

    As in the paper's published code; its 4 linear layers are ``hidden_layers=3``. Weights are
    He-uniform, biases as torch's Linear has them: uniform within 1 / sqrt(inputs).

    Args:
        inputs: feature dimension.
        outputs: classes or units.
        hidden_layers: number of blocks.
        width: units of a block.
        seed: of the initialisation.
    """

    def __init__(
        self, inputs: int, outputs: int, hidden_layers: int, width: int, seed: int = 0
    ) -> None:
        super().__init__()
        sizes = [inputs, *[width] * hidden_layers]
        pairs = itertools.pairwise(sizes)
        self.linears = nn.ModuleList(_undrawn(a, b) for a, b in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(hidden_layers))
        self.output = _undrawn(sizes[-1], outputs)
        generator = torch.Generator().manual_seed(seed)
        for linear in [*self.linears, self.output]:
            nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu", generator=generator)
            bound = linear.in_features**-0.5
            nn.init.uniform_(linear.bias, -bound, bound, generator=generator)

    def forward(self, features: Tensor, masks: list[Tensor] | None = None) -> Tensor:
        """Logits (B, outputs).

        Args:
            features: (B, inputs).
            masks: dropout masks (B, width), one a block, already scaled; only in training.
        """
        x = features
        for index, (linear, norm) in enumerate(zip(self.linears, self.norms, strict=True)):
            x = torch.relu(norm(linear(x)))
            if masks is not None:
                x = x * masks[index]
        logits: Tensor = self.output(x)
        return logits

    def blocks(self) -> list[tuple[nn.Linear, nn.BatchNorm1d]]:
        """The hidden layers' products and normalisations."""
        pairs = zip(self.linears, self.norms, strict=True)
        return [(cast(nn.Linear, a), cast(nn.BatchNorm1d, b)) for a, b in pairs]

    @torch.no_grad()
    def folded(self) -> list[tuple[Tensor, Tensor]]:
        """(weight, bias) of each layer in evaluation, BatchNorm's running statistics folded in."""
        layers = []
        for linear, norm in self.blocks():
            mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
            scale = norm.weight * torch.rsqrt(variance + norm.eps)
            bias = (linear.bias - mean) * scale + norm.bias
            layers.append((linear.weight * scale[:, None], bias))
        return [*layers, (self.output.weight.detach(), self.output.bias.detach())]


def _undrawn(inputs: int, outputs: int) -> nn.Linear:
    """A layer without initialised weights; torch's ``skip_init`` would import sympy (0.3 s)."""
    linear = nn.Linear(inputs, outputs, device="meta")
    linear.weight = nn.Parameter(torch.empty(outputs, inputs))
    linear.bias = nn.Parameter(torch.empty(outputs))
    return linear


def folded_logits(layers: list[tuple[Tensor, Tensor]], features: Tensor) -> Tensor:
    """Logits (B, outputs) in evaluation, from ``Head.folded``: one product a layer."""
    x = features
    for weight, bias in layers[:-1]:
        x = affine(x, weight, bias).relu_()
    return affine(x, *layers[-1])


class DropoutMasks:
    """Masks from a counter-based generator (Philox), keyed by seed, step, pass and layer.

    They do not depend on other heads, on threads or on a resume, so all alphas of a seed see the
    same masks and are compared pairwise. A step's masks are one stretch of the generator's output,
    pass by pass and layer by layer: one call for all of them takes a third of the time of six.

    Args:
        seed: the head's seed.
        rate: share of units dropped.
        layers: number of masks.
        width: units of each.
    """

    def __init__(self, seed: int, rate: float, layers: int, width: int) -> None:
        self.seed, self.rate, self.layers, self.width = seed, rate, layers, width

    def scaled(self, step: int, passes: int, batch: int, dtype: torch.dtype) -> Tensor:
        """Masks of a step's passes: (passes, layers, batch, width), 0 or 1 / (1 - rate)."""
        shape = (passes, self.layers, batch, self.width)
        count = math.prod(shape)
        philox = np.random.Philox(key=self.seed, counter=[0, 0, 0, step])
        bits = philox.random_raw(-(-count // 4)).view(np.uint16)[:count]
        kept = bits >= round(self.rate * 65536)
        kind = np.float64 if dtype == torch.float64 else np.float32
        # in one go: torch's conversion from bool takes three times as long
        return torch.from_numpy(np.multiply(kept, kind(1 / (1 - self.rate)), dtype=kind)).view(
            shape
        )

    def __call__(self, step: int, sam_pass: int, batch: int, like: Tensor) -> list[Tensor] | None:
        """Masks (batch, width) for each layer, of ``like``'s precision; None without dropout."""
        if self.rate == 0:
            return None
        return list(self.scaled(step, sam_pass + 1, batch, like.dtype)[sam_pass])


def evaluator(head: nn.Module) -> Callable[[Tensor], Tensor]:
    """Logits (B, targets) of a finished head; the MLP's BatchNorm is folded into its products."""
    if isinstance(head, Head):
        layers = head.folded()
        return lambda features: folded_logits(layers, features)

    @torch.inference_mode()
    def logits(features: Tensor) -> Tensor:
        return head.eval()(features)

    return logits
