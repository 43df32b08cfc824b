"""Stage ``control``: train the headline heads on labels that were permuted between people.

Such a head can learn nothing about faces. If it scores above chance on validation, information
leaks from the validation labels into the training, or the split shares people.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from clipaffect.config.training import Recipe, Training
from clipaffect.core.errors import UserError
from clipaffect.core.metrics import decide, f1_per_target
from clipaffect.core.parquet import write_table
from clipaffect.core.progress import Progress
from clipaffect.core.setting import Setting
from clipaffect.core.split_names import TRAIN, VALIDATION
from clipaffect.core.store import Store
from clipaffect.core.tasks import Task
from clipaffect.features.build_table import folds_of
from clipaffect.training.cost import Timings
from clipaffect.training.data import Split, check_trainable, read_split, training_data
from clipaffect.training.history import probabilities
from clipaffect.training.mlp_head import evaluator
from clipaffect.training.train_heads import load_entry, train_entries

EXCHANGES = 999
DRAWS = 20  # of permutations, until every class is left to train on
FEWEST = 8  # people, in either split: fewer can be exchanged in too few ways


@dataclass(frozen=True)
class Chance:
    """What a score is worth that has nothing to do with the faces.

    Attributes:
        score: macro F1, mean over seeds.
        mean, low, high: of the scores with every person's predictions given to another person:
            mean, 2.5 % and 97.5 % quantile.
        p: share of these scores that are at least as high, the observed one included.
    """

    score: float
    mean: float
    low: float
    high: float
    p: float


def permuted(values: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Values (n, k) in which everybody has those of another person, in their order in time.

    The values start at a random moment and go round, so that people who follow one script do not
    get their own timing. A longer person repeats the other's values.

    Args:
        values: labels or decisions.
        groups: (n,) the person of each row; at least two.
        rng: decides who gets whose.
    """
    names, code = np.unique(groups.astype(str), return_inverse=True)
    rows = [np.flatnonzero(code == number) for number in range(len(names))]
    # Everybody's successor in a random circle: nobody keeps their own.
    circle = rng.permutation(len(names))
    found = np.empty_like(values)
    for owner, giver in zip(circle, np.roll(circle, 1), strict=True):
        theirs = np.roll(rows[giver], int(rng.integers(len(rows[giver]))))
        found[rows[owner]] = values[np.resize(theirs, len(rows[owner]))]
    return found


def chance(
    labels: np.ndarray, decisions: list[np.ndarray], groups: np.ndarray, task: Task
) -> Chance:
    """Compare the mean score of some heads with that of predictions given to other people.

    Args:
        labels: (n, 1) or (n, targets) of the validation rows.
        decisions: of each head, like ``labels``.
        groups: (n,) the person of each row.
        task: the task.
    """

    def score(said: np.ndarray) -> float:
        parts = np.split(said, len(decisions), axis=1)
        return float(np.mean([f1_per_target(labels, one, task).mean() for one in parts]))

    together, rng = np.hstack(decisions), np.random.default_rng(0)
    observed = score(together)
    drawn = np.array([score(permuted(together, groups, rng)) for _ in range(EXCHANGES)])
    low, high = np.quantile(drawn, [0.025, 0.975])
    p = (1 + int((drawn >= observed).sum())) / (1 + EXCHANGES)
    return Chance(observed, float(drawn.mean()), float(low), float(high), p)


def permute_labels(settings: Training, task: Task, table: Path, store: Store, out: Path) -> None:
    """Train heads on permuted labels, and write one row of ``Chance`` to ``out``.

    There is no row if the labels cannot be permuted: fewer than ``FEWEST`` people, or no
    permutation leaves every class to train on.

    Args:
        settings: the ``training`` section; its headline alpha and its first two seeds are used.
        task: the task.
        table: labels and features; under k-fold evaluation, the first fold.
        store: of finished heads.
        out: a Parquet file.
    """
    fold = folds_of(table)[0]
    train, validation = (read_split(table, task, split, fold) for split in (TRAIN, VALIDATION))
    recipe = settings.recipes()[""]
    changed = _with_permuted_labels(train, validation, task, recipe)
    people = validation.rows["group"].to_numpy()
    if changed is None or len(set(people)) < FEWEST:
        write_table(out, pd.DataFrame(columns=list(Chance.__dataclass_fields__)))
        return
    heads = [
        Setting("head", "", "", settings.headline_alpha, seed, fold) for seed in settings.seeds[:2]
    ]
    inputs = train.features.shape[1]
    with Progress("epochs on permuted labels", len(heads) * recipe.epochs) as progress:
        # On the CPU whatever the run's device: two heads do not fill a GPU.
        own = settings.model_copy(update={"device": "cpu"})
        measured = Timings(task, inputs, "cpu")
        entries = train_entries(
            heads, changed, validation, task, own, "cpu", store, measured, progress
        )
    decisions = []
    for head, entry in entries.items():
        trained = load_entry(entry, recipe, task, inputs, head.seed)
        if trained is not None:
            every = np.arange(len(validation.labels))
            found = probabilities(evaluator(trained), validation.features, every, task)
            decisions.append(decide(found, task))
    labels = validation.labels.numpy()
    rows = [vars(chance(labels, decisions, people, task))] if decisions else []
    write_table(out, pd.DataFrame(rows, columns=list(Chance.__dataclass_fields__)))


def _with_permuted_labels(
    train: Split, validation: Split, task: Task, recipe: Recipe
) -> Split | None:
    """The first of some permutations that the recipe can be trained on."""
    groups = train.rows["group"].to_numpy()
    if len(set(groups)) < FEWEST:
        return None
    labels = train.labels.numpy()
    for seed in range(DRAWS):
        found = permuted(labels, groups, np.random.default_rng(seed))
        changed = replace(train, labels=torch.from_numpy(found))
        with contextlib.suppress(UserError):
            check_trainable(found, task)
            training_data(changed, validation, task, recipe)
            return changed
    return None
