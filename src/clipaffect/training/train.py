"""Train one head: epochs, checkpoints, the choice of the epoch."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from clipaffect.config.training import LOSSES, Recipe
from clipaffect.core.cpu import take_one_core
from clipaffect.core.tasks import Task
from clipaffect.training.backends.cpu import FastLearner
from clipaffect.training.checkpoint import CHECKPOINT, read_checkpoint, under, write_checkpoint
from clipaffect.training.data import TrainingData, batches
from clipaffect.training.history import Row, judge, learning_rate, probe_steps, summarise, watch
from clipaffect.training.mlp_head import Head
from clipaffect.training.objectives import build_risk
from clipaffect.training.trainer import Learner, ReferenceLearner, build_head, build_objective


@dataclass
class TrainedHead:
    """A head and how it came about.

    Attributes:
        weights: state of the kept epoch by name.
        history: a row for each epoch.
        status: ``ok``, or ``non_finite`` if its loss or weights stopped being numbers.
        kept: the kept epoch, from 1; 0 before there is one.
        samples, seconds: what this process trained, for the timings.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    history: list[Row] = field(default_factory=list)
    status: str = "ok"
    kept: int = 0
    samples: int = 0
    seconds: float = 0.0

    def finish(self, row: Row, weights: dict[str, Tensor], recipe: Recipe) -> None:
        """Add an epoch; keep its weights if the recipe's rule chooses it."""
        best = max((earlier["inner_macro_f1"] for earlier in self.history), default=-1.0)
        if recipe.select_on == "last" or row["inner_macro_f1"] > best:
            self.weights, self.kept = weights, row["epoch"]
        self.history.append(row)

    def fail(self, row: Row) -> None:
        """Add the epoch in which a loss or a weight stopped being a number."""
        self.status = "non_finite"
        self.history.append(row)


def is_finite(row: Row, weights: dict[str, Tensor]) -> bool:
    """Whether an epoch's loss and every weight after it are numbers."""
    return math.isfinite(row["value"]) and all(bool(w.isfinite().all()) for w in weights.values())


def make_learner(
    data: TrainingData, task: Task, recipe: Recipe, alpha: float, seed: int
) -> Learner:
    """The fast step for the MLP and the built-in losses, autograd for code of the user's."""
    head = build_head(recipe, data.features.shape[1], len(task.targets), seed)
    labels = data.labels[torch.from_numpy(data.rows)]
    if isinstance(head, Head) and recipe.loss in LOSSES:
        risk = build_risk(recipe, alpha, labels, task)
        return FastLearner(head.train(), risk, task, recipe, seed)
    return ReferenceLearner(head, build_objective(recipe, alpha, labels, task), recipe, seed)


def train_head(
    data: TrainingData,
    task: Task,
    recipe: Recipe,
    alpha: float,
    seed: int,
    folder: Path,
    after_epoch: Callable[[], None] = lambda: None,
) -> TrainedHead:
    """Train one head, going on from the checkpoint in ``folder`` if there is one.

    AdamW; the rate follows ``learning_rate``. The result depends on nothing but the arguments: a
    head that was killed and went on has the same bytes as one that was not.

    Args:
        data: see ``training_data``.
        alpha: CVaR's level.
        seed: of initialisation, batches and dropout.
        folder: for the checkpoint, written after each epoch.
        after_epoch: called after each epoch, also those that the checkpoint brought.
    """
    take_one_core()
    learner = make_learner(data, task, recipe, alpha, seed)
    trained = _load(folder / CHECKPOINT, learner)
    for _ in trained.history:
        after_epoch()
    for epoch in range(len(trained.history), recipe.epochs):
        started = time.perf_counter()
        row = _epoch(learner, data, recipe, seed, epoch)
        trained.samples += len(data.rows)
        trained.seconds += time.perf_counter() - started
        weights = learner.head_state()
        if not is_finite(row, weights):
            trained.fail(row)
            return trained
        row |= judge(data, task, watch(learner.logits, data, task))
        trained.finish(row, weights, recipe)
        _save(folder / CHECKPOINT, learner, trained)
        after_epoch()
    return trained


def _epoch(learner: Learner, data: TrainingData, recipe: Recipe, seed: int, epoch: int) -> Row:
    """Train one epoch; its row, cut short at the first loss that is not finite."""
    parts = batches(data.rows, recipe.batch, seed, epoch)
    rate = learning_rate(recipe, epoch)
    probes = probe_steps(len(parts))
    records = []
    for index, rows in enumerate(parts):
        number = epoch * len(parts) + index
        x, y = data.features[rows].float(), data.labels[rows]
        record = learner.step(x, y, number, rate, index in probes)
        records.append(record)
        if not math.isfinite(record.value):
            return {"epoch": epoch + 1, "learning_rate": rate, "value": record.value}
    return {"epoch": epoch + 1, "learning_rate": rate, **summarise(records)}


def _save(path: Path, learner: Learner, trained: TrainedHead) -> None:
    tensors = {f"state/{name}": value for name, value in learner.state().items()}
    tensors |= {f"kept/{name}": value for name, value in trained.weights.items()}
    progress = {"history": json.dumps(trained.history), "kept": str(trained.kept)}
    write_checkpoint(path, tensors, progress)


def _load(path: Path, learner: Learner) -> TrainedHead:
    if not path.exists():
        return TrainedHead()
    tensors, progress = read_checkpoint(path)
    learner.load_state(under(tensors, "state/"))
    kept = under(tensors, "kept/")
    return TrainedHead(kept, json.loads(progress["history"]), kept=int(progress["kept"]))
