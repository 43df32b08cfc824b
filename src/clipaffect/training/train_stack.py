"""Train many heads together: the loop of ``train.py`` with a leading axis of heads."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clipaffect.config.training import Recipe
from clipaffect.core.tasks import NOT_ANNOTATED, Task
from clipaffect.training.backends.stacked import StackedStep, graphed
from clipaffect.training.checkpoint import CHECKPOINT, read_checkpoint, under, write_checkpoint
from clipaffect.training.cvar import Cvar
from clipaffect.training.data import TrainingData, batches
from clipaffect.training.history import Row, judge, learning_rate, mean_of, probe_steps, watch
from clipaffect.training.mlp_head import Head
from clipaffect.training.objectives import build_risk
from clipaffect.training.sam import StepRecord
from clipaffect.training.train import TrainedHead, is_finite

FIELDS = [field.name for field in dataclasses.fields(StepRecord)]
Step = Callable[[Tensor, Tensor, bool], Tensor]


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


def train_stack(
    data: TrainingData,
    task: Task,
    recipe: Recipe,
    heads: list[tuple[float, int]],
    device: str,
    folder: Path,
    after_epoch: Callable[[], None] = lambda: None,
) -> list[TrainedHead]:
    """Train the heads (alpha, seed) of one recipe; see ``train.train_head``.

    The features lie on the device in float16. A head whose loss stops being a number does not
    disturb the others.
    """
    stack = make_stack(data, task, recipe, heads, device)
    step: Step = graphed(stack) if device != "cpu" else stack.step
    features, labels = data.features.to(device), data.labels.to(device)
    trained, first = _load(folder / CHECKPOINT, stack, len(heads))
    for _ in range(first):
        after_epoch()
    for epoch in range(first, recipe.epochs):
        started = time.perf_counter()
        records = _epoch(stack, step, features, labels, data.rows, recipe, epoch)
        seconds = time.perf_counter() - started
        watched = watch(lambda x: stack.logits(x).cpu(), data, task)
        for index, head in enumerate(trained):
            head.samples += len(data.rows)
            head.seconds += seconds / len(heads)
            if head.status != "ok":
                continue
            row, weights = _row(records[:, :, index], recipe, epoch), stack.head_state(index)
            if not is_finite(row, weights):
                head.fail(row)
                continue
            row |= judge(data, task, [answers[index] for answers in watched])
            head.finish(row, weights, recipe)
        _save(folder / CHECKPOINT, stack, trained, epoch + 1)
        after_epoch()
    return trained


def _epoch(
    stack: StackedStep,
    step: Step,
    features: Tensor,
    labels: Tensor,
    rows: np.ndarray,
    recipe: Recipe,
    epoch: int,
) -> np.ndarray:
    """(steps, 6, G) records of one epoch; the host waits at its end, and while it captures."""
    stack.rate.fill_(learning_rate(recipe, epoch))
    orders = [batches(rows, recipe.batch, seed, epoch) for seed in stack.seeds]
    sizes = [len(batch) for batch in orders[0]]
    order = torch.stack([torch.cat(parts) for parts in orders]).to(features.device)
    probes = probe_steps(len(sizes))
    records = [
        step(features[at], labels[at], index in probes)
        for index, at in enumerate(order.split(sizes, dim=1))
    ]
    return torch.stack(records).cpu().numpy()


def _row(records: np.ndarray, recipe: Recipe, epoch: int) -> Row:
    """One head's row of an epoch from its (steps, 6) records; cut short as in ``train.py``."""
    row: Row = {"epoch": epoch + 1, "learning_rate": learning_rate(recipe, epoch)}
    values = records[:, FIELDS.index("value")]
    broken = values[~np.isfinite(values)]
    if len(broken):
        return row | {"value": float(broken[0])}
    return row | {name: mean_of(records[:, k].astype(float)) for k, name in enumerate(FIELDS)}


def _save(path: Path, stack: StackedStep, trained: list[TrainedHead], epochs: int) -> None:
    tensors = {f"state/{k}": v.cpu().clone() for k, v in stack.state().items()}
    progress = {"epochs": str(epochs)}  # a failed head's history is shorter
    for index, head in enumerate(trained):
        tensors |= {f"kept/{index}/{name}": value for name, value in head.weights.items()}
        record = {"history": head.history, "status": head.status, "kept": head.kept}
        progress[str(index)] = json.dumps(record)
    write_checkpoint(path, tensors, progress)


def _load(path: Path, stack: StackedStep, count: int) -> tuple[list[TrainedHead], int]:
    """The heads and how many epochs they have behind them."""
    if not path.exists():
        return [TrainedHead() for _ in range(count)], 0
    tensors, progress = read_checkpoint(path)
    stack.load_state(under(tensors, "state/"))
    heads = []
    for index in range(count):
        kept = under(tensors, f"kept/{index}/")
        heads.append(TrainedHead(kept, **json.loads(progress[str(index)])))
    return heads, int(progress["epochs"])
