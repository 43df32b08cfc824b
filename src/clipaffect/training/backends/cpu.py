"""A handwritten training step for the MLP: no autograd, flat buffers, one thread.

It computes what ``step.training_step`` does (tested against it in float64), several times as fast
on a CPU core, because at these sizes memory traffic and dispatch cost nearly as much as the
products:

- forward and backward call torch's own BatchNorm and product kernels directly;
- the perturbed weights are never copied or restored, and at small batches never written at all
  (``sam_products.py``);
- AdamW runs on a layer while its gradient is in the cache.

Equations, for one layer x -> z = x W' + b -> y = BatchNorm(z) -> h = dropout(relu(y)):
dW = dz' x, db = sum dz, dx = dz W, with dz from dy by BatchNorm's backward kernel and
dy = dh * mask * [h > 0].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clipaffect.config.training import Recipe
from clipaffect.core.tasks import NOT_ANNOTATED, Task
from clipaffect.training.backends.sam_products import (
    DenseProduct,
    LowRankProduct,
    Product,
    is_low_rank,
    square_norm,
)
from clipaffect.training.fused_adamw import fused_adamw
from clipaffect.training.losses.base import Risk, Weighted, logit_gradient, single_losses
from clipaffect.training.mlp_head import DropoutMasks, Head, evaluator
from clipaffect.training.sam import TINY, StepRecord


@dataclass
class _Layer:
    """One layer: its matrix's product, and its vectors [bias, (scale, shift)] in each role."""

    product: Product
    own: list[Tensor]
    moved: list[Tensor]  # the first pass's gradient, then w + epsilon
    update: list[Tensor]  # the gradient that AdamW is given
    vectors: tuple[Tensor, Tensor, Tensor]  # in one piece: own, moved, update
    weights: list[Tensor]  # what AdamW moves: the matrix, the vectors in one piece
    moment: list[Tensor]
    square: list[Tensor]
    count: list[Tensor]  # AdamW's steps
    norm: nn.BatchNorm1d | None


@dataclass
class _Block:
    """What the backward pass needs from a layer."""

    inputs: Tensor
    norm: tuple[Tensor, Tensor, Tensor] | None  # products, mean, 1 / deviation
    mask: Tensor | None  # of dropout
    outputs: Tensor


@dataclass
class _Pass:
    """One forward pass: the risk, the mean loss, and what backward needs."""

    weighed: Weighted
    mean_loss: float
    blocks: list[_Block]
    d_logits: Tensor


