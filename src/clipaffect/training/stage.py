"""Stage ``training``: the heads of one part of the grid, as one bundle.

A part's bundle is ``heads.safetensors`` (every head's weights under its name), ``heads.parquet``
(one row a head: settings, status) and ``history.parquet`` (one row a head and epoch).
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from clipaffect.config.models import Training
from clipaffect.errors import UserError
from clipaffect.progress import Progress
from clipaffect.stages import VERSIONS
from clipaffect.store import Store
from clipaffect.table import Split, read_split
from clipaffect.tables import read_frame, whole_file, write_frame
from clipaffect.tasks import TASKS, Task, TaskName
from clipaffect.training.head import Head
from clipaffect.training.train import train_head

# Settings that say which heads there are, not how one of them is trained.
GRID_KEYS = {"tasks", "alphas", "seeds", "parts", "headline_alpha"}


def head_name(alpha: float, seed: int) -> str:
    """Name of a head in bundles and score tables."""
    return f"alpha={alpha:g},seed={seed}"


def grid(settings: Training, part: int) -> list[tuple[float, int]]:
    """(alpha, seed) of every head of a part; parts are dealt in turn."""
    heads = list(itertools.product(settings.alphas, settings.seeds))
    return heads[part :: settings.parts]


def _training_digest(split: Split) -> str:
    """Of the training rows alone: a corrected validation label retrains nothing."""
    sha = hashlib.sha256(str(tuple(split.features.shape)).encode())
    sha.update(split.features.numpy().data)
    sha.update(split.labels.numpy().data)
    return sha.hexdigest()


def check_trainable(split: Split, task: Task) -> None:
    """Refuse training data that cannot make a head.

    Raises:
        UserError: no frame with a face, or a class that never occurs.
    """
    if len(split.rows) < 2:  # BatchNorm needs two
        raise UserError(
            f"{len(split.rows)} training frames of {task.name} have both a label and a face",
            where=f"the {task.name} table",
            mend="see the statuses in its rows.parquet; docs/outcomes.md explains them",
        )
    for index, name in enumerate(task.targets):
        if task.multilabel:
            present = bool((split.labels[:, index] == 1).any())
        else:
            present = bool((split.labels[:, 0] == index).any())
        if not present:
            raise UserError(
                f"no training frame shows {name}",
                where=f"the {task.name} table, split train",
                mend="add videos that show it: a head cannot learn what it never sees",
            )


def train_heads(
    table: Path, task_name: TaskName, settings: Training, part: int, store: Store, out: Path
) -> None:
    """Train the heads of ``part`` and write their bundle into the folder ``out``."""
    task = TASKS[task_name]
    split = read_split(table, task, "train")
    check_trainable(split, task)
    base = {
        "version": VERSIONS["heads"],
        "task": task_name,
        "data": _training_digest(split),
        "settings": settings.model_dump(mode="json", exclude=GRID_KEYS),
        "torch": torch.__version__,
        "device": "cpu",
    }
    weights: dict[str, torch.Tensor] = {}
    rows: list[dict[str, Any]] = []
    histories = []
    heads = grid(settings, part)
    with Progress(f"{task_name} heads", len(heads)) as progress:
        for alpha, seed in heads:

            def make(folder: Path, alpha: float = alpha, seed: int = seed) -> None:
                trained = train_head(split.features, split.labels, task, settings, alpha, seed)
                save_file(trained.head.state_dict(), folder / "head.safetensors")
                history = pd.DataFrame(trained.history).assign(status=trained.status)
                write_frame(folder / "history.parquet", history)

            piece = store.get_or_make("heads", base | {"alpha": alpha, "seed": seed}, make)
            name = head_name(alpha, seed)
            history = read_frame(piece / "history.parquet")
            status = str(history.pop("status").iloc[-1])
            histories.append(history.assign(head=name, alpha=alpha, seed=seed))
            rows.append({"head": name, "alpha": alpha, "seed": seed, "status": status})
            state = load_file(piece / "head.safetensors")
            weights |= {f"{name}/{key}": value for key, value in state.items()}
            progress.advance()
    with whole_file(out / "heads.safetensors") as beside:
        save_file(weights, beside)
    write_frame(out / "heads.parquet", pd.DataFrame(rows))
    write_frame(out / "history.parquet", pd.concat(histories, ignore_index=True))


def load_heads(bundle: Path, task: Task, settings: Training, inputs: int) -> dict[str, Head]:
    """The finished heads of a bundle by name, in evaluation mode."""
    weights = load_file(bundle / "heads.safetensors")
    listed = read_frame(bundle / "heads.parquet")
    heads = {}
    for name in listed.loc[listed["status"] == "ok", "head"]:
        head = Head(inputs, len(task.targets), settings.hidden_layers, settings.width)
        prefix = f"{name}/"
        head.load_state_dict(
            {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        )
        heads[str(name)] = head.eval()
    return heads
