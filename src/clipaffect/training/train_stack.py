"""Train many heads together: the loop of ``train.py`` with a leading axis of heads."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from clipaffect.config.training import Recipe
from clipaffect.tables import whole_file
from clipaffect.tasks import NOT_ANNOTATED, Task
from clipaffect.training.data import TrainingData, batches
from clipaffect.training.head import Head
from clipaffect.training.history import Row, is_probe, learning_rate, mean_of, watch
from clipaffect.training.objectives import build_risk
from clipaffect.training.risks import Cvar
from clipaffect.training.stack import StackedStep, graphed
from clipaffect.training.step import StepRecord
from clipaffect.training.train import CHECKPOINT, TrainedHead

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
    step: Step = graphed(stack) if device == "cuda" else stack.step
    features, labels = data.features.to(device), data.labels.to(device)
    trained = _load(folder / CHECKPOINT, stack, len(heads))
    first = len(trained[0].history)
    for _ in range(first):
        after_epoch()
    for epoch in range(first, recipe.epochs):
        started = time.perf_counter()
        table = _epoch(stack, step, features, labels, data.rows, recipe, epoch)
        seconds = time.perf_counter() - started
        for index, head in enumerate(trained):
            head.samples += len(data.rows)
            head.seconds += seconds / len(heads)
            if head.status == "ok":
                _finish(head, index, table[:, :, index], stack, data, task, recipe, epoch)
        if epoch + 1 < recipe.epochs:
            _save(folder / CHECKPOINT, stack, trained)
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
    """(steps, 6, G) records of one epoch; the host waits once, at its end."""
    stack.rate.fill_(learning_rate(recipe, epoch))
    orders = [batches(rows, recipe.batch, seed, epoch) for seed in stack.distinct.tolist()]
    records = []
    for index, parts in enumerate(zip(*orders, strict=True)):
        at = torch.stack(parts).to(features.device)
        records.append(step(features[at], labels[at], is_probe(index, len(orders[0]))))
    return torch.stack(records).cpu().numpy()


def _finish(
    head: TrainedHead,
    index: int,
    records: np.ndarray,
    stack: StackedStep,
    data: TrainingData,
    task: Task,
    recipe: Recipe,
    epoch: int,
) -> None:
    """Write a head's row of an epoch, and keep its weights if the epoch is chosen."""
    row: Row = {"epoch": epoch + 1, "learning_rate": learning_rate(recipe, epoch)}
    state = stack.head_state(index)
    finite = all(bool(tensor.isfinite().all()) for tensor in state.values())
    values = records[:, FIELDS.index("value")]
    if not (finite and np.isfinite(values).all()):
        broken = values[~np.isfinite(values)]
        head.history.append(row | {"value": float(broken[0]) if len(broken) else math.nan})
        head.status = "non_finite"
        return
    row |= {name: mean_of(records[:, k].astype(float)) for k, name in enumerate(FIELDS)}

    def logits(batch: Tensor) -> Tensor:
        return stack.logits(batch.to(stack.weights.device))[index].cpu()

    row |= watch(logits, data, task)
    best = max((r["inner_macro_f1"] for r in head.history), default=-1.0)
    if recipe.select_on == "last" or row["inner_macro_f1"] > best:
        head.weights, head.kept = state, epoch + 1
    head.history.append(row)


def _save(path: Path, stack: StackedStep, trained: list[TrainedHead]) -> None:
    tensors = {f"state/{k}": v.cpu().clone() for k, v in stack.state().items()}
    progress = {}
    for index, head in enumerate(trained):
        tensors |= {f"kept/{index}/{name}": value for name, value in head.weights.items()}
        record = {"history": head.history, "status": head.status, "kept": head.kept}
        progress[str(index)] = json.dumps(record)
    with whole_file(path) as beside:
        save_file(tensors, beside, metadata=progress)


def _load(path: Path, stack: StackedStep, count: int) -> list[TrainedHead]:
    if not path.exists():
        return [TrainedHead() for _ in range(count)]
    with safe_open(path, "pt") as saved:
        tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
        progress = {int(index): json.loads(text) for index, text in saved.metadata().items()}
    stack.load_state(
        {k.removeprefix("state/"): v for k, v in tensors.items() if k.startswith("state/")}
    )
    return [
        TrainedHead(
            {
                name.removeprefix(f"kept/{index}/"): value
                for name, value in tensors.items()
                if name.startswith(f"kept/{index}/")
            },
            **progress[index],
        )
        for index in range(count)
    ]