class FastLearner:
    """Trains one MLP head.

    Args:
        head: its parameters become views of this object's buffers, so it is always up to date.
        risk: weighs the single losses.
        task, recipe: what a single loss is; SAM and AdamW.
        seed: of the dropout masks.
    """

    def __init__(self, head: Head, risk: Risk, task: Task, recipe: Recipe, seed: int) -> None:
        self.head, self.risk, self.task, self.recipe = head, risk, task, recipe
        self.masks = DropoutMasks(seed, recipe.dropout, recipe.hidden_layers, recipe.width)
        groups: list[tuple[nn.Linear, nn.BatchNorm1d | None]] = [*head.blocks()]
        groups.append((head.output, None))
        parameters = [
            [*linear.parameters(), *(norm.parameters() if norm else ())] for linear, norm in groups
        ]
        sizes = [sum(p.numel() for p in group) for group in parameters]
        like = head.output.weight.detach()
        self.dtype = like.dtype
        self.weights, self.moment, self.square = (like.new_zeros(sum(sizes)) for _ in range(3))
        self.layers: list[_Layer] = []
        start = 0
        for (_, norm), group, size in zip(groups, parameters, sizes, strict=True):
            self.layers.append(self._layer(norm, group, slice(start, start + size)))
            start += size
        self.drop: Tensor | None = None  # the step's dropout masks
        self.complete = False
        self._logits: Callable[[Tensor], Tensor] | None = None

    def _layer(
        self, norm: nn.BatchNorm1d | None, group: list[nn.Parameter], place: slice
    ) -> _Layer:
        """A layer whose parameters become views of the flat buffers at ``place``."""
        own = _views(self.weights[place], group)
        for parameter, view in zip(group, own, strict=True):
            view.copy_(parameter.detach())
            parameter.data = view
        first = group[0].numel()
        weights, moment, square = (
            list(flat[place].split((first, flat[place].numel() - first)))
            for flat in (self.weights, self.moment, self.square)
        )
        moved, update = (torch.zeros_like(weights[1]) for _ in range(2))
        return _Layer(
            self._product(own[0], norm is not None),
            own[1:],
            _views(moved, group[1:]),
            _views(update, group[1:]),
            (weights[1], moved, update),
            weights,
            moment,
            square,
            [torch.zeros(()), torch.zeros(())],
            norm,
        )

    def _product(self, weight: Tensor, has_norm: bool) -> Product:
        bf16 = self.recipe.products == "bf16"
        if has_norm and is_low_rank(self.recipe, *weight.shape):
            return LowRankProduct(weight, bf16)
        return DenseProduct(weight, bf16)

    @torch.no_grad()
    def step(
        self, features: Tensor, labels: Tensor, number: int, learning_rate: float, probe: bool
    ) -> StepRecord:
        """Take one step; see ``Learner``."""
        self._logits = None
        x = features.to(self.dtype)
        self.complete = self.task.multilabel and bool((labels != NOT_ANNOTATED).all())
        for layer in self.layers:
            layer.product.begin()
        if self.masks.rate:
            passes = 2 if self.recipe.rho else 1
            self.drop = self.masks.scaled(number, passes, len(x), self.dtype)
        first = self._forward(x, labels, 0, False)
        length, sharpness = 0.0, float("nan")
        if self.recipe.rho == 0:
            norm = math.sqrt(self._descend(first, False, learning_rate))
        else:
            norm = math.sqrt(self._ascend(first))
            length = self._perturb(norm)
            if probe:
                again = self._forward(x, labels, 0, True)
                sharpness = float(again.weighed.value) - float(first.weighed.value)
            second = self._forward(x, labels, 1, True)
            self._descend(second, True, learning_rate)
        value, threshold = float(first.weighed.value), float(first.weighed.threshold)
        return StepRecord(first.mean_loss, value, threshold, norm, length, sharpness)

    def _forward(self, x: Tensor, labels: Tensor, sam_pass: int, perturbed: bool) -> _Pass:
        h, blocks = x, []
        for index, layer in enumerate(self.layers):
            bias, *affine = layer.moved if perturbed else layer.own
            z = layer.product.forward(h, bias, perturbed)
            norm = layer.norm
            if norm is None:
                blocks.append(_Block(h, None, None, z))
                break
            # Running statistics follow the first pass only: without them the kernel normalises
            # by the batch and updates nothing.
            statistics = (None, None) if perturbed else (norm.running_mean, norm.running_var)
            if not perturbed and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
            y, mean, rstd = torch.native_batch_norm(
                z, affine[0], affine[1], *statistics, True, norm.momentum or 0.0, norm.eps
            )
            y.relu_()
            mask = None if self.drop is None else self.drop[sam_pass, index]
            if mask is not None:
                y.mul_(mask)
            blocks.append(_Block(h, (z, mean, rstd), mask, y))
            h = y
        over, task = self.recipe.loss_over, self.task
        losses = single_losses(z, labels, task, over, self.complete)
        weighed = self.risk(losses)
        mean_loss = float(losses.values.mean())
        if losses.known is not None:
            counted = int(losses.known.sum())
            mean_loss = float(losses.values.sum()) / counted if counted else float("nan")
        d_logits = logit_gradient(z, labels, weighed.weights, task, over, self.complete)
        return _Pass(weighed, mean_loss, blocks, d_logits)

    def _ascend(self, done: _Pass) -> float:
        """SAM's first gradient; returns the sum of its squares."""
        squares, dz = 0.0, done.d_logits
        for index in range(len(self.layers) - 1, -1, -1):
            layer, block = self.layers[index], done.blocks[index]
            dz = self._through_norm(dz, layer, block, layer.own, layer.moved)
            squares += layer.product.first_gradient(block.inputs, dz)
            squares += square_norm(layer.vectors[1])
            if index:
                dz = layer.product.backward(dz, False)
        return squares

    def _perturb(self, norm: float) -> float:
        """Go to w + epsilon; returns the length of epsilon."""
        sign = self.recipe.perturbation == "sign"
        scale = self.recipe.rho if sign else self.recipe.rho / (norm + TINY)
        length = norm * scale
        moving = 0
        for layer in self.layers:
            moving += layer.product.perturb(scale, sign)
            own, moved, _ = layer.vectors
            if sign:
                moving += int(moved.sign_().count_nonzero())
            torch.add(own, moved, alpha=scale, out=moved)
        return scale * moving**0.5 if sign else length

    def _descend(self, done: _Pass, perturbed: bool, learning_rate: float) -> float:
        """The gradient that moves the weights, layer by layer with AdamW.

        Returns the sum of its squares if this is the only pass, else 0.
        """
        squares, dz = 0.0, done.d_logits
        for index in range(len(self.layers) - 1, -1, -1):
            layer, block = self.layers[index], done.blocks[index]
            at = layer.moved if perturbed else layer.own
            dz = self._through_norm(dz, layer, block, at, layer.update)
            gradient = layer.product.gradient(block.inputs, dz)
            if index:
                dx = layer.product.backward(dz, perturbed)
            update = [gradient.view(-1), layer.vectors[2]]
            if not perturbed:
                squares += sum(square_norm(part) for part in update)
            fused_adamw(
                layer.weights,
                update,
                layer.moment,
                layer.square,
                layer.count,
                learning_rate,
                self.recipe.weight_decay,
            )
            if index:
                dz = dx
        return squares

    def _through_norm(
        self, dz: Tensor, layer: _Layer, block: _Block, at: list[Tensor], into: list[Tensor]
    ) -> Tensor:
        """Gradient at a layer's product; its vectors' gradients are written to ``into``."""
        if layer.norm is not None and block.norm is not None:
            products, mean, rstd = block.norm
            if block.mask is not None:
                dz.mul_(block.mask)
            dz = torch.ops.aten.threshold_backward(dz, block.outputs, 0)
            dz, d_scale, d_shift = torch.ops.aten.native_batch_norm_backward(
                dz,
                products,
                at[1],
                None,
                None,
                mean,
                rstd,
                True,
                layer.norm.eps,
                [True, True, True],
            )
            into[1].copy_(d_scale)
            into[2].copy_(d_shift)
        torch.sum(dz, 0, out=into[0])
        return dz

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """Logits in evaluation mode."""
        if self._logits is None:
            self._logits = evaluator(self.head)
        return self._logits(features.to(self.dtype))

    def state(self) -> dict[str, Tensor]:
        """Weights, moments, AdamW's count and BatchNorm's statistics."""
        found = {
            "weights": self.weights,
            "moment": self.moment,
            "square": self.square,
            "count": self.layers[0].count[0],
        }
        found |= dict(self.head.named_buffers())
        return {name: value.clone() for name, value in found.items()}

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Resume from a ``state``."""
        self._logits = None
        self.weights.copy_(state["weights"])
        self.moment.copy_(state["moment"])
        self.square.copy_(state["square"])
        for layer in self.layers:
            for count in layer.count:
                count.copy_(state["count"])
        for name, value in self.head.named_buffers():
            value.copy_(state[name])

    def head_state(self) -> dict[str, Tensor]:
        """The head's own state, in separate tensors."""
        return {k: v.detach().clone().contiguous() for k, v in self.head.state_dict().items()}


def _views(buffer: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = buffer.split([tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]
