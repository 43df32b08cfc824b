"""Counts of each person (or source video): the sufficient statistics of macro F1.

F1 of a class is 2 TP / (2 TP + FP + FN), and the three counts add up over any set of people. So
intervals and tests over people need no frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from clipaffect.core.parquet import read_table
from clipaffect.core.setting import Setting, known_alpha
from clipaffect.core.tasks import NOT_ANNOTATED, Task


def macro_f1(sums: np.ndarray) -> np.ndarray:
    """Macro F1 (...,) of summed counts (..., T, 3); a target that never occurs counts as 0."""
    doubled = 2 * sums[..., 0]
    below = doubled + sums[..., 1] + sums[..., 2]
    found: np.ndarray = np.divide(doubled, below, out=np.zeros_like(below), where=below > 0).mean(
        axis=-1
    )
    return found


@dataclass(frozen=True)
class Counted:
    """The counts of each score by person.

    Attributes:
        people: names of the groups.
        targets: names of the classes or labels.
        seeds: (C, T, 3) counts of each setting by seed; a reference has the seed -1 alone.
        cells: (C, T) of each setting, how many frames were asked about each target: settings can
            be compared where it is the same.
    """

    people: list[str]
    targets: tuple[str, ...]
    seeds: dict[Setting, dict[int, np.ndarray]]
    cells: dict[Setting, np.ndarray]

    def heads(self, encoder: str, variant: str = "") -> list[Setting]:
        """Settings of one variant's heads."""
        return [
            s for s in self.seeds if (s.method, s.encoder, s.variant) == ("head", encoder, variant)
        ]

    def target(self, number: int) -> Counted:
        """The counts of a single target, for the people with annotations of it."""
        asked = np.any([cells[:, number] > 0 for cells in self.cells.values()], axis=0)
        own = {
            setting: {seed: c[asked, number : number + 1] for seed, c in by_seed.items()}
            for setting, by_seed in self.seeds.items()
        }
        cells = {setting: c[asked, number : number + 1] for setting, c in self.cells.items()}
        people = [name for name, there in zip(self.people, asked, strict=True) if there]
        return Counted(people, self.targets[number : number + 1], own, cells)


def read_counts(path: Path) -> Counted:
    """Read ``clusters.parquet``."""
    frame = read_table(path)
    people = sorted(frame["group"].unique())
    targets = tuple(dict.fromkeys(frame["target"]))  # in the task's order, in every group
    keys = ["method", "encoder", "variant", "alpha", "seed"]
    seeds: dict[Setting, dict[int, np.ndarray]] = {}
    cells: dict[Setting, np.ndarray] = {}
    for (method, encoder, variant, alpha, seed), own in frame.groupby(
        keys, dropna=False, sort=True
    ):
        setting = Setting(method, encoder, variant, known_alpha(alpha))
        seeds.setdefault(setting, {})[int(seed)] = count_array(own, people, targets)
        cells[setting] = count_array(own, people, targets, ("annotated",))[..., 0]
    return Counted(people, targets, seeds, cells)


COUNTS = ("hits", "false_alarms", "misses")  # TP, FP, FN
NOTHING = pd.DataFrame(columns=["group", "target", *COUNTS, "annotated"])


def cluster_counts(
    labels: np.ndarray, decisions: np.ndarray, groups: np.ndarray, task: Task
) -> pd.DataFrame:
    """Columns group, target, hits, false_alarms, misses, annotated: a row a group and target.

    ``annotated`` counts the frames that were asked about the target.

    Args:
        labels: (n, 1) class numbers or (n, targets) bits; -1 is not annotated and counts nothing.
        decisions: like ``labels``.
        groups: (n,) the person or source video of each frame.
        task: the task.
    """
    if task.multilabel:
        truth, said, known = labels == 1, decisions == 1, labels != NOT_ANNOTATED
    else:
        classes = np.arange(len(task.targets))
        truth, said = labels == classes, decisions == classes
        known = np.ones_like(truth)
    names, code = np.unique(groups.astype(str), return_inverse=True)
    columns = {}
    for name, cells in zip(COUNTS, (truth & said, ~truth & said, truth & ~said), strict=True):
        sums = [np.bincount(code, column, len(names)) for column in (cells & known).T]
        columns[name] = np.stack(sums, axis=1).ravel().astype(np.int64)
    asked = np.stack([np.bincount(code, column, len(names)) for column in known.T], axis=1)
    columns["annotated"] = asked.ravel().astype(np.int64)
    keys = {
        "group": np.repeat(names, len(task.targets)),
        "target": np.tile(task.targets, len(names)),
    }
    return pd.DataFrame(keys | columns)


def count_array(
    counts: pd.DataFrame,
    groups: list[str],
    targets: tuple[str, ...],
    columns: tuple[str, ...] = COUNTS,
) -> np.ndarray:
    """(groups, targets, columns) float64 of one method's rows; a group that is not there has 0."""
    found = np.zeros((len(groups), len(targets), len(columns)))
    at = pd.Index(groups).get_indexer(counts["group"])
    target = pd.Index(targets).get_indexer(counts["target"])
    found[at, target] = counts[list(columns)].to_numpy(float)
    return found
