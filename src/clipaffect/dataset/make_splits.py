"""Make person-disjoint splits, or check those that are given."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

from clipaffect.config.data import Splitting
from clipaffect.core.errors import UserError
from clipaffect.core.split_names import TRAIN, VALIDATION, fold_split, folds_among, in_split
from clipaffect.core.tasks import Task

FEW = 5
COUNTED = 0.8  # of a group's rows, in dealing


def check_leaks(labels: dict[str, pd.DataFrame]) -> None:
    """Reject splits that share a person or a source video.

    Raises:
        UserError: some are in two splits of a task; the message names them.
    """
    for task, rows in labels.items():
        pairs = rows[["group", "split"]].drop_duplicates()
        shared = pairs["group"][pairs["group"].duplicated()].unique()
        if len(shared):
            first = pairs[pairs["group"] == shared[0]]["split"]
            names = ", ".join(map(str, shared[:FEW]))
            more = f" and {len(shared) - FEW:,} more" if len(shared) > FEW else ""
            raise UserError(
                f"{len(shared):,} people or videos occur in more than one split of {task}: "
                f"{names}{more} ({shared[0]}: {' and '.join(first)})",
                where="the split of their rows",
                fix="give all rows of a person (and of every video with that person) the same "
                "split, or let data.split make the splits",
            )


def make_splits(
    labels: dict[str, pd.DataFrame], tasks: Sequence[Task], how: Splitting
) -> dict[str, pd.DataFrame]:
    """Divide whole groups into ``how.folds`` parts, stratified by class and the same for all tasks.

    Every annotated row counts for the rarest class or label that it shows (scikit-learn's
    StratifiedGroupKFold needs one answer a row).

    Returns:
        The rows with ``split`` replaced: ``fold 1`` ..., or of ``hold_out`` the first part as
        ``validation`` and the others as ``train``.

    Raises:
        UserError: fewer groups than parts.
    """
    names, group, answer = _counted_rows(labels, tasks)
    if len(names) < how.folds:
        raise UserError(
            f"{len(names)} people or source videos cannot be divided into {how.folds} parts",
            where="data.split.folds",
            fix=f"set it to at most {len(names)}, or add people",
        )
    part = _deal(len(names), group, answer, how)
    if how.by == "folds":
        splits = dict(zip(names, map(fold_split, part.tolist()), strict=True))
    else:
        kinds = np.where(part == 1, VALIDATION, TRAIN)
        splits = dict(zip(names, kinds.tolist(), strict=True))
    order = sorted(set(splits.values()), key=lambda name: (name != TRAIN, len(name), name))
    made = {}
    for name, rows in labels.items():
        # Groups without any label keep a split too: their rows count as not annotated.
        found = rows["group"].astype(str).map(splits).fillna(order[0])
        made[name] = rows.assign(split=pd.Categorical(found, order))
    return made


def _counted_rows(
    labels: dict[str, pd.DataFrame], tasks: Sequence[Task]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Names of the groups; group (n,) and answer (n,) of every row that counts."""
    groups, answers = [], []
    for number, task in enumerate(sorted(tasks, key=lambda task: task.name)):
        rows = labels[task.name]
        rows = rows[rows["annotated"]]
        groups.append(rows["group"].astype(str).to_numpy())
        answers.append(number * 1000 + _rarest_shown(rows, task))
    names, group = np.unique(np.concatenate(groups), return_inverse=True)
    answer = np.concatenate(answers)
    if all(len(np.unique(own)) == len(own) for own in groups):
        # One row a group and task: a group counts once, for the rarest answer of all tasks.
        _, kind_of, counts = np.unique(answer, return_inverse=True, return_counts=True)
        rarest = np.lexsort((answer, counts[kind_of]))
        first = rarest[np.unique(group[rarest], return_index=True)[1]]
        group, answer = group[first], answer[first]
    return names, group, answer


def _deal(groups: int, group: np.ndarray, answer: np.ndarray, how: Splitting) -> np.ndarray:
    """(groups,) the part of each group, from 1, by the answers (n,) of its rows."""
    # Half a second to import, and only a run that asks for splits needs it.
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # noqa: PLC0415

    alone = groups == len(group)
    kind = StratifiedKFold if alone else StratifiedGroupKFold  # the same, 100 times as fast
    dealer = kind(n_splits=how.folds, shuffle=True, random_state=how.seed)
    counted = np.arange(len(group)) if alone else _drawn_rows(group, how.seed)
    part = np.zeros(groups, np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class with fewer rows than parts
        try:
            dealt = dealer.split(counted, answer[counted], group[counted])
            for number, (_, at) in enumerate(dealt, start=1):
                part[group[counted[at]]] = number
        except ValueError:
            raise UserError(
                f"every class has fewer frames than the number of parts ({how.folds})",
                where="data.split.folds",
                fix="set it lower, or add data",
            ) from None
    return part


def _drawn_rows(group: np.ndarray, seed: int) -> np.ndarray:
    """A share of each group's rows (n,).

    Groups are dealt by how uneven they are, whatever the seed: counting a drawn part of each one's
    rows makes the deal depend on it.
    """
    drawn = np.random.default_rng(seed).permutation(len(group))
    place = pd.Series(group[drawn]).groupby(group[drawn]).cumcount().to_numpy()
    size = np.bincount(group)[group[drawn]]
    return np.sort(drawn[place < np.ceil(COUNTED * size)])


def _rarest_shown(rows: pd.DataFrame, task: Task) -> np.ndarray:
    """(n,) number of each row's class, or of the rarest label it shows (the count if none)."""
    if not task.multilabel:
        return rows["label"].to_numpy().astype(np.int64)
    counts = task.frames_showing(rows)
    order = sorted(range(len(task.targets)), key=lambda k: (counts[task.targets[k]], k))
    shown = rows[list(task.targets)].to_numpy()[:, order] == 1
    shown = np.column_stack([shown, np.ones(len(rows), bool)])
    found: np.ndarray = np.array([*order, len(order)])[shown.argmax(axis=1)]
    return found


def check_labels(rows: pd.DataFrame, task: Task, cut: bool, where: str) -> None:
    """Reject splits on which no head can be trained or scored.

    Args:
        rows: labels of the task.
        task: the task.
        cut: whether only the first frames of each video are used.
        where: the labels come from.

    Raises:
        UserError: a split without an annotated frame, or a class that training never shows.
    """
    every = rows["split"].unique().tolist()
    for fold in folds_among(every):
        of = f" of fold {fold}" if fold else ""
        own = {
            split: rows[rows["split"].isin([s for s in every if in_split(s, split, fold)])]
            for split in (TRAIN, VALIDATION)
        }
        for split, found in own.items():
            if not found["annotated"].any():
                raise UserError(
                    f"no frame of the {split} split{of} of {task.name} has a label",
                    where=where,
                    fix="add labelled data, let data.split.by make the splits, or remove "
                    f"{task.name} from training.tasks",
                )
        shown = task.frames_showing(own[TRAIN])
        absent = [name for name, count in shown.items() if not count]
        if absent and cut:
            raise UserError(
                f"no video is annotated with {', '.join(absent)} in its first frames",
                where="data.subset.frames",
                fix="increase it or remove it: a head cannot learn what it never sees",
            )
        if absent:
            raise UserError(
                f"no training frame{of} is annotated with {', '.join(absent)}",
                where=where,
                fix="add data that shows it (or use fewer folds): a head cannot learn what it "
                "never sees",
            )
