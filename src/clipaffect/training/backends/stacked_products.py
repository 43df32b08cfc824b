"""The products of ``sam_products.py`` for G heads at once, each with a leading axis of heads.

Activations (G, B, width) lie in memory with the batch as the slowest axis: then one BatchNorm over
(B, G x width) serves all heads, and batched products read and write them in place.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


def room(x: Tensor, width: int) -> Tensor:
    """Memory for activations (G, B, width) of the inputs ``x`` (G, B, in), batch slowest."""
    return x.new_empty(x.shape[1], x.shape[0], width).transpose(0, 1)


def square_norms(gradient: Tensor) -> Tensor:
    """(G,) float64 squared L2 norms of (G, m, n).

    By way of the norms of rows: one float32 sum over a million squares is off.
    """
    rows = torch.linalg.vector_norm(gradient, dim=-1)
    return torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float64).square()


class StackedProduct(Protocol):
    """Products x -> x W' + bias of G heads, plain or at the perturbed weights."""

    weight: Tensor

    def begin(self) -> None:
        """Before a step: the weights have changed."""
        ...

    def forward(self, x: Tensor, bias: Tensor, perturbed: bool) -> Tensor:
        """(G, B, out) of (G, B, in) and (G, out)."""
        ...

    def backward(self, dz: Tensor, perturbed: bool) -> Tensor:
        """dz W: (G, B, in)."""
        ...

    def first_gradient(self, x: Tensor, dz: Tensor) -> Tensor:
        """Record the first pass; returns the (G,) squared norms of its gradients, float64."""
        ...

    def perturb(self, scale: Tensor, sign: bool) -> Tensor | None:
        """Go to W + scale G, with a scale (G,) for each head; or to W + scale sign(G).

        The sign form returns how many weights of each head it moves (G,).
        """
        ...

    def gradient(self, x: Tensor, dz: Tensor) -> Tensor:
        """dz' x (G, out, in), what the optimiser is given."""
        ...


class _Cast:
    """The precision of the products' inputs."""

    def __init__(self, weight: Tensor, bf16: bool) -> None:
        self.weight, self.bf16 = weight, bf16
        self.own = weight

    def begin(self) -> None:
        """Before a step: the weights have changed."""
        self.own = self.cast(self.weight)  # once, for all products of the step

    def cast(self, x: Tensor) -> Tensor:
        return x.bfloat16() if self.bf16 else x

    def affine(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = self.cast(x)
        z = room(x, weight.shape[1])
        if self.bf16:
            return torch.bmm(x, weight.transpose(1, 2), out=z) + bias[:, None]
        return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2), out=z)

    def through(self, dz: Tensor, weight: Tensor) -> Tensor:
        cast = self.cast(dz)
        return torch.bmm(cast, weight, out=room(cast, weight.shape[2])).to(dz.dtype)

    def gradient(self, x: Tensor, dz: Tensor) -> Tensor:
        """See ``StackedProduct``."""
        return torch.bmm(self.cast(dz).transpose(1, 2), self.cast(x)).to(dz.dtype)


class StackedDense(_Cast):
    """Writes the gradients out, and the perturbed weights over them.

    Args:
        weight: (G, out, in).
        bf16: whether the products' inputs are rounded to bfloat16.
    """

    def __init__(self, weight: Tensor, bf16: bool) -> None:
        super().__init__(weight, bf16)
        self.buffer = self.moved = weight

    def forward(self, x: Tensor, bias: Tensor, perturbed: bool) -> Tensor:
        """See ``StackedProduct``."""
        return self.affine(x, self.moved if perturbed else self.own, bias)

    def backward(self, dz: Tensor, perturbed: bool) -> Tensor:
        """See ``StackedProduct``."""
        return self.through(dz, self.moved if perturbed else self.own)

    def first_gradient(self, x: Tensor, dz: Tensor) -> Tensor:
        """See ``StackedProduct``."""
        self.buffer = self.gradient(x, dz)
        return square_norms(self.buffer)

    def perturb(self, scale: Tensor, sign: bool) -> Tensor | None:
        """See ``StackedProduct``."""
        moving = self.buffer.sign_().count_nonzero(dim=(1, 2)) if sign else None
        torch.addcmul(self.weight, self.buffer, scale[:, None, None], out=self.buffer)
        self.moved = self.cast(self.buffer)
        return moving


class StackedLowRank(_Cast):
    """Keeps the first pass's inputs and output gradients instead of their products.

    A BatchNorm must follow. See ``sam_products.py`` for the equations.

    Args:
        weight: (G, out, in).
        bf16: whether the products with the weights round their inputs to bfloat16.
    """

    def __init__(self, weight: Tensor, bf16: bool) -> None:
        super().__init__(weight, bf16)
        self.inputs = self.x = self.dz = self.z = self.bias = self.scale = weight

    def forward(self, x: Tensor, bias: Tensor, perturbed: bool) -> Tensor:
        """See ``StackedProduct``."""
        if not perturbed:
            self.z, self.bias = self.affine(x, self.own, bias), bias
            return self.z
        # In the first layer the plain product is the first pass's.
        same = x is self.inputs
        z = self.z + (bias - self.bias)[:, None] if same else self.affine(x, self.own, bias)
        return z.baddbmm_(self._scaled(x, self.x), self.dz)

    def backward(self, dz: Tensor, perturbed: bool) -> Tensor:
        """See ``StackedProduct``."""
        dx = self.through(dz, self.own)
        return dx.baddbmm_(self._scaled(dz, self.dz), self.x) if perturbed else dx

    def _scaled(self, a: Tensor, b: Tensor) -> Tensor:
        """scale a b': (G, B, B)."""
        return torch.bmm(a, b.transpose(1, 2)).mul_(self.scale)

    def first_gradient(self, x: Tensor, dz: Tensor) -> Tensor:
        """See ``StackedProduct``."""
        self.inputs, self.x, self.dz = x, x - x.mean(1, keepdim=True), dz
        gram = torch.bmm(self.x, self.x.transpose(1, 2))
        total = torch.bmm(dz, dz.transpose(1, 2)).double().mul_(gram).sum((1, 2))
        return total.clamp_(min=0)  # frames that are all alike: rounding may leave it below zero

    def perturb(self, scale: Tensor, sign: bool) -> Tensor | None:
        """See ``StackedProduct``; there is no sign form."""
        self.scale = scale[:, None, None]
        return None
