"""What a stacked step asks of a device, counted without one: operations, bytes, arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from clipaffect.core.tasks import EXPR
from clipaffect.training.backends.stacked_masks import StackedMasks
from clipaffect.training.backends.stacked_step import StackedStep
from clipaffect.training.losses.exact_cvar import Cvar
from clipaffect.training.mlp_head import Head

if TYPE_CHECKING:
    from clipaffect.config.training import Recipe

STEPS = 64  # over which the drawing of masks is averaged


@dataclass(frozen=True)
class StepCost:
    """Of one step of all heads: operations started, bytes read and written, floating-point work."""

    operations: float
    bytes: float
    flop: float


class Counted(TorchDispatchMode):
    """Counts the operations that a device would run in its block."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.bytes, self.flop = 0, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        meta_lacks = func is torch.ops.aten._fused_adamw_.tensor_lr
        result = None if meta_lacks else func(*args, **(kwargs or {}))
        view = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
        if view or func.__name__.startswith(("empty", "new_empty")):
            return result
        self.operations += 1
        tensors = [t for t in tree_flatten((args, kwargs, result))[0] if isinstance(t, Tensor)]
        self.bytes += sum(_held(tensor) for tensor in tensors)
        if "bmm" in func.__name__:
            a, b = args[-2:]
            self.flop += 2 * a.numel() * b.shape[-1]
        return result


def _held(tensor: Tensor) -> int:
    """Bytes in memory: what is expanded lies there once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(n for n, stride in sizes if stride) * tensor.element_size()


def step_cost(recipe: Recipe, heads: int, seeds: int, inputs: int = 768) -> StepCost:
    """Count a step of EXPR heads with exact CVaR, and its share of the drawing of masks.

    Args:
        recipe: of all heads.
        heads: G.
        seeds: S distinct ones among them.
        inputs: feature dimension.
    """
    outputs, batch = len(EXPR.targets), recipe.batch
    with torch.device("meta"):
        made = [Head(inputs, outputs, recipe.hidden_layers, recipe.width).to("meta")] * heads
        levels = torch.full((heads, 1), 0.5, dtype=torch.float64)
        own = [number % seeds for number in range(heads)]
        stack = StackedStep(made, own, Cvar(levels), EXPR, [recipe] * heads, True, "meta")
        masks = StackedMasks(stack.seeds, recipe, stack.bias)
        features = torch.empty(1000, inputs, dtype=torch.float16)
        labels = torch.empty(1000, 1, dtype=torch.int8)
        at = torch.empty(seeds, batch, dtype=torch.int64)
        x, y = features[at], labels[at]
        with Counted() as drawn:
            blocks = list(masks.of_steps(0, [batch] * STEPS))
        drop = blocks[0]
        place = None if drop is None else torch.empty_like(drop)
        for _ in range(2):  # some tables are made once
            with Counted() as counted:
                x.copy_(features[at])  # into the graph's own memory
                y.copy_(labels[at])
                if drop is not None and place is not None:
                    place.copy_(drop)
                stack.step(x, y, place, False).clone()
    return StepCost(
        counted.operations + drawn.operations / STEPS,
        counted.bytes + drawn.bytes / STEPS,
        counted.flop,
    )
