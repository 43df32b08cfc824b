"""The cost of training: operations per step, the machine's matrix peak, and the rate achieved.

Nothing here affects a result; it is written to ``timings/``.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from clipaffect.config.training import Recipe
from clipaffect.core.files import write_text
from clipaffect.core.tasks import Task
from clipaffect.training.backends.sam_products import is_low_rank
from clipaffect.training.matmul import affine


def flop_per_sample(recipe: Recipe, inputs: int, outputs: int) -> int:
    """Floating-point operations of the MLP's matrix products for one frame and step, as described.

    Forward and weight gradient cost 2 a weight each, the gradient at a layer's inputs as much
    except for the first layer; SAM takes two passes.
    """
    sizes = [inputs, *[recipe.width] * recipe.hidden_layers, outputs]
    products = [a * b for a, b in itertools.pairwise(sizes)]
    one_pass = 2 * (2 * sum(products) + sum(products[1:]))
    return one_pass * (2 if recipe.rho > 0 else 1)


def executed_per_sample(recipe: Recipe, inputs: int, outputs: int) -> int:
    """What the fast step really executes: less, where SAM's perturbation is of low rank.

    Such a layer of a inputs and b outputs saves the first pass's weight gradient (and the first
    layer its second product) and takes products with the B frames instead: x x' and dz dz', then
    (x2 x') dz, and but for the first layer (dz2 dz') x.
    """
    saved = 0
    for layer in range(recipe.hidden_layers):
        a, b = inputs if layer == 0 else recipe.width, recipe.width
        if is_low_rank(recipe, b, a):
            first = layer == 0
            saved += 2 * a * b * (2 if first else 1)
            saved -= 2 * recipe.batch * (a + b) * (2 if first else 3)
    return flop_per_sample(recipe, inputs, outputs) - saved


def matrix_peak(dtype: torch.dtype, product: Callable[[Tensor, Tensor], Tensor] = affine) -> float:
    """Operations a second of a large square product on the CPU, best of several (about 0.2 s)."""
    size = 1024
    a = torch.ones(size, size, dtype=dtype)
    best = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        product(a, a)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


class Timings:
    """Sums what a job trained.

    Args:
        task: its targets are the head's outputs.
        inputs: feature dimension.
        device: ``cpu`` or ``cuda``, as configured.
    """

    def __init__(self, task: Task, inputs: int, device: str = "cpu") -> None:
        self.task, self.inputs, self.device = task, inputs, device
        self.samples, self.flop, self.seconds = 0, 0, 0.0
        self.counts_flop = True

    def add(self, recipe: Recipe, samples: int, seconds: float) -> None:
        """Record frames times epochs of one head and the time they took."""
        self.samples += samples
        self.seconds += seconds
        self.counts_flop &= recipe.head == "mlp"
        self.flop += samples * executed_per_sample(recipe, self.inputs, len(self.task.targets))

    def write(self, path: Path) -> None:
        """Write ``samples_per_second`` and ``share_of_matrix_peak``: executed, float32, one thread.

        Of the training steps alone. Null where every head came from the store, or a head is
        not the MLP; the share also on a GPU, which ``clipaffect gpu-check`` measures.
        """
        trained = self.seconds > 0
        share = None
        if trained and self.counts_flop and self.device == "cpu":
            share = self.flop / self.seconds / matrix_peak(torch.float32)
        values = {
            "samples": self.samples,
            "seconds": self.seconds,
            "samples_per_second": self.samples / self.seconds if trained else None,
            "share_of_matrix_peak": share,
        }
        write_text(path, json.dumps(values, indent=1) + "\n")
