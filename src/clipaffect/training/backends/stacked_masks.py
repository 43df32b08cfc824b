"""Dropout masks of stacked heads, drawn on the device for blocks of steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipaffect.training.backends.philox import philox_uint16

if TYPE_CHECKING:
    from clipaffect.config.training import Recipe

DRAWN_AT_ONCE = 2**24  # numbers of a block of dropout masks: half a gigabyte while it is drawn


class StackedMasks:
    """The masks of ``DropoutMasks``, to the bit, drawn on the device for many steps at once.

    Args:
        seeds: distinct ones, in the order of the stack.
        recipe: dropout, layers, width, and whether a step has SAM's second pass.
        like: of the device and precision of the weights.
    """

    def __init__(self, seeds: list[int], recipe: Recipe, like: Tensor) -> None:
        self.recipe, self.device, self.dtype = recipe, like.device, like.dtype
        self._seeds = torch.tensor(seeds, device=self.device)

    def of_steps(self, first: int, sizes: list[int]) -> Iterator[Tensor | None]:
        """For each step from ``first`` on, of batches of ``sizes``, what ``StackedStep`` takes."""
        recipe, done = self.recipe, 0
        if recipe.dropout == 0 or recipe.hidden_layers == 0:
            yield from [None] * len(sizes)
            return
        while done < len(sizes):
            size = sizes[done]
            count = (2 if recipe.rho else 1) * recipe.hidden_layers * size * recipe.width
            most = max(1, DRAWN_AT_ONCE // (count * len(self._seeds)))
            steps = 1
            while steps < most and sizes[done + steps : done + steps + 1] == [size]:
                steps += 1
            yield from self.draw(first + done, steps, size)
            done += steps

    def draw(self, first: int, steps: int, batch: int) -> Tensor:
        """(steps, S, passes, layers, batch, width): 0 or 1 / (1 - rate)."""
        recipe = self.recipe
        shape = (2 if recipe.rho else 1, recipe.hidden_layers, batch, recipe.width)
        counters = torch.arange(first, first + steps, device=self.device)
        bits = philox_uint16(self._seeds, counters, math.prod(shape))
        kept = (bits >= round(recipe.dropout * 65536)).to(self.dtype)
        return kept.mul_(1 / (1 - recipe.dropout)).unflatten(-1, shape)
