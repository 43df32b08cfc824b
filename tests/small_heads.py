"""A table of two splits, and heads that are trained on it in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from clipaffect.config.training import Recipe, Training
from clipaffect.core.parquet import write_table
from clipaffect.core.tasks import EXPR, Task
from clipaffect.features.find_copies import SCHEMA
from clipaffect.training.data import Split, TrainingData, training_data
from clipaffect.training.trainer import TrainedHead, train_head

GRID = Training(
    hidden_layers=2,
    width=16,
    epochs=4,
    batch=16,
    learning_rate=0.003,
    alphas=(0.5, 1.0),
    seeds=(0, 1),
    parts=1,
)
RECIPE = GRID.recipes()[""]


def small_table(folder: Path, task: Task = EXPR, n: int = 130, d: int = 6) -> Path:
    """A table of two splits whose labels can be read off the features."""
    rng = np.random.default_rng(0)
    split = np.where(np.arange(n) < n * 2 // 3, "train", "validation")
    rows = pd.DataFrame(
        {
            "split": split,
            "group": [f"{s}{k % 5}" for k, s in enumerate(split)],
            "video": [f"{s}{k % 5}" for k, s in enumerate(split)],
            "person": "",
            "frame": np.arange(n, dtype=np.int32),
            "status": "ok",
        }
    )
    if task.multilabel:
        labels = rng.integers(0, 2, (n, 12))
        features = labels[:, :d] + rng.normal(size=(n, d)) * 0.5
    else:
        labels = np.arange(n)[:, None] % 8
        features = rng.normal(size=(n, d)) + labels * 0.5
    for name, column in zip(task.columns, labels.T, strict=True):
        rows[name] = column
    rows = rows.sort_values(["split", "video", "frame"], ignore_index=True)
    rows["feature_row"] = np.arange(n)
    write_table(folder / "rows.parquet", rows)
    np.save(folder / "features.npy", features.astype(np.float16))
    return folder


def no_copies(folder: Path) -> Path:
    """A table of recordings in two splits that holds none."""
    path = folder / "copies.parquet"
    write_table(path, pd.DataFrame(columns=SCHEMA.names), SCHEMA)
    return path


def splits(task: Task = EXPR) -> tuple[Split, Split]:
    import tempfile

    from clipaffect.training.data import read_split

    with tempfile.TemporaryDirectory() as folder:
        table = small_table(Path(folder), task)
        return tuple(read_split(table, task, name) for name in ("train", "validation"))  # type: ignore[return-value]


def data(task: Task = EXPR, **recipe: Any) -> tuple[TrainingData, Recipe]:
    changed = RECIPE.model_copy(update=recipe)
    return training_data(*splits(task), task, changed), changed


def trained(folder: Path, alpha: float = 0.5, seed: int = 0, **recipe: Any) -> TrainedHead:
    folder.mkdir(parents=True, exist_ok=True)
    rows, changed = data(**recipe)
    return train_head(rows, EXPR, changed, alpha, seed, folder)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Killed(Exception):
    """Stands for a kill between two epochs."""
