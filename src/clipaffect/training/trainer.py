"""The training loop of all backends: epochs, checkpoints, and the choice of the epoch."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from clipaffect.config.training import Recipe
from clipaffect.core.cpu import take_one_core
from clipaffect.core.files import Damaged
from clipaffect.core.tasks import Task
from clipaffect.core.tensors import read_metadata, read_tensors, under, write_tensors
from clipaffect.training.backends.one_head import OneHead, make_learner
from clipaffect.training.backends.stacked import Stack
from clipaffect.training.data import TrainingData
from clipaffect.training.history import Row, epoch_scores, watch

CHECKPOINT = "training.safetensors"

logger = logging.getLogger(__name__)


class Backend(Protocol):
    """Some heads of one recipe in training: one on a CPU core, or many stacked on a GPU."""

    @property
    def heads(self) -> int:
        """How many heads (G)."""
        ...

    def epoch(self, number: int) -> list[Row]:
        """Train epoch ``number`` (from 0); a row for each head.

        A head whose loss stops being a number has that loss as the row's ``value``.
        """
        ...

    def logits(self, features: Tensor) -> Tensor:
        """Logits (G, n, targets) in evaluation mode of features (n, d)."""
        ...

    def head_state(self, head: int) -> dict[str, Tensor]:
        """A head's weights and statistics by name."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything the next epoch depends on."""
        ...

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Resume from a ``state``."""
        ...


@dataclass
class TrainedHead:
    """A head and how it was trained.

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
        """Add the epoch in which a loss or a weight became non-finite."""
        self.status = "non_finite"
        self.history.append(row)


def is_finite(row: Row, weights: dict[str, Tensor]) -> bool:
    """Whether an epoch's loss and all weights after it are finite."""
    return math.isfinite(row["value"]) and all(bool(w.isfinite().all()) for w in weights.values())


def train(
    backend: Backend,
    data: TrainingData,
    task: Task,
    recipe: Recipe,
    folder: Path,
    after_epoch: Callable[[], None] = lambda: None,
) -> list[TrainedHead]:
    """Train the heads of a backend; resume from the checkpoint in ``folder`` if there is one.

    AdamW; the rate follows ``learning_rate``. The result depends on nothing but the backend and
    the data: a run that was killed and resumed has the same bytes as one that was not. A head
    whose loss stops being a number does not disturb the others.

    Args:
        backend: the heads at their first epoch.
        data: see ``training_data``.
        task: the task.
        recipe: of the heads.
        folder: for the checkpoint, written after each epoch.
        after_epoch: called after each epoch, including those that the checkpoint holds.
    """
    trained, first = _load(folder / CHECKPOINT, backend)
    for _ in range(first):
        after_epoch()
    for epoch in range(first, recipe.epochs):
        started = time.perf_counter()
        rows = backend.epoch(epoch)
        seconds = time.perf_counter() - started
        watched = None
        for index, (head, row) in enumerate(zip(trained, rows, strict=True)):
            head.samples += len(data.rows)
            head.seconds += seconds / backend.heads
            if head.status != "ok":
                continue
            weights = backend.head_state(index)
            if not is_finite(row, weights):
                head.fail(row)
                continue
            if watched is None:
                watched = watch(lambda x: backend.logits(x).cpu(), data, task)
            scores = epoch_scores(data, task, [answers[index] for answers in watched])
            head.finish(row | scores, weights, recipe)
        if all(head.status != "ok" for head in trained):
            break
        _save(folder / CHECKPOINT, backend, trained, epoch + 1)
        after_epoch()
    return trained


def train_head(
    data: TrainingData,
    task: Task,
    recipe: Recipe,
    alpha: float,
    seed: int,
    folder: Path,
    after_epoch: Callable[[], None] = lambda: None,
) -> TrainedHead:
    """Train one head on one CPU core; see ``train``.

    Args:
        alpha: CVaR's level.
        seed: of initialisation, batches and dropout.
    """
    take_one_core()
    backend = OneHead(make_learner(data, task, recipe, alpha, seed), data, recipe, seed)
    (trained,) = train(backend, data, task, recipe, folder, after_epoch)
    return trained


def train_stack(
    data: TrainingData,
    task: Task,
    heads: list[tuple[Recipe, float, int]],
    device: str,
    folder: Path,
    after_epoch: Callable[[], None] = lambda: None,
) -> list[TrainedHead]:
    """Train heads (recipe, alpha, seed) of one ``stack_key`` on a device; see ``train``."""
    backend = Stack(data, task, heads, device)
    return train(backend, data, task, backend.recipe, folder, after_epoch)


def _save(path: Path, backend: Backend, trained: list[TrainedHead], epochs: int) -> None:
    tensors = {f"state/{k}": v.cpu().clone() for k, v in backend.state().items()}
    progress = {"epochs": str(epochs)}  # a failed head's history is shorter
    for index, head in enumerate(trained):
        tensors |= {f"kept/{index}/{name}": value for name, value in head.weights.items()}
        record = {"history": head.history, "status": head.status, "kept": head.kept}
        progress[str(index)] = json.dumps(record)
    write_tensors(path, tensors, progress)


def _load(path: Path, backend: Backend) -> tuple[list[TrainedHead], int]:
    """The heads, and the number of completed epochs."""
    fresh = [TrainedHead() for _ in range(backend.heads)]
    if not path.exists():
        return fresh, 0
    try:
        tensors, progress = read_tensors(path), read_metadata(path)
    except Damaged as error:  # by a power cut: checkpoints are not synced
        logger.warning("%s is not used: %s", path, error.what)
        return fresh, 0
    backend.load_state(under(tensors, "state/"))
    heads = [
        TrainedHead(under(tensors, f"kept/{index}/"), **json.loads(progress[str(index)]))
        for index in range(backend.heads)
    ]
    return heads, int(progress["epochs"])
