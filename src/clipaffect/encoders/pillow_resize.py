"""Pillow's resizing as matrix products, to the bit, for batches on any device.

Pillow resizes 8-bit images along the width, then the height. Each output pixel is a sum of input
pixels times weights, which are integers in units of 2^-22, rounded half up to a whole grey level
(Pillow's ``Resample.c``). Such a sum needs more bits than float32 has. So a weight is split in a
high and a low part of 11 bits, whose sums are whole numbers below 2^24: exact in float32, in any
order, also on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

BITS, SPLIT = 22, 11
MOST_TAPS = 2**24 // (2 ** (SPLIT - 1) * 255)  # with more the low sums could pass 2^24


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys's cubic with a = -0.5."""
    a, x = -0.5, np.abs(x)
    inner = ((a + 2) * x - (a + 3)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0.0)


# The filter, and how far it reaches, by Pillow's name.
FILTERS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "bicubic": (_cubic, 2.0),
    "bilinear": (_triangle, 1.0),
}


def integer_weights(before: int, after: int, name: str) -> np.ndarray:
    """(after, before) int64: Pillow's weights of a side's pixels, in units of 2^-22."""
    kernel, reach = FILTERS[name]
    scale = before / after
    stretch = max(scale, 1.0)  # a smaller image averages: the filter is as wide as its pixels
    weights = np.zeros((after, before), np.int64)
    for row in range(after):
        centre = (row + 0.5) * scale
        first = max(int(centre - reach * stretch + 0.5), 0)
        last = min(int(centre + reach * stretch + 0.5), before)
        own = kernel((np.arange(first, last) - centre + 0.5) / stretch)
        own = own / own.sum() * (1 << BITS)
        weights[row, first:last] = np.trunc(own + np.copysign(0.5, own))
    return weights


class PillowResize:
    """Square crops of one side to another.

    Args:
        before, after: sides in pixels.
        name: of the filter, one of ``FILTERS``.
        device: where it computes; products must be true float32.
    """

    def __init__(self, before: int, after: int, name: str, device: str) -> None:
        weights = torch.from_numpy(integer_weights(before, after, name))
        high = (weights + (1 << (SPLIT - 1))) >> SPLIT
        low = weights - (high << SPLIT)
        self.weights = torch.cat([high, low]).t().float().contiguous().to(device)  # (before, 2 x)

    @staticmethod
    def is_exact(before: int, after: int, name: str) -> bool:
        """Whether the sums are exact: a known filter, and no huge crop."""
        if name not in FILTERS:
            return False
        return 2 * FILTERS[name][1] * max(before / after, 1) + 1 <= MOST_TAPS

    def __call__(self, levels: Tensor) -> Tensor:
        """(..., after, after) of (..., before, before), both whole grey levels in float32."""
        return self._rows(self._rows(levels).transpose(-2, -1)).transpose(-2, -1)

    def _rows(self, levels: Tensor) -> Tensor:
        high, low = (levels @ self.weights).int().chunk(2, dim=-1)
        total = (high << SPLIT) + low + (1 << (BITS - 1))
        return (total >> BITS).clamp_(0, 255).float()
