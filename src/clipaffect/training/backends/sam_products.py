"""A layer's matrix product at its weights and at SAM's perturbed weights, in two variants.

SAM moves a weight matrix W (out, in) by epsilon = s G along its own gradient G = dz' x of the first
pass, where x (B, in) are the layer's inputs and dz (B, out) the gradients at its outputs.

``DenseProduct`` writes G and W + s G out. ``LowRankProduct`` never does: G has rank B at most, so

    |G|^2           = sum of (dz dz') * (x x')             element by element, both (B, B)
    x2 (W + s G)'   = x2 W' + s (x2 x') dz
    dz2 (W + s G)   = dz2 W + s (dz2 dz') x

which costs 2 B^2 (in + out) instead of 2 B in out and saves the traffic of a matrix that is as
large as the layer. Measured at width 768: faster for batches below a sixth of the width. The
frames' gradients cancel in |G|^2, so x is taken less its batch mean: a BatchNorm follows, dz sums
to zero over the batch, and G is the same. (sign(G) has full rank and needs the dense form.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from clipaffect.training.matmul import affine

if TYPE_CHECKING:
    from clipaffect.config.training import Recipe

LOW_RANK_BELOW = 1 / 6  # batch over width; above it the dense form is faster (measured at 768)
ROW = 64  # a norm is that of row norms: one float32 sum over a million squares is off by 3e-5


def is_low_rank(recipe: Recipe, outputs: int, inputs: int) -> bool:
    """Whether a hidden layer's perturbed weights are never written."""
    small = recipe.batch < LOW_RANK_BELOW * min(outputs, inputs)
    return small and recipe.perturbation == "l2" and recipe.rho > 0


class Product(Protocol):
    """A product x -> x W' + bias, plain or at the perturbed weights."""

    def begin(self) -> None:
        """Before a step: the weights have changed."""
        ...

    def forward(self, x: Tensor, bias: Tensor, perturbed: bool) -> Tensor:
        """(B, out)."""
        ...

    def backward(self, dz: Tensor, perturbed: bool) -> Tensor:
        """dz W: (B, in)."""
        ...

    def first_gradient(self, x: Tensor, dz: Tensor) -> float:
        """Record the first pass; returns the squared norm of its gradient."""
        ...

    def perturb(self, scale: float, sign: bool) -> int:
        """Go to W + scale G, or W + scale sign(G); returns how many weights the sign form moves."""
        ...

    def gradient(self, x: Tensor, dz: Tensor) -> Tensor:
        """dz' x (out, in), what the optimiser is given."""
        ...


class _Cast:
    """The precision of the products' inputs."""

    def __init__(self, weight: Tensor, bf16: bool) -> None:
        self.weight, self.bf16 = weight, bf16
        self.dtype = weight.dtype
        self.own = weight

    def begin(self) -> None:
        """Before a step: the weights have changed."""
        self.own = self.cast(self.weight)

    def cast(self, x: Tensor) -> Tensor:
        return x.bfloat16() if self.bf16 else x

    def affine(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if self.bf16:
            return torch.mm(self.cast(x), weight.t()).to(self.dtype).add_(bias)
        return affine(x, weight, bias)

    def through(self, dz: Tensor, weight: Tensor) -> Tensor:
        return affine(self.cast(dz), weight.t()).to(self.dtype)

    def gradient(self, x: Tensor, dz: Tensor) -> Tensor:
        """See ``Product``."""
        return affine(self.cast(dz).t(), self.cast(x).t()).to(self.dtype)


class DenseProduct(_Cast):
    """Writes the gradient out, and the perturbed weights over it.

    Args:
        weight: (out, in).
        bf16: whether the products' inputs are rounded to bfloat16.
    """

    def __init__(self, weight: Tensor, bf16: bool) -> None:
        super().__init__(weight, bf16)
        self.buffer = self.moved = weight[:0]

    def forward(self, x: Tensor, bias: Tensor, perturbed: bool) -> Tensor:
        """See ``Product``."""
        return self.affine(x, self.moved if perturbed else self.own, bias)

    def backward(self, dz: Tensor, perturbed: bool) -> Tensor:
        """See ``Product``."""
        return self.through(dz, self.moved if perturbed else self.own)

    def first_gradient(self, x: Tensor, dz: Tensor) -> float:
        """See ``Product``."""
        self.buffer = self.gradient(x, dz)
        return square_norm(self.buffer)

    def perturb(self, scale: float, sign: bool) -> int:
        """See ``Product``."""
        moving = int(self.buffer.sign_().count_nonzero()) if sign else 0
        torch.add(self.weight, self.buffer, alpha=scale, out=self.buffer)
        self.moved = self.cast(self.buffer)
        return moving


class LowRankProduct(_Cast):
    """Keeps the first pass's inputs and output gradients instead of their product.

    A BatchNorm must follow.

    Args:
        weight: (out, in).
        bf16: whether the products with the weights round their inputs to bfloat16.
    """

    def __init__(self, weight: Tensor, bf16: bool) -> None:
        super().__init__(weight, bf16)
        self.inputs = self.x = self.dz = self.z = self.bias = weight[:0]
        self.scale = 0.0

    def forward(self, x: Tensor, bias: Tensor, perturbed: bool) -> Tensor:
        """See ``Product``."""
        if not perturbed:
            z = self.affine(x, self.own, bias)
            self.z, self.bias = z, bias
            return z
        # In the first layer the plain product is the first pass's.
        same = x is self.inputs
        z = self.z + (bias - self.bias) if same else self.affine(x, self.own, bias)
        return z.addmm_(torch.mm(x, self.x.t()), self.dz, alpha=self.scale)

    def backward(self, dz: Tensor, perturbed: bool) -> Tensor:
        """See ``Product``."""
        dx = self.through(dz, self.own)
        if perturbed:
            dx.addmm_(torch.mm(dz, self.dz.t()), self.x, alpha=self.scale)
        return dx

    def first_gradient(self, x: Tensor, dz: Tensor) -> float:
        """See ``Product``."""
        self.inputs, self.x, self.dz = x, x - x.mean(0), dz
        gram = torch.mm(self.x, self.x.t())
        total = float(torch.mm(dz, dz.t()).double().mul_(gram).sum())
        return max(total, 0.0)  # frames that are all alike: rounding may leave it below zero

    def perturb(self, scale: float, sign: bool) -> int:
        """See ``Product``; there is no sign form."""
        self.scale = scale
        return 0


def square_norm(matrix: Tensor) -> float:
    """Square of the L2 norm, exact to float32's last digits."""
    flat = matrix.reshape(-1)
    whole = flat.numel() - flat.numel() % ROW
    rows = torch.linalg.vector_norm(flat[:whole].view(-1, ROW), dim=1)
    rest = flat[whole:]
    total = float(torch.linalg.vector_norm(rows)) ** 2
    return total + (float(torch.linalg.vector_norm(rest)) ** 2 if len(rest) else 0.0)
