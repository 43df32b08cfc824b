"""Coverage of the 95 % intervals of macro F1, and the level of the paired test.

People are simulated. They differ in how long they were recorded, in which classes they show, and
in how well these are predicted. The true value is that of 200,000 people. A second method predicts
40 % of the people in the same way and the others a little better; the true difference is known in
the same way. For the test, the two methods' predictions are exchanged for a random half of the
people, so that the methods do not differ.

Prints a Markdown table with a row for each cell of the grid. Widths are relative to an oracle that
knows the 2.5 % and 97.5 % quantiles of the estimate. Every finished cell is appended to FILE, and
a later call with the same FILE continues after it.

    python benchmarks/coverage.py [--trials N] [--file FILE]
    python benchmarks/coverage.py --smoke       # a few trials: does it run?
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
from scipy.stats import t as student_t

from clipaffect.evaluation.intervals import Interval, intervals
from clipaffect.evaluation.paired_test import swap_test
from clipaffect.evaluation.person_counts import macro_f1

EVERYBODY = 200_000
EXCHANGES = 999
TESTED = 4  # the test is run in every fourth trial
SAME = 0.4  # share of people whom both methods predict in the same way
GAIN = 0.25  # of the second method for the others, in logits
# Share of people who show a class, and how well it is predicted (logit), by task.
RARE = {
    "EXPR": np.array([1, 0.3, 0.1, 0.1, 0.6, 0.5, 0.4, 0.7]),
    "AU": np.array([0.9, 0.6, 0.8, 0.9, 0.9, 0.9, 0.7, 0.1, 0.1, 0.3, 0.9, 0.1]),
}
SKILL = {
    "EXPR": np.array([1, -0.5, -0.5, -1, 0.8, 0, 0.2, -0.3]),
    "AU": np.array([0.5, -0.3, 0, 0.8, 1, 0.9, 0.3, -0.8, -1, -0.5, 1, -0.6]),
}


@dataclass(frozen=True)
class Cell:
    """One combination of the grid; ``spread`` is the deviation of the log of lengths."""

    task: str
    classes: str
    spread: float
    people: int


GRID = [
    Cell(*values)
    for values in product(("EXPR", "AU"), ("rare", "common"), (0.5, 1.2, 1.6), (24, 40, 70, 150))
]


def _chance(logit: np.ndarray) -> np.ndarray:
    found: np.ndarray = 1 / (1 + np.exp(-logit))
    return found


def two_methods(rng: np.random.Generator, cell: Cell, people: int) -> tuple[np.ndarray, np.ndarray]:
    """The counts (people, T, 3) of two methods: TP, FP and FN."""
    skill = SKILL[cell.task]
    targets = len(skill)
    shows = RARE[cell.task] if cell.classes == "rare" else np.full(targets, 0.8)
    length = np.maximum(1, rng.lognormal(np.log(300), cell.spread, people)).astype(int)
    shown = rng.random((people, targets)) < shows
    logit = 0.3 + skill + rng.normal(0, 0.8, (people, 1)) + rng.normal(0, 0.8, (people, targets))
    other = logit + GAIN + rng.normal(0, 0.6, (people, targets))
    if cell.task == "EXPR":
        shown[:, 0] = True
        shares = rng.gamma(0.7, 1, (people, targets)) * shown + 1e-12
        frames = rng.multinomial(length, shares / shares.sum(axis=1, keepdims=True))
        habit = rng.dirichlet(np.full(targets, 0.7), people)
        first, second = (_classes(rng, frames, _chance(own), habit) for own in (logit, other))
    else:
        frames = rng.binomial(length[:, None], rng.beta(0.8, 1.6, (people, targets)) * shown)
        false = rng.normal(-2.5, 1, (people, targets))
        less = false + rng.normal(-0.1, 0.4, (people, targets))
        first, second = (
            _labels(rng, frames, length[:, None] - frames, _chance(own), _chance(wrong))
            for own, wrong in ((logit, false), (other, less))
        )
    same = rng.random(people) < SAME
    return first, np.where(same[:, None, None], first, second)


def _classes(
    rng: np.random.Generator, frames: np.ndarray, chance: np.ndarray, habit: np.ndarray
) -> np.ndarray:
    """Counts of a method that is right with a chance, or else says what it usually says."""
    hits = rng.binomial(frames, chance)
    misses = frames - hits
    alarms = np.zeros_like(misses)
    for number in range(frames.shape[1]):
        others = habit * (np.arange(frames.shape[1]) != number) + 1e-12
        others[:, number] = 0
        alarms += rng.multinomial(misses[:, number], others / others.sum(axis=1, keepdims=True))
    return np.stack([hits, alarms, misses], axis=-1).astype(float)


def _labels(
    rng: np.random.Generator,
    present: np.ndarray,
    absent: np.ndarray,
    chance: np.ndarray,
    false: np.ndarray,
) -> np.ndarray:
    hits = rng.binomial(present, chance)
    return np.stack([hits, rng.binomial(absent, false), present - hits], axis=-1).astype(float)


def _summary(found: list[Interval], truth: float, people: int) -> dict[str, float]:
    """Coverage, dashes and relative width of one kind of interval."""
    estimates, low, high, error = np.array(
        [(i.estimate, i.low, i.high, i.standard_error) for i in found]
    ).T
    known = ~np.isnan(low)
    plain = student_t.ppf(0.975, people - 1) * error
    oracle = np.subtract(*np.quantile(estimates, [0.975, 0.025]))
    return {
        "covers": ((low <= truth) & (truth <= high))[known].mean(),
        "below": (high < truth)[known].mean(),
        "dashes": 1 - known.mean(),
        "width": (high - low)[known].mean() / oracle,
        "plain_t": (np.abs(estimates - truth) <= plain).mean(),
    }


def run(cell: Cell, trials: int, everybody: int) -> dict[str, float]:
    """One cell: both kinds of interval, and the share of tests with p < 0.05."""
    rng = np.random.default_rng(GRID.index(cell))
    first, second = two_methods(rng, cell, everybody)
    score = float(macro_f1(first.sum(axis=0)))
    gain = float(macro_f1(second.sum(axis=0))) - score
    scores, differences, small = [], [], []
    for trial in range(trials):
        first, second = two_methods(rng, cell, cell.people)
        found = intervals({"a": first, "b": second}, [{"a": 1.0}, {"a": -1.0, "b": 1.0}])
        scores.append(found[0])
        differences.append(found[1])
        if trial % TESTED == 0:
            swapped = (rng.random(cell.people) < 0.5)[:, None, None]
            one, other = np.where(swapped, second, first), np.where(swapped, first, second)
            small.append(swap_test([one], [other], EXCHANGES, seed=trial) < 0.05)
    kinds = (("score", scores, score), ("difference", differences, gain))
    return {
        f"{name}_{key}": float(value)
        for name, own, truth in kinds
        for key, value in _summary(own, truth, cell.people).items()
    } | {"significant": float(np.mean(small))}


def results(trials: int, file: Path | None, everybody: int) -> Iterator[dict[str, float]]:
    """Every cell's row, from the file if it is there."""
    done = {}
    if file is not None and file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            done[tuple(row[key] for key in (*Cell.__dataclass_fields__, "trials"))] = row
    for cell in GRID:
        key = (*asdict(cell).values(), trials)
        if key not in done:
            done[key] = asdict(cell) | {"trials": trials} | run(cell, trials, everybody)
            if file is not None:
                with file.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(done[key]) + "\n")
        yield done[key]


def main() -> None:
    """Print the table and its means."""
    parser = argparse.ArgumentParser(description="Coverage of intervals on simulated people.")
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--file", type=Path, help="where finished cells are kept")
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    trials, everybody = (8, 1_000) if asked.smoke else (asked.trials, EVERYBODY)
    columns = ("covers", "below", "dashes", "width", "plain_t")
    shown = [f"{kind}_{name}" for kind in ("score", "difference") for name in columns]
    shown.append("significant")
    print(f"| task | classes | spread | people | {' | '.join(shown)} |")
    print("|" + "---|" * (4 + len(shown)))
    rows = []
    for row in results(trials, asked.file, everybody):
        rows.append([row[name] for name in shown])
        cells = " | ".join(f"{value:.3f}" for value in rows[-1])
        names = " | ".join(str(row[name]) for name in Cell.__dataclass_fields__)
        print(f"| {names} | {cells} |", flush=True)
    for name, values in (("mean", np.mean(rows, 0)), ("least", np.min(rows, 0))):
        print(f"| {name} | | | | {' | '.join(f'{value:.3f}' for value in values)} |")


if __name__ == "__main__":
    main()
