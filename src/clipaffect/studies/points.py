"""Where the points come from: what each factor of a study brings, and how much of it is luck.

A factor's contribution is its Shapley value: the change in macro F1 by taking it from its first
level to its last, averaged over every order in which the factors can be changed (Shapley 1953). So
contributions add up to the whole change, and no order is preferred.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd

from clipaffect.config.universes import Universe
from clipaffect.evaluation.bootstrap import FEWEST, holm, intervals, macro_f1, swap_test
from clipaffect.studies.universes import mean_f1

HALVES = 1000  # random halves of the people
Counts = list[dict[int, np.ndarray]]


@dataclass(frozen=True)
class Points:
    """One task's answer.

    Attributes:
        universes: a row a combination: each factor's level, macro F1 (mean over seeds), the best
            first.
        contributions: a row a factor: ``difference`` with its interval over people, p, adjusted p.
        start, end: macro F1 with every factor at its first, and at its last level.
        luck: see ``winners_curse``; None with fewer than ``FEWEST`` people.
    """

    universes: pd.DataFrame
    contributions: pd.DataFrame
    start: float
    end: float
    luck: dict[str, float] | None


def ends_of(every: list[Universe]) -> dict[str, tuple[str, str]]:
    """The first and the last level of each factor."""
    first, last = every[0].levels, every[-1].levels  # as ``combine`` lists them
    return {factor: (first[factor], last[factor]) for factor in first}


def shapley_pairs(every: list[Universe]) -> dict[str, list[tuple[int, int, float]]]:
    """For each factor its pairs of combinations (with, without, weight).

    phi_i = sum over sets S of other factors of |S|! (n - |S| - 1)! / n! (v(S + i) - v(S)), where
    the factors of a set are at their last level and all others at their first.
    """
    ends = ends_of(every)
    factors = list(ends)
    number = {json.dumps(own.levels): k for k, own in enumerate(every)}

    def at(changed: tuple[str, ...]) -> int:
        return number[json.dumps({f: ends[f][f in changed] for f in factors})]

    found: dict[str, list[tuple[int, int, float]]] = {}
    for factor in factors:
        others = [f for f in factors if f != factor]
        found[factor] = [
            (at((*changed, factor)), at(changed),
             factorial(size) * factorial(len(others) - size) / factorial(len(factors)))
            for size in range(len(others) + 1)
            for changed in combinations(others, size)
        ]  # fmt: skip
    return found


def contributions(every: list[Universe], counts: Counts, resamples: int) -> pd.DataFrame:
    """A row a factor; see ``Points``. Seeds are averaged, people resampled.

    If a factor does nothing, what a person's frames get at its two levels may be exchanged: p is by
    such exchanges, in every pair of combinations at once; Holm over the factors.
    """
    pairs = shapley_pairs(every)
    members: dict[str, np.ndarray] = {}
    contrasts = []
    for own in pairs.values():
        contrast: dict[str, float] = {}
        for *ends, share in own:
            for number, sign in zip(ends, (share, -share), strict=True):
                for seed, found in counts[number].items():
                    name = f"{number}/{seed}"
                    members[name] = found
                    contrast[name] = contrast.get(name, 0.0) + sign / len(counts[number])
        contrasts.append(contrast)
    people = len(next(iter(members.values())))
    rows = []
    for (factor, (first, last)), interval in zip(
        ends_of(every).items(), intervals(members, contrasts, resamples), strict=True
    ):
        enough = people >= FEWEST
        p = _exchanged(pairs[factor], counts, resamples) if enough else float("nan")
        rows.append(
            {"factor": factor, "from": first, "to": last, "difference": interval.estimate,
             "low": interval.low, "high": interval.high, "p": p}
        )  # fmt: skip
    table = pd.DataFrame(rows)
    table["p_adjusted"] = holm(list(table["p"])) if people >= FEWEST else float("nan")
    return table


def _exchanged(pairs: list[tuple[int, int, float]], counts: Counts, resamples: int) -> float:
    """p of one factor, over the seeds that both combinations of a pair have."""
    first, second, weights = [], [], []
    for one, other, share in pairs:
        seeds = sorted(counts[one].keys() & counts[other].keys())
        first += [counts[one][seed] for seed in seeds]
        second += [counts[other][seed] for seed in seeds]
        weights += [share / len(seeds)] * len(seeds)
    return swap_test(first, second, resamples, weights=weights)


def winners_curse(counts: Counts, base: int, seed: int = 0) -> dict[str, float] | None:
    """How much of the best combination's gain is there because it was picked on these people.

    On a random half of the people the best combination is picked; its gain over ``base`` is taken
    on that half and on the other. Mean over ``HALVES`` halves. None with fewer than ``FEWEST``
    people.

    Returns:
        ``picked_on``: gain on the half that it was picked on; ``elsewhere``: on the other half;
        ``share``: of the gain that is lost; NaN where there is no gain.
    """
    known = [own for own in counts if own]
    people = len(next(iter(known[0].values())))
    if people < FEWEST or not counts[base]:
        return None
    rng = np.random.default_rng(seed)
    draws = np.argsort(rng.random((HALVES, people)), axis=1) < people // 2
    values = []
    for half in (draws, ~draws):
        parts = []
        for own in counts:
            if own:
                each = [_f1_of_parts(half, c) for c in own.values()]
                parts.append(np.mean(each, axis=0))
            else:
                parts.append(np.full(HALVES, -np.inf))
        values.append(np.stack(parts))
    here, there = (own - own[base] for own in values)
    best = here.argmax(axis=0)
    picked = float(here[best, np.arange(HALVES)].mean())
    elsewhere = float(there[best, np.arange(HALVES)].mean())
    share = (picked - elsewhere) / picked if picked > 0 else float("nan")
    return {"picked_on": picked, "elsewhere": elsewhere, "share": share}


def _f1_of_parts(chosen: np.ndarray, counts: np.ndarray) -> np.ndarray:
    sums = chosen.astype(float) @ counts.reshape(len(counts), -1)
    return macro_f1(sums.reshape(-1, *counts.shape[1:]))


def find_points(every: list[Universe], counts: Counts, resamples: int) -> Points | None:
    """Everything of one task; None where a corner of the factors has no finished head."""
    pairs = [pair for own in shapley_pairs(every).values() for pair in own]
    if not all(counts[a].keys() & counts[b].keys() for a, b, _ in pairs):
        return None
    mean = [mean_f1(own) for own in counts]
    table = pd.DataFrame([own.levels for own in every]).assign(
        macro_f1=mean, seeds=[len(own) for own in counts]
    )
    return Points(
        table.sort_values("macro_f1", ascending=False, kind="stable", ignore_index=True),
        contributions(every, counts, resamples),
        mean[0],
        mean[-1],
        winners_curse(counts, len(every) - 1),
    )
