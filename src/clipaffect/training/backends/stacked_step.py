"""One step of many MLP heads together: the equations of ``cpu.py`` with a leading axis of heads.

A GPU is bound by launches and memory at these sizes, so all heads of a job share every operation.
(On a CPU stacking gains nothing at width 768: each head streams its own weights.) It is ordinary
torch and is tested on the CPU. Dropout masks and batches are those of the CPU's step, so the two
differ by rounding alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipaffect.core.tasks import Task
from clipaffect.training.backends.sam_products import is_low_rank
from clipaffect.training.backends.stacked_products import (
    StackedDense,
    StackedLowRank,
    StackedProduct,
    square_norms,
)
from clipaffect.training.fused_adamw import fused_adamw
from clipaffect.training.losses.base import Risk, Weighted, logit_gradient, single_losses
from clipaffect.training.mlp_head import Head
from clipaffect.training.sam import TINY, StepRecord

if TYPE_CHECKING:
    from clipaffect.config.training import Recipe

FIELDS = [field.name for field in fields(StepRecord)]
MOMENTUM, NORM_EPSILON = 0.1, 1e-5  # of torch's BatchNorm1d


@dataclass
class _Block:
    """What the backward pass needs from a hidden layer; activations are (G, B, width)."""

    inputs: Tensor
    norm: tuple[Tensor, Tensor, Tensor]  # products (B, G width), mean, 1 / deviation
    mask: Tensor | None  # of dropout
    outputs: Tensor


@dataclass
class _Pass:
    """One forward pass: the risk, the mean loss, and what backward needs."""

    weighed: Weighted
    mean_loss: Tensor
    d_logits: Tensor
    blocks: list[_Block]
    inputs: Tensor  # of the output layer


class StackedStep:
    """Trains G heads together.

    Args:
        heads: initial modules, all of one shape.
        seeds: (G,) of each head's batches and dropout masks.
        risk: weighs stacked losses (G, n).
        task: the task.
        recipes: of each head; they differ in nothing but the loss and rho, and none or all have
            rho = 0.
        complete: whether every training label is annotated.
        device: where it runs.
    """

    def __init__(
        self,
        heads: list[Head],
        seeds: list[int],
        risk: Risk,
        task: Task,
        recipes: list[Recipe],
        complete: bool,
        device: str,
    ) -> None:
        self.risk, self.task, self.recipe, self.complete = risk, task, recipes[0], complete
        self.seeds = sorted(set(seeds))  # each once: heads that share one share batches and masks
        self._seed_of = torch.tensor([self.seeds.index(s) for s in seeds], device=device)
        parameters = [dict(head.named_parameters()) for head in heads]

        def stacked(name: str) -> Tensor:
            return torch.stack([own[name].detach() for own in parameters]).to(device)

        layers, bf16 = self.recipe.hidden_layers, self.recipe.products == "bf16"
        self.products: list[StackedProduct] = []
        for index in range(layers):
            weight = stacked(f"linears.{index}.weight")
            low = is_low_rank(self.recipe, *weight.shape[1:])
            self.products.append((StackedLowRank if low else StackedDense)(weight, bf16))
        self.products.append(StackedDense(stacked("output.weight"), bf16))
        bias = stacked("output.bias")
        # (3 layers, G, width): of each hidden layer the bias, BatchNorm's scale and its shift.
        names = [name for k in range(layers) for name in _vectors(k)]
        vectors = [stacked(name) for name in names]
        width = self.recipe.width
        self.vectors = torch.stack(vectors) if names else bias.new_zeros(0, len(heads), width)
        self.bias = bias
        self.weights = [*(product.weight for product in self.products), self.vectors, self.bias]
        self.moment, self.square = (
            [torch.zeros_like(weight) for weight in self.weights] for _ in range(2)
        )
        # AdamW's steps, one number for each tensor.
        self.counts = torch.zeros(len(self.weights), device=device)
        self._count = list(self.counts.unbind())
        self.rate = bias.new_zeros(())
        self.rho = torch.tensor([r.rho for r in recipes], dtype=bias.dtype).to(device)
        self.means = bias.new_zeros(layers, len(heads), width)
        self.variances = bias.new_ones(layers, len(heads), width)

    @torch.no_grad()
    def step(self, features: Tensor, labels: Tensor, masks: Tensor | None, probe: bool) -> Tensor:
        """Take a step at ``rate``, which the caller sets; no host synchronisation.

        Args:
            features: (S, B, d), a batch for each distinct seed in ascending order.
            labels: (S, B, 1 or 12).
            masks: (S, passes, layers, B, width), scaled, for one pass, or two with SAM; None
                without dropout.
            probe: whether to measure the sharpness.

        Returns:
            (6, G): the fields of ``StepRecord``.
        """
        for product in self.products:
            product.begin()
        x = features[self._seed_of].to(self.bias.dtype)
        y = labels[self._seed_of]
        if masks is not None:
            masks = masks[self._seed_of]
        own = (self.vectors, self.bias)
        first = self._forward(x, y, own, masks, 0, False)
        if self.recipe.rho == 0:
            gradients, norm = self._descend(first, own, False)
            length, sharpness = torch.zeros_like(norm), torch.full_like(norm, torch.nan)
        else:
            vectors, bias, norm = self._ascend(first)
            moved, length = self._perturb(vectors, bias, norm)
            sharpness = torch.full_like(norm, torch.nan)
            if probe:
                again = self._forward(x, y, moved, masks, 0, True)
                sharpness = again.weighed.value - first.weighed.value
            second = self._forward(x, y, moved, masks, 1, True)
            gradients, _ = self._descend(second, moved, True)
        fused_adamw(
            self.weights,
            gradients,
            self.moment,
            self.square,
            self._count,
            self.rate,
            self.recipe.weight_decay,
        )
        weighed = first.weighed
        record = (first.mean_loss, weighed.value, weighed.threshold, norm, length, sharpness)
        return torch.stack(record)

    def _forward(
        self,
        x: Tensor,
        labels: Tensor,
        at: tuple[Tensor, Tensor],
        masks: Tensor | None,
        sam_pass: int,
        perturbed: bool,
    ) -> _Pass:
        vectors, out_bias = at
        h, blocks = x, []
        for index, product in enumerate(self.products[:-1]):
            bias, scale, shift = vectors[3 * index : 3 * index + 3]
            z = _flat(product.forward(h, bias, perturbed))
            # Running statistics follow the first pass only: without them the kernel normalises by
            # the batch and updates nothing.
            running = (None, None) if perturbed else self._statistics(index)
            y, mean, rstd = torch.ops.aten.native_batch_norm(
                z, scale.view(-1), shift.view(-1), *running, True, MOMENTUM, NORM_EPSILON
            )
            outputs = self._heads_first(y.relu_())
            mask = None if masks is None else masks[:, sam_pass, index]
            if mask is not None:
                outputs.mul_(mask)
            blocks.append(_Block(h, (z, mean, rstd), mask, outputs))
            h = outputs
        logits = self.products[-1].forward(h, out_bias, perturbed)
        over, task = self.recipe.loss_over, self.task
        losses = single_losses(logits, labels, task, over, self.complete)
        weighed = self.risk(losses)
        mean_loss = losses.values.mean(-1)
        if losses.known is not None:
            mean_loss = losses.values.sum(-1) / losses.known.sum(-1)  # 0 / 0: NaN
        d_logits = logit_gradient(logits, labels, weighed.weights, task, over, self.complete)
        return _Pass(weighed, mean_loss, d_logits, blocks, h)

    def _statistics(self, index: int) -> tuple[Tensor, Tensor]:
        return self.means[index].view(-1), self.variances[index].view(-1)

    def _heads_first(self, flat: Tensor) -> Tensor:
        """(G, B, width) of (B, G width), in the same memory."""
        return flat.view(len(flat), *self.vectors.shape[1:]).transpose(0, 1)

    def _ascend(self, done: _Pass) -> tuple[Tensor, Tensor, Tensor]:
        """SAM's first gradient: that of the vectors, of the output's bias, and its norms (G,)."""
        found: list[Tensor] = []
        dz, output = done.d_logits, self.products[-1]
        squares = [output.first_gradient(done.inputs, dz)]
        bias = dz.sum(1)
        dz = output.backward(dz, False)
        for index in range(len(done.blocks) - 1, -1, -1):
            block, product = done.blocks[index], self.products[index]
            dz, own = self._through_norm(dz, block, self.vectors, index)
            found = [*own, *found]
            squares.append(product.first_gradient(block.inputs, dz))
            if index:
                dz = product.backward(dz, False)
        vectors = torch.stack(found) if found else self.vectors
        squares.append(self._square_norms(vectors, bias))
        return vectors, bias, torch.stack(squares).sum(0).sqrt().to(bias.dtype)

    def _square_norms(self, vectors: Tensor, bias: Tensor) -> Tensor:
        """(G,) squared norms of the vectors' and the output bias's gradients."""
        if not len(vectors):
            return square_norms(bias[:, None])
        return square_norms(vectors.transpose(0, 1)) + square_norms(bias[:, None])

    def _perturb(
        self, vectors: Tensor, bias: Tensor, norm: Tensor
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Go to w + epsilon: the vectors there, the output's bias, and epsilon's lengths (G,)."""
        sign = self.recipe.perturbation == "sign"
        scale = self.rho if sign else self.rho / (norm + TINY)
        moving = [product.perturb(scale, sign) for product in self.products]
        length = norm * scale
        if sign:
            moving += [vectors.sign_().count_nonzero(dim=(0, 2)), bias.sign_().count_nonzero(dim=1)]
            counts = [count for count in moving if count is not None]
            length = scale * torch.stack(counts).sum(0).to(scale.dtype).sqrt()
        there = torch.addcmul(self.vectors, vectors, scale[:, None])
        return (there, torch.addcmul(self.bias, bias, scale[:, None])), length

    def _descend(
        self, done: _Pass, at: tuple[Tensor, Tensor], perturbed: bool
    ) -> tuple[list[Tensor], Tensor]:
        """The gradient that moves the weights, in their order; and its norms (G,), if needed."""
        found: list[Tensor] = []
        dz, output = done.d_logits, self.products[-1]
        matrices = [output.gradient(done.inputs, dz)]
        bias = dz.sum(1)
        dz = output.backward(dz, perturbed)
        for index in range(len(done.blocks) - 1, -1, -1):
            block, product = done.blocks[index], self.products[index]
            dz, own = self._through_norm(dz, block, at[0], index)
            found = [*own, *found]
            matrices.insert(0, product.gradient(block.inputs, dz))
            if index:
                dz = product.backward(dz, perturbed)
        vectors = torch.stack(found) if found else torch.zeros_like(self.vectors)
        norm = bias
        if not perturbed:
            squares = [square_norms(matrix) for matrix in matrices]
            squares.append(self._square_norms(vectors, bias))
            norm = torch.stack(squares).sum(0).sqrt().to(bias.dtype)
        return [*matrices, vectors, bias], norm

    def _through_norm(
        self, dz: Tensor, block: _Block, vectors: Tensor, index: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Gradient at a layer's product, and of its bias, scale and shift."""
        if block.mask is not None:
            dz.mul_(block.mask)
        flat = torch.ops.aten.threshold_backward(_flat(dz), _flat(block.outputs), 0)
        products, mean, rstd = block.norm
        flat, d_scale, d_shift = torch.ops.aten.native_batch_norm_backward(
            flat,
            products,
            vectors[3 * index + 1].view(-1),
            None,
            None,
            mean,
            rstd,
            True,
            NORM_EPSILON,
            [True, True, True],
        )
        own = [vector.view(self.vectors.shape[1:]) for vector in (flat.sum(0), d_scale, d_shift)]
        return self._heads_first(flat), own

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """Logits (G, n, targets) in evaluation of features (n, d)."""
        x = features.to(self.bias).expand(len(self.bias), *features.shape)
        for index, product in enumerate(self.products[:-1]):
            own_bias, own_scale, own_shift = self.vectors[3 * index : 3 * index + 3]
            scale = own_scale * torch.rsqrt(self.variances[index] + NORM_EPSILON)
            shift = (own_bias - self.means[index]) * scale + own_shift
            weight = product.weight * scale[..., None]
            x = torch.baddbmm(shift[:, None], x, weight.transpose(1, 2)).relu_()
        return torch.baddbmm(self.bias[:, None], x, self.products[-1].weight.transpose(1, 2))

    def head_state(self, head: int) -> dict[str, Tensor]:
        """One head's state, as ``Head.state_dict`` names it."""
        found: dict[str, Tensor] = {}
        for index, product in enumerate(self.products[:-1]):
            found[f"linears.{index}.weight"] = product.weight[head]
            for name, vector in zip(_vectors(index), self.vectors[3 * index :], strict=False):
                found[name] = vector[head]
            found[f"norms.{index}.running_mean"] = self.means[index][head]
            found[f"norms.{index}.running_var"] = self.variances[index][head]
            found[f"norms.{index}.num_batches_tracked"] = self.counts[0].long()
        found |= {"output.weight": self.products[-1].weight[head], "output.bias": self.bias[head]}
        return {name: value.detach().cpu().clone() for name, value in found.items()}

    def state(self) -> dict[str, Tensor]:
        """Everything the next step depends on."""
        found = {"counts": self.counts, "means": self.means, "variances": self.variances}
        roles = (("weight", self.weights), ("moment", self.moment), ("square", self.square))
        for name, tensors in roles:
            found |= {f"{name}.{index}": tensor for index, tensor in enumerate(tensors)}
        return found

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Resume from a ``state`` in place, so that captured graphs stay valid."""
        for name, value in self.state().items():
            value.copy_(state[name])


def _vectors(index: int) -> Sequence[str]:
    """The names of a hidden layer's vectors, in the order in which they are stacked."""
    return f"linears.{index}.bias", f"norms.{index}.weight", f"norms.{index}.bias"


def _flat(activations: Tensor) -> Tensor:
    """(B, G width) of (G, B, width), in the same memory where the batch is its slowest axis."""
    batch_first = activations.transpose(0, 1)
    return batch_first.reshape(len(batch_first), -1)
