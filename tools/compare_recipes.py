"""Compare recipes on the demo's training people: the table in docs/training.md.

    make demo
    python tools/compare_recipes.py    # about 40 minutes on one core

Uses five folds of whole training videos and two seeds. Every head is scored on people it was not
trained on, and decisions are pooled over the folds. The demo's validation split is not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipaffect.config.training import Recipe
from clipaffect.core.metrics import decide, f1_per_target
from clipaffect.core.progress import Progress
from clipaffect.core.tasks import CHALLENGE, Task
from clipaffect.training.backends.one_head import make_learner
from clipaffect.training.data import Split, TrainingData, batches, read_split
from clipaffect.training.history import learning_rate, probabilities

TABLES = Path("results/demo/tables/tiny-clip")
FOLDS, SEEDS = 5, (0, 1)
RECIPES: dict[str, dict[str, Any]] = {
    "recommended": {},
    **{f"learning rate {rate:g}": {"learning_rate": rate} for rate in (3e-3, 1e-3, 1e-4)},
    "8 epochs": {"epochs": 8},
    **{f"{layers} hidden layers": {"hidden_layers": layers} for layers in (0, 1)},
    "dropout 0.5": {"dropout": 0.5},
    "learning rate 0.003, 4 epochs": {"learning_rate": 3e-3, "epochs": 4},
    "learning rate 0.003, 8 epochs": {"learning_rate": 3e-3, "epochs": 8},
    "learning rate 0.003, rho 0.2": {"learning_rate": 3e-3, "rho": 0.2},
    **{
        f"learning rate 0.003, weight decay {decay:g}": {
            "learning_rate": 3e-3,
            "weight_decay": decay,
        }
        for decay in (0.01, 0.1)
    },
}


def folds_of(train: Split) -> np.ndarray:
    """(N,) the fold of each frame, by video."""
    names, code = np.unique(train.rows["video"].to_numpy().astype(str), return_inverse=True)
    return (np.random.default_rng(0).permutation(len(names)) % FOLDS)[code]


def score(train: Split, task: Task, recipe: Recipe, alpha: float, seed: int) -> float:
    """Macro F1 of the pooled decisions on held-out videos."""
    fold = folds_of(train)
    decisions = np.zeros((len(fold), len(task.columns)), np.int64)
    for held in range(FOLDS):
        rows, rest = np.flatnonzero(fold != held), np.flatnonzero(fold == held)
        data = TrainingData(train.features, train.labels, rows, rest[:0], train)
        learner = make_learner(data, task, recipe, alpha, seed)
        step = 0
        for epoch in range(recipe.epochs):
            for at in batches(rows, recipe.batch, seed, epoch):
                x, y = train.features[at].float(), train.labels[at]
                learner.step(x, y, step, learning_rate(recipe, epoch), False)
                step += 1
        decisions[rest] = decide(probabilities(learner.logits, train.features, rest, task), task)
    return float(f1_per_target(train.labels.numpy(), decisions, task).mean())


def main() -> None:
    """Print the table as Markdown."""
    torch.set_num_threads(1)
    splits = {name: read_split(TABLES / name, task, "train") for name, task in CHALLENGE.items()}
    print("| recipe | alpha | EXPR | AU |\n|---|---|---|---|")
    with Progress("recipes", len(RECIPES)) as progress:
        for name, changed in RECIPES.items():
            recipe = Recipe.model_validate(changed)
            for alpha in (0.5, 1.0):
                cells = []
                for task_name, split in splits.items():
                    values = [score(split, CHALLENGE[task_name], recipe, alpha, s) for s in SEEDS]
                    cells.append(f"{np.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})")
                print(f"| {name} | {alpha:g} | {cells[0]} | {cells[1]} |", flush=True)
            progress.advance()


if __name__ == "__main__":
    main()
