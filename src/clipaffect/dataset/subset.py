"""``data.subset``: a few videos that show every class, for a quick trial."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from clipaffect.config.data import Subset
from clipaffect.core.tasks import Task
from clipaffect.dataset.files import natural_order
from clipaffect.dataset.test_list import TestList
from clipaffect.dataset.tree import Tree

Labels = dict[str, pd.DataFrame]


def take_subset(
    tree: Tree, labels: Labels, tasks: Sequence[Task], counts: dict[str, int], subset: Subset
) -> tuple[Tree, Labels]:
    """The tree and labels of a few videos of each split.

    Args:
        tree: what lies on disk.
        labels: rows by task.
        tasks: the tasks.
        counts: how many videos of each split.
        subset: the setting.
    """
    chosen = _choose(labels, tasks, counts)
    kept = {
        name: rows[[v in chosen[s] for v, s in zip(rows["video"], rows["split"], strict=True)]]
        for name, rows in labels.items()
    }
    return _narrow(tree, kept, subset), kept


def _shown(labels: Labels, tasks: Sequence[Task], split: str) -> dict[str, set[tuple[str, str]]]:
    """For each video, the (task, class or label) pairs it shows; (task, '') if it has any label."""
    shows: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for task in tasks:
        rows = labels[task.name]
        rows = rows[rows["split"] == split]
        for video in rows["video"].unique():
            shows.setdefault(str(video), set())
        found = [("", rows["annotated"].to_numpy())]
        for index, target in enumerate(task.targets):
            shown = rows[target] == 1 if task.multilabel else rows["label"] == index
            found.append((target, shown.to_numpy()))
        for target, at in found:
            for video in rows["video"].iloc[np.flatnonzero(at)].unique():
                shows[str(video)].add((task.name, target))
    return shows


def _choose(labels: Labels, tasks: Sequence[Task], counts: dict[str, int]) -> dict[str, set[str]]:
    """Choose the names of a few videos for each split.

    First the fewest videos (greedily) that together show every class of every task, since a head
    needs them all (for validation, at most the requested number, but at least one per task). Then
    other videos by name, up to the requested number.
    """
    chosen: dict[str, set[str]] = defaultdict(set)
    for split, count in counts.items():
        shows = _shown(labels, tasks, split)
        order = sorted(shows, key=natural_order)
        names: list[str] = []
        missing = set().union(*shows.values())
        # Beyond the number that was asked for, only what a run cannot do without.
        needed = missing if split == "train" else {(name, "") for name in labels} & missing
        while needed or (missing and len(names) < count):
            best = max(order, key=lambda v: (len(shows[v] & needed), len(shows[v] & missing)))
            names.append(best)
            missing, needed = missing - shows[best], needed - shows[best]
        taken = set(names)
        others = [video for video in order if video not in taken]
        chosen[split] = {*names, *others[: max(0, count - len(names))]}
    return chosen


def _narrow(tree: Tree, labels: Labels, subset: Subset) -> Tree:
    """The tree of a subset: annotations that have rows, the first videos to be predicted."""
    kept = {
        (task, video, person)
        for task, rows in labels.items()
        for video, person in rows[["video", "person"]].drop_duplicates().itertuples(index=False)
    }
    annotations = [a for a in tree.annotations if (a.task, a.video, a.person) in kept]
    test = {}
    for task, listed in tree.test.items():
        names = sorted(listed.rows["video"].unique(), key=natural_order)[: subset.validation]
        rows = listed.rows[listed.rows["video"].isin(names)]
        rows = rows[rows["frame"] <= (subset.frames or rows["frame"].max())]
        test[task] = TestList(listed.path, rows.reset_index(drop=True))
    return replace(tree, annotations=annotations, test=test)
