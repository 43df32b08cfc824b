"""The head: a small MLP whose dropout masks come from outside."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm whose running statistics can be left alone while it normalises by the batch."""

    def forward(self, x: Tensor, update_statistics: bool = True) -> Tensor:
        """Normalise (B, width)."""
        if update_statistics or not self.training:
            return super().forward(x)
        return functional.batch_norm(
            x, None, None, self.weight, self.bias, training=True, eps=self.eps
        )


class Head(nn.Module):
    """``hidden_layers`` x [Linear, BatchNorm, ReLU, Dropout], then Linear to the targets.

    As in the paper's published code; its 4 linear layers are ``hidden_layers=3``.

    Args:
        inputs: feature dimension.
        outputs: classes or units.
        hidden_layers: number of blocks.
        width: units of a block.
        seed: of the He-uniform initialisation.
    """

    def __init__(
        self, inputs: int, outputs: int, hidden_layers: int, width: int, seed: int = 0
    ) -> None:
        super().__init__()
        sizes = [inputs, *[width] * hidden_layers]
        pairs = itertools.pairwise(sizes)
        self.linears = nn.ModuleList(nn.utils.skip_init(nn.Linear, a, b) for a, b in pairs)
        self.norms = nn.ModuleList(BatchNorm(width) for _ in range(hidden_layers))
        self.output = nn.utils.skip_init(nn.Linear, sizes[-1], outputs)
        generator = torch.Generator().manual_seed(seed)
        for linear in [*self.linears, self.output]:
            nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(linear.bias)

    def forward(
        self, features: Tensor, masks: list[Tensor] | None = None, update_statistics: bool = True
    ) -> Tensor:
        """Logits (B, outputs).

        Args:
            features: (B, inputs).
            masks: dropout masks (B, width), one a block, already scaled; only in training.
            update_statistics: whether BatchNorm's running statistics follow this batch; SAM's
                second pass leaves them alone. In evaluation the running statistics are used.
        """
        x = features
        for index, (linear, norm) in enumerate(zip(self.linears, self.norms, strict=True)):
            x = torch.relu(norm(linear(x), update_statistics))
            if masks is not None:
                x = x * masks[index]
        logits: Tensor = self.output(x)
        return logits


class DropoutMasks:
    """Masks from a counter-based generator, keyed by seed, step, pass and layer.

    They do not depend on other heads, on threads or on a resume, so all alphas of a seed see the
    same masks and are compared pairwise.

    Args:
        seed: the head's seed.
        rate: share of units dropped.
        layers: number of masks.
        width: units of each.
    """

    def __init__(self, seed: int, rate: float, layers: int, width: int) -> None:
        self.seed, self.rate, self.layers, self.width = seed, rate, layers, width

    def __call__(self, step: int, sam_pass: int, batch: int) -> list[Tensor] | None:
        """Masks (batch, width) for each layer, 0 or 1 / (1 - rate); None without dropout."""
        if self.rate == 0:
            return None
        return [self._mask(step, sam_pass, layer, batch) for layer in range(self.layers)]

    def _mask(self, step: int, sam_pass: int, layer: int, batch: int) -> Tensor:
        count = batch * self.width
        philox = np.random.Philox(key=self.seed, counter=[0, layer, sam_pass, step])
        bits = philox.random_raw(-(-count // 4)).view(np.uint16)[:count]
        kept = bits >= round(self.rate * 65536)
        mask = torch.from_numpy(kept.astype(np.float32)) / (1 - self.rate)
        return mask.view(batch, self.width)
