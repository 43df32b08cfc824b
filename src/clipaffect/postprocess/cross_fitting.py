"""Scores of training people by heads that never saw them, on which choices are made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from clipaffect.config.data import Splitting
from clipaffect.config.training import Training
from clipaffect.core.errors import UserError
from clipaffect.core.gpu import one_device
from clipaffect.core.progress import Progress
from clipaffect.core.split_names import TRAIN, VALIDATION, fold_split
from clipaffect.core.store import Store
from clipaffect.core.tasks import Task
from clipaffect.dataset.make_splits import make_splits
from clipaffect.training.cost import Timings
from clipaffect.training.data import Split, read_split, targets_shown
from clipaffect.training.history import probabilities
from clipaffect.training.mlp_head import evaluator
from clipaffect.training.train_heads import headline_heads, load_entry, train_entries

DEALS = 50  # until one leaves every class to train on, whichever part is held out


class CannotChoose(UserError):
    """The training people do not allow a choice; the scores are left unchanged."""


@dataclass(frozen=True)
class CrossFitted:
    """The training rows that were scored.

    Attributes:
        rows: (n,) group, video, person, frame.
        labels: (n, 1) or (n, targets).
        scores: (S, n, targets) of each seed that finished on every part.
        seeds: which.
    """

    rows: pd.DataFrame
    labels: np.ndarray
    scores: np.ndarray
    seeds: list[int]


def cross_fit(
    table: Path, task: Task, fold: int, settings: Training, parts: int, store: Store
) -> CrossFitted:
    """Divide the training people into parts, and score each with heads trained on the others.

    The heads are the grid's own at the headline alpha, and are cached in the store.

    Raises:
        CannotChoose: the people cannot be divided in this way, or no seed finished.
    """
    train = read_split(table, task, TRAIN, fold)
    part = _deal(train, task, parts)
    seeds = len(settings.seeds)
    scores = np.full((seeds, len(part), len(task.targets)), np.nan, np.float32)
    epochs = parts * seeds * settings.recipes()[""].epochs
    with (
        one_device(settings.device == "cuda", "training.device: cuda") as device,
        Progress("epochs of cross-fitted heads", epochs) as bar,
    ):
        for number in range(1, parts + 1):
            held = np.flatnonzero(part == number)
            others, own = _take(train, np.flatnonzero(part != number)), _take(train, held)
            heads = _heads(others, own, task, settings, device, store, bar)
            scores[:, held] = _scores(heads, own, task)
    finished = [not np.isnan(own).any() for own in scores]
    if not any(finished):
        raise CannotChoose(
            f"no seed of {task.name} at alpha = {settings.headline_alpha:g} finished training on "
            "all parts of the training people",
            where="postprocess",
            fix="check why heads fail (training.learning_rate, training.rho), or set "
            "postprocess: {steps: []}",
        )
    kept = [seed for seed, ok in zip(settings.seeds, finished, strict=True) if ok]
    return CrossFitted(train.rows, train.labels.numpy(), scores[finished], kept)


@dataclass(frozen=True)
class Answered:
    """Validation rows of a table, scored by heads trained on all of its training rows.

    Attributes:
        rows: those that have a feature: group, video, person, frame.
        scores: probabilities (seeds, n, targets); NaN of a seed whose head did not finish.
        heads: by seed; those that finished.
    """

    rows: pd.DataFrame
    scores: np.ndarray
    heads: dict[int, nn.Module]


def validation_scores(
    table: Path, task: Task, fold: int, settings: Training, store: Store
) -> Answered:
    """Score the validation rows of a table with the headline heads on its features."""
    train, validation = (read_split(table, task, split, fold) for split in (TRAIN, VALIDATION))
    epochs = len(settings.seeds) * settings.recipes()[""].epochs
    with (
        one_device(settings.device == "cuda", "training.device: cuda") as device,
        Progress("epochs", epochs) as bar,
    ):
        heads = _heads(train, validation, task, settings, device, store, bar)
    finished = {
        seed: head for seed, head in zip(settings.seeds, heads, strict=True) if head is not None
    }
    return Answered(validation.rows, _scores(heads, validation, task), finished)


def _heads(
    train: Split,
    held: Split,
    task: Task,
    settings: Training,
    device: str,
    store: Store,
    bar: Progress,
) -> list[nn.Module | None]:
    """The headline heads on some training rows, one for each seed; None for a failed head."""
    inputs = train.features.shape[1]
    wanted, measured = headline_heads(settings), Timings(task, inputs)
    entries = train_entries(wanted, train, held, task, settings, device, store, measured, bar)
    recipe = settings.recipes()[""]
    return [load_entry(entry, recipe, task, inputs, head.seed) for head, entry in entries.items()]


def _scores(heads: list[nn.Module | None], held: Split, task: Task) -> np.ndarray:
    """(seeds, n, targets) scores of held-out rows; NaN if a head failed."""
    scores = np.full((len(heads), len(held.rows), len(task.targets)), np.nan, np.float32)
    every = np.arange(len(held.rows))
    for index, head in enumerate(heads):
        if head is not None:
            scores[index] = probabilities(evaluator(head), held.features, every, task)
    return scores


def _take(split: Split, rows: np.ndarray) -> Split:
    index = torch.from_numpy(rows)
    return Split(
        split.rows.iloc[rows].reset_index(drop=True), split.features[index], split.labels[index]
    )


def _deal(train: Split, task: Task, parts: int) -> np.ndarray:
    """(n,) the part, from 1, of each training row: grouped by person and stratified by class.

    Raises:
        CannotChoose: too few people, or no division leaves all classes to train on.
    """
    labels = train.labels.numpy()
    people = train.rows["group"].nunique()
    if people < parts:
        raise CannotChoose(
            f"{people} training people or source videos cannot be divided into {parts} parts",
            where="postprocess.folds",
            fix="decrease it, add people, or set postprocess: {steps: []}",
        )
    rows = train.rows.assign(
        annotated=True, **dict(zip(task.columns, labels.T, strict=True))
    ).astype({"group": str})
    for seed in range(DEALS):
        how = Splitting(by="folds", folds=parts, seed=seed)
        split = make_splits({task.name: rows}, [task], how)[task.name]["split"].astype(str)
        part = np.select([split == fold_split(k) for k in range(1, parts + 1)], range(1, parts + 1))
        if all(targets_shown(labels[part != k], task).all() for k in range(1, parts + 1)):
            return part
    raise CannotChoose(
        f"however the training people are divided into {parts} parts, some class of {task.name} "
        "occurs in only one part",
        where="postprocess.folds",
        fix="use another number, add people, or set postprocess: {steps: []}",
    )
