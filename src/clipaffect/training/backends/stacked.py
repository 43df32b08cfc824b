"""Train many MLP heads in one step on a GPU: the same equations with a leading axis of heads.

A GPU is bound by launches and memory at these sizes, so all heads of a job share every operation,
and on CUDA one captured graph replays the whole step without the host. (On a CPU stacking gains
nothing at width 768: each head streams its own weights; ``cpu.py`` is for that.) It is ordinary
torch and is tested on the CPU; only the capture needs a GPU. Dropout masks and batches are those of
the CPU's step, so the two differ by rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.optim.adamw import adamw

from clipaffect.config.training import Recipe
from clipaffect.core.tasks import NOT_ANNOTATED, Task
from clipaffect.training.backends.autograd import BETAS, EPSILON
from clipaffect.training.backends.philox import philox_uint16
from clipaffect.training.data import TrainingData, batches
from clipaffect.training.history import Row, learning_rate, mean_of, probe_steps
from clipaffect.training.losses.base import Risk, Weighted, logit_gradient, single_losses
from clipaffect.training.losses.cvar import Cvar
from clipaffect.training.losses.registry import build_risk
from clipaffect.training.mlp_head import Head
from clipaffect.training.sam import TINY, StepRecord

FIELDS = [field.name for field in fields(StepRecord)]
MOMENTUM, NORM_EPSILON = 0.1, 1e-5  # of torch's BatchNorm1d


@dataclass
class _Pass:
    """One pass: its result, and what the backward pass needs from each hidden layer."""

    weighed: Weighted
    mean_loss: Tensor
    d_logits: Tensor
    inputs: list[Tensor]  # of every layer
    blocks: list[tuple[Tensor, Tensor, Tensor]]  # normalised products, 1 / deviation, factor


class StackedStep:
    """Trains G heads together.

    Args:
        heads: initial modules, all of one shape.
        seeds: (G,) of each head's dropout masks.
        risk: weighs stacked losses (G, n).
        task, recipe: what a single loss is; SAM and AdamW.
        complete: whether every training label is annotated.
        device: where it runs.
    """

    def __init__(
        self,
        heads: list[Head],
        seeds: list[int],
        risk: Risk,
        task: Task,
        recipe: Recipe,
        complete: bool,
        device: str,
    ) -> None:
        self.risk, self.task, self.recipe, self.complete = risk, task, recipe, complete
        self.names = [name for name, _ in heads[0].named_parameters()]
        first = dict(heads[0].named_parameters())
        self.shapes = [first[name].shape for name in self.names]
        rows = [torch.cat([p.detach().flatten() for p in head.parameters()]) for head in heads]
        self.weights = torch.stack(rows).to(device)
        self.gradient, self.perturbed, self.moment, self.square = (
            torch.zeros_like(self.weights) for _ in range(4)
        )
        self.count = torch.zeros((), device=device)
        self.number = torch.zeros((), dtype=torch.int64, device=device)
        self.rate = self.weights.new_zeros(())
        self.seeds = sorted(set(seeds))  # each once: heads that share one share batches and masks
        self._seeds = torch.tensor(self.seeds, device=device)
        self._seed_of = torch.tensor([self.seeds.index(s) for s in seeds], device=device)
        layers = recipe.hidden_layers
        size = (len(heads), recipe.width)
        like = self.weights
        self.means = [like.new_zeros(size) for _ in range(layers)]
        self.variances = [like.new_ones(size) for _ in range(layers)]
        self._own, self._gradient, self._perturbed = (
            self._views(b) for b in (self.weights, self.gradient, self.perturbed)
        )

    def _views(self, buffer: Tensor) -> dict[str, Tensor]:
        """Parameters (G, ...) by name inside a flat buffer (G, n)."""
        parts = buffer.split([shape.numel() for shape in self.shapes], dim=1)
        return {
            name: part.unflatten(1, shape)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }

    @torch.no_grad()
    def step(self, features: Tensor, labels: Tensor, probe: bool) -> Tensor:
        """Take step ``number`` at ``rate`` (both set by the caller); no host synchronisation.

        Args:
            features: (S, B, d), a batch for each distinct seed in ascending order.
            labels: (S, B, 1 or 12).
            probe: whether to measure the sharpness.

        Returns:
            (6, G): the fields of ``StepRecord``.
        """
        x = features.to(self.weights.dtype)[self._seed_of]
        y = labels[self._seed_of]
        rho = self.recipe.rho
        masks = self._masks(x.shape[1], 2 if rho else 1)
        first = self._forward(x, y, self._own, masks[0], True)
        self._backward(first, self._own)
        norms = torch.stack([_norms(gradient) for gradient in self._gradient.values()])
        norm = torch.linalg.vector_norm(norms, dim=0)
        length, sharpness = torch.zeros_like(norm), torch.full_like(norm, torch.nan)
        if rho:
            if self.recipe.perturbation == "l2":
                scale = rho / (norm + TINY)
                torch.addcmul(self.weights, self.gradient, scale[:, None], out=self.perturbed)
                length = norm * scale
            else:
                torch.add(self.weights, self.gradient.sign(), alpha=rho, out=self.perturbed)
                length = rho * self.gradient.count_nonzero(dim=1).to(norm.dtype).sqrt()
            if probe:
                again = self._forward(x, y, self._perturbed, masks[0], False)
                sharpness = again.weighed.value - first.weighed.value
            second = self._forward(x, y, self._perturbed, masks[1], False)
            self._backward(second, self._perturbed)
        adamw(
            [self.weights],
            [self.gradient],
            [self.moment],
            [self.square],
            [],
            [self.count],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=self.rate,
            weight_decay=self.recipe.weight_decay,
            eps=EPSILON,
            maximize=False,
        )
        self.number += 1
        record = (
            first.mean_loss,
            first.weighed.value,
            first.weighed.threshold,
            norm,
            length,
            sharpness,
        )
        return torch.stack(record)

    def _masks(self, batch: int, passes: int) -> list[list[Tensor] | None]:
        """For each pass and layer the scaled masks (G, B, width): those of ``DropoutMasks``."""
        rate, layers, width = self.recipe.dropout, self.recipe.hidden_layers, self.recipe.width
        if rate == 0 or layers == 0:
            return [None] * passes
        bits = philox_uint16(self._seeds, self.number, passes * layers * batch * width)
        kept = (bits >= round(rate * 65536)).to(self.weights.dtype).mul_(1 / (1 - rate))
        # (G, passes, layers, B, width)
        kept = kept.unflatten(-1, (passes, layers, batch, width))[self._seed_of]
        return [[kept[:, p, k] for k in range(layers)] for p in range(passes)]

    def _forward(
        self,
        x: Tensor,
        labels: Tensor,
        weights: dict[str, Tensor],
        masks: list[Tensor] | None,
        update: bool,
    ) -> _Pass:
        h, inputs, blocks = x, [], []
        batch = x.shape[1]
        for index in range(self.recipe.hidden_layers):
            inputs.append(h)
            z = self._affine(h, weights, f"linears.{index}")
            variance, mean = torch.var_mean(z, dim=1, correction=0, keepdim=True)
            if update:
                unbiased = variance[:, 0] * (batch / (batch - 1))
                self.means[index].lerp_(mean[:, 0], MOMENTUM)
                self.variances[index].lerp_(unbiased, MOMENTUM)
            rstd = torch.rsqrt(variance + NORM_EPSILON)
            normal = z.sub_(mean).mul_(rstd)
            scale, shift = (weights[f"norms.{index}.{k}"][:, None] for k in ("weight", "bias"))
            y = torch.addcmul(shift, normal, scale)
            factor = (y > 0).to(y.dtype)
            if masks is not None:
                factor.mul_(masks[index])
            blocks.append((normal, rstd, factor))
            h = y.mul_(factor)
        inputs.append(h)
        logits = self._affine(h, weights, "output")
        over, task = self.recipe.loss_over, self.task
        losses = single_losses(logits, labels, task, over, self.complete)
        weighed = self.risk(losses)
        mean_loss = losses.values.mean(-1)
        if losses.known is not None:
            mean_loss = losses.values.sum(-1) / losses.known.sum(-1)  # 0 / 0: NaN
        d_logits = logit_gradient(logits, labels, weighed.weights, task, over, self.complete)
        return _Pass(weighed, mean_loss, d_logits, inputs, blocks)

    def _backward(self, done: _Pass, weights: dict[str, Tensor]) -> None:
        """Write the gradient of every parameter."""
        into, dz = self._gradient, done.d_logits
        batch = dz.shape[1]
        for index in range(self.recipe.hidden_layers, -1, -1):
            layer = f"linears.{index}" if index < self.recipe.hidden_layers else "output"
            if index < self.recipe.hidden_layers:
                normal, rstd, factor = done.blocks[index]
                dy = dz.mul_(factor)
                d_shift, d_scale = dy.sum(1), (dy * normal).sum(1)
                into[f"norms.{index}.bias"].copy_(d_shift)
                into[f"norms.{index}.weight"].copy_(d_scale)
                # BatchNorm: dz = scale rstd (dy - mean(dy) - normal mean(dy normal))
                common = torch.addcmul(d_shift[:, None], normal, d_scale[:, None]) / batch
                scale = weights[f"norms.{index}.weight"][:, None]
                dz = dy.sub_(common).mul_(rstd * scale)
            into[f"{layer}.weight"].copy_(self._product(dz.transpose(1, 2), done.inputs[index]))
            into[f"{layer}.bias"].copy_(dz.sum(1))
            if index:
                dz = self._product(dz, weights[f"{layer}.weight"])

    def _affine(self, x: Tensor, weights: dict[str, Tensor], layer: str) -> Tensor:
        product = self._product(x, weights[f"{layer}.weight"].transpose(1, 2))
        return product.add_(weights[f"{layer}.bias"][:, None])

    def _product(self, a: Tensor, b: Tensor) -> Tensor:
        if self.recipe.products == "bf16":
            return torch.bmm(a.bfloat16(), b.bfloat16()).to(self.weights.dtype)
        return torch.bmm(a, b)

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """Logits (G, n, targets) in evaluation of features (n, d)."""
        x = features.to(self.weights).expand(len(self.weights), *features.shape)
        for index in range(self.recipe.hidden_layers):
            scale = self._own[f"norms.{index}.weight"] * torch.rsqrt(
                self.variances[index] + NORM_EPSILON
            )
            bias = self._own[f"linears.{index}.bias"] - self.means[index]
            shift = bias * scale + self._own[f"norms.{index}.bias"]
            weight = self._own[f"linears.{index}.weight"] * scale[..., None]
            x = torch.baddbmm(shift[:, None], x, weight.transpose(1, 2)).relu_()
        weight, bias = self._own["output.weight"], self._own["output.bias"]
        return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))

    def head_state(self, head: int) -> dict[str, Tensor]:
        """One head's state, as ``Head.state_dict`` names it."""
        found = {name: value[head] for name, value in self._own.items()}
        for index in range(self.recipe.hidden_layers):
            found[f"norms.{index}.running_mean"] = self.means[index][head]
            found[f"norms.{index}.running_var"] = self.variances[index][head]
            found[f"norms.{index}.num_batches_tracked"] = self.number
        return {name: value.detach().cpu().clone() for name, value in found.items()}

    def state(self) -> dict[str, Tensor]:
        """Everything the next step depends on."""
        found = {
            "weights": self.weights,
            "moment": self.moment,
            "square": self.square,
            "count": self.count,
            "number": self.number,
        }
        for index, (mean, variance) in enumerate(zip(self.means, self.variances, strict=True)):
            found |= {f"mean.{index}": mean, f"variance.{index}": variance}
        return found

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Resume from a ``state`` in place, so that captured graphs stay valid."""
        for name, value in self.state().items():
            value.copy_(state[name])


class Stack:
    """Heads of one recipe, stacked on a device, as a ``trainer.Backend``.

    The features lie on the device in float16; on CUDA each step is one captured graph.

    Args:
        data: see ``training_data``.
        task, recipe: of the heads, all MLPs.
        heads: alpha and seed of each.
        device: where they are trained.
    """

    def __init__(
        self,
        data: TrainingData,
        task: Task,
        recipe: Recipe,
        heads: list[tuple[float, int]],
        device: str,
    ) -> None:
        self.stack, self.recipe, self.rows = (
            make_stack(data, task, recipe, heads, device),
            recipe,
            data.rows,
        )
        self.step = graphed(self.stack) if device != "cpu" else self.stack.step
        self.features, self.labels = data.features.to(device), data.labels.to(device)
        self.heads = len(heads)

    def epoch(self, number: int) -> list[Row]:
        """Train an epoch; the host waits at its end, and while it captures."""
        stack, recipe = self.stack, self.recipe
        rate = learning_rate(recipe, number)
        stack.rate.fill_(rate)
        orders = [batches(self.rows, recipe.batch, seed, number) for seed in stack.seeds]
        sizes = [len(batch) for batch in orders[0]]
        order = torch.stack([torch.cat(parts) for parts in orders]).to(self.features.device)
        probes = probe_steps(len(sizes))
        steps = [
            self.step(self.features[at], self.labels[at], index in probes)
            for index, at in enumerate(order.split(sizes, dim=1))
        ]
        records = torch.stack(steps).cpu().numpy()  # (steps, 6, G)
        row: Row = {"epoch": number + 1, "learning_rate": rate}
        return [row | _summary(records[:, :, head]) for head in range(self.heads)]

    def logits(self, features: Tensor) -> Tensor:
        """Logits (G, n, targets)."""
        return self.stack.logits(features)

    def head_state(self, head: int) -> dict[str, Tensor]:
        """A head's weights and statistics."""
        return self.stack.head_state(head)

    def state(self) -> dict[str, Tensor]:
        """The stack's."""
        return self.stack.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The stack's."""
        self.stack.load_state(state)


