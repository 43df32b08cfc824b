"""The counts of every setting, read for statistics over people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipaffect.evaluation.clusters import count_array
from clipaffect.tables import read_frame


class Setting(NamedTuple):
    """A method with everything that names it but its seed; a head has a variant and an alpha."""

    method: str
    encoder: str
    variant: str
    alpha: float | None

    def columns(self, prefix: str = "") -> dict[str, Any]:
        """Columns of the tables."""
        alpha = float("nan") if self.alpha is None else self.alpha
        return {f"{prefix}{k}": v for k, v in (self._asdict() | {"alpha": alpha}).items()}


@dataclass(frozen=True)
class Counted:
    """Every score's counts by person.

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
        return [s for s in self.seeds if s.method == "head" and s[1:3] == (encoder, variant)]

    def target(self, number: int) -> Counted:
        """The counts of one target alone, of the people who were asked about it."""
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
    frame = read_frame(path)
    people = sorted(frame["group"].unique())
    targets = tuple(dict.fromkeys(frame["target"]))  # in the task's order, in every group
    keys = ["method", "encoder", "variant", "alpha", "seed"]
    seeds: dict[Setting, dict[int, np.ndarray]] = {}
    cells: dict[Setting, np.ndarray] = {}
    for (method, encoder, variant, alpha, seed), own in frame.groupby(
        keys, dropna=False, sort=True
    ):
        setting = Setting(method, encoder, variant, None if np.isnan(alpha) else float(alpha))
        seeds.setdefault(setting, {})[int(seed)] = count_array(own, people, targets)
        cells[setting] = count_array(own, people, targets, ("annotated",))[..., 0]
    return Counted(people, targets, seeds, cells)