def make_stack(
    data: TrainingData, task: Task, recipe: Recipe, heads: list[tuple[float, int]], device: str
) -> StackedStep:
    """A stack of the MLP heads (alpha, seed) of one recipe."""
    inputs, outputs = data.features.shape[1], len(task.targets)
    modules = [Head(inputs, outputs, recipe.hidden_layers, recipe.width, seed) for _, seed in heads]
    labels = data.labels[torch.from_numpy(data.rows)]
    risk = build_risk(recipe, 1.0, labels, task)
    if isinstance(risk, Cvar):
        levels = [[alpha] for alpha, _ in heads]
        risk = Cvar(torch.tensor(levels, dtype=torch.float64, device=device))
    complete = bool((labels != NOT_ANNOTATED).all())
    seeds = [seed for _, seed in heads]
    return StackedStep(modules, seeds, risk, task, recipe, complete, device)


def _summary(records: np.ndarray) -> Row:
    """Means of one head's (steps, 6) records; cut short at the first loss that is not finite."""
    values = records[:, FIELDS.index("value")]
    broken = values[~np.isfinite(values)]
    if len(broken):
        return {"value": float(broken[0])}
    return {name: mean_of(records[:, k].astype(float)) for k, name in enumerate(FIELDS)}


def _norms(gradient: Tensor) -> Tensor:
    """(G,) L2 norms as norms of row norms: one float32 sum over a million squares is off."""
    rows = torch.linalg.vector_norm(gradient, dim=-1)
    return torch.linalg.vector_norm(rows, dim=-1) if gradient.dim() > 2 else rows


def graphed(stack: StackedStep) -> Callable[[Tensor, Tensor, bool], Tensor]:
    """``stack.step`` replayed from CUDA graphs, one for each batch shape and probing."""
    graphs: dict[tuple[torch.Size, bool], tuple[torch.cuda.CUDAGraph, list[Tensor]]] = {}

    def step(features: Tensor, labels: Tensor, probe: bool) -> Tensor:
        key = (features.shape, probe)
        if key not in graphs:
            graphs[key] = _capture(stack, features, labels, probe)
        graph, (x, y, record) = graphs[key]
        x.copy_(features)
        y.copy_(labels)
        graph.replay()
        return record.clone()

    return step


def _capture(
    stack: StackedStep, features: Tensor, labels: Tensor, probe: bool
) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    """Capture one step, and undo the warm-up that the capture needs."""
    before = {name: value.clone() for name, value in stack.state().items()}
    x, y = features.clone(), labels.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            stack.step(x, y, probe)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        record = stack.step(x, y, probe)
    stack.load_state(before)
    return graph, [x, y, record]
