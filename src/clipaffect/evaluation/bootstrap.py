"""Uncertainty of macro F1 over people, and paired tests between methods.

People are drawn, never frames: the frames of one person are alike. A *member* is one scored
method with one seed, given by its counts (C, T, 3) of C people, T targets and TP, FP, FN; a
*contrast* is a sum of members' macro F1 with coefficients, such as a mean over seeds or a
difference of two means.

The interval is the bootstrap-t (Efron & Tibshirani 1993, section 12.5): each resample's estimate
is divided by its own standard error, which the infinitesimal jackknife gives (Jaeckel 1972).
Resampled macro F1 lies too low, because a class that few people show is missing from many
resamples and counts as 0; with 24 people and such classes a plain percentile interval of nominal
95 % covered 88 % in simulations, this one 95 % (docs/statistics.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

FEWEST = 20  # people: with fewer, no interval is given
LEVEL = 0.95
AT_ONCE = 4_000_000  # cells (resample, person) in memory
TINY = 1e-9
LITTLE = 0.1  # of the standard error: a resample with less has lost whoever makes the difference
LOST = 0.01  # share of such resamples beyond which there is no interval

Members = Mapping[str, np.ndarray]
Contrast = Mapping[str, float]


@dataclass(frozen=True)
class Interval:
    """An estimate with its uncertainty over people.

    Attributes:
        estimate: of the people that there are.
        low, high: bounds of the 95 % interval; NaN with fewer than ``FEWEST`` people, and where
            the estimate hangs on so few of them that many resamples have none.
        standard_error: over people; NaN with fewer than ``FEWEST``.
        low_t, high_t: 2.5 % and 97.5 % quantiles of the resamples' t.
    """

    estimate: float
    low: float
    high: float
    standard_error: float
    low_t: float
    high_t: float

    def widened(self, variance: float) -> tuple[float, float]:
        """Bounds with a further, independent variance, such as that of a mean over seeds."""
        factor = np.sqrt(self.standard_error**2 + variance)
        return self.estimate - self.high_t * factor, self.estimate - self.low_t * factor


def macro_f1(sums: np.ndarray) -> np.ndarray:
    """Macro F1 (...,) of summed counts (..., T, 3); a target that never occurs counts as 0."""
    doubled = 2 * sums[..., 0]
    below = doubled + sums[..., 1] + sums[..., 2]
    found: np.ndarray = np.divide(doubled, below, out=np.zeros_like(below), where=below > 0).mean(
        axis=-1
    )
    return found


def influences(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(R, C): how macro F1 at the sums (R, T, 3) moves with the weight of each person's counts.

    With F = 2 TP / D, D = 2 TP + FP + FN: dF/dTP = 2 (FP + FN) / D^2, dF/dFP = dF/dFN =
    -2 TP / D^2. F does not change when all counts grow alike, so a resample's influences, each
    taken as often as its person was drawn, sum to 0.
    """
    hits, wrong = sums[..., 0], sums[..., 1] + sums[..., 2]
    squared = (2 * hits + wrong) ** 2
    scale = np.divide(2, squared, out=np.zeros_like(squared), where=squared > 0)
    slope = np.stack([scale * wrong, -scale * hits, -scale * hits], axis=-1) / sums.shape[-2]
    return slope.reshape(len(sums), -1) @ counts.reshape(len(counts), -1).T


def _evaluate(
    members: Members, contrasts: Sequence[Contrast], weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Estimates and standard errors (contrasts, R) of people drawn with ``weights`` (R, C)."""
    people = weights.shape[1]
    estimates = np.zeros((len(contrasts), len(weights)))
    moved = np.zeros((len(contrasts), *weights.shape))
    for name, counts in members.items():
        shares = np.array([contrast.get(name, 0.0) for contrast in contrasts])
        own = np.flatnonzero(shares)
        if not len(own):
            continue
        sums = (weights @ counts.reshape(people, -1)).reshape(-1, *counts.shape[1:])
        estimates[own] += shares[own, None] * macro_f1(sums)
        moved[own] += shares[own, None, None] * influences(sums, counts)
    variance = (weights * moved**2).sum(axis=2) * people / (people - 1)
    return estimates, np.sqrt(variance)


def _draws(people: int, resamples: int, seed: int, width: int) -> Iterator[np.ndarray]:
    """Bootstrap weights (some, people), ``resamples`` rows in all."""
    rng = np.random.default_rng(seed)
    rows = max(1, AT_ONCE // (people * width))
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        yield rng.multinomial(people, np.full(people, 1 / people), size=size).astype(float)


def intervals(
    members: Members, contrasts: Sequence[Contrast], resamples: int, seed: int = 0
) -> list[Interval]:
    """The interval of each contrast, all from the same resampled people.

    Args:
        members: counts (C, T, 3) by name, of the same people in the same order.
        contrasts: coefficients by member.
        resamples: how many.
        seed: of the draws.
    """
    people = len(next(iter(members.values())))
    if people < 2:
        estimates, errors = np.zeros((len(contrasts), 1)), np.full((len(contrasts), 1), np.nan)
        for number, contrast in enumerate(contrasts):
            sums = {name: members[name].sum(axis=0) for name in contrast}
            estimates[number] = sum(c * macro_f1(sums[name]) for name, c in contrast.items())
    else:
        estimates, errors = _evaluate(members, contrasts, np.ones((1, people)))
    point, error = estimates[:, 0], errors[:, 0]
    if people < FEWEST:
        nothing = float("nan")
        return [Interval(float(p), *([nothing] * 5)) for p in point]
    parts, lost = [], np.zeros(len(contrasts))
    for weights in _draws(people, resamples, seed, len(contrasts)):
        drawn, drawn_errors = _evaluate(members, contrasts, weights)
        lost += (drawn_errors < np.maximum(LITTLE * error, TINY)[:, None]).sum(axis=1)
        parts.append((drawn - point[:, None]) / np.maximum(drawn_errors, TINY))
    low_t, high_t = np.quantile(np.hstack(parts), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    low_t, high_t = (np.where(lost <= LOST * resamples, t, np.nan) for t in (low_t, high_t))
    return [
        Interval(
            float(p), float(p - high * e), float(p - low * e), float(e), float(low), float(high)
        )
        for p, e, low, high in zip(point, error, low_t, high_t, strict=True)
    ]


def swap_test(
    first: list[np.ndarray],
    second: list[np.ndarray],
    resamples: int,
    seed: int = 0,
    weights: list[float] | None = None,
) -> float:
    """Two-sided p of the mean difference in macro F1 between two methods on the same people.

    If the methods do not differ, their predictions for any person are exchangeable: each
    resample exchanges them for a random half of the people, for all seeds at once. The observed
    order is one of the orders, so p is never 0 (Phipson & Smyth 2010).

    Args:
        first, second: counts (C, T, 3) of each seed.
        resamples: how many random exchanges.
        seed: of the exchanges.
        weights: of the pairs' differences, in place of their mean.
    """
    people, pairs = len(first[0]), _pairs(first, second)
    shares = weights or [1 / len(pairs)] * len(pairs)
    rng = np.random.default_rng(seed)
    observed = sum(
        share * (macro_f1(a.sum(axis=0)) - macro_f1(b.sum(axis=0)))
        for share, (a, b) in zip(shares, pairs, strict=True)
    )
    rows, extreme = max(1, AT_ONCE // people), 0
    for start in range(0, resamples, rows):
        stays = rng.integers(0, 2, (min(rows, resamples - start), people)).astype(float)
        differences = np.zeros(len(stays))
        for share, (a, b) in zip(shares, pairs, strict=True):
            moved = (stays @ (a - b).reshape(people, -1)).reshape(-1, *a.shape[1:])
            swapped = moved + b.sum(axis=0)
            other = (a + b).sum(axis=0) - swapped
            differences += share * (macro_f1(swapped) - macro_f1(other))
        # Equal but for rounding is equal: with few people many orders give the very same value.
        extreme += int((np.abs(differences) >= abs(observed) - TINY).sum())
    return (1 + extreme) / (1 + resamples)


def _pairs(
    first: list[np.ndarray], second: list[np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pair the counts by seed; a method without seeds is paired with each seed."""
    count = max(len(first), len(second))
    one, other = (own * count if len(own) == 1 else own for own in (first, second))
    return list(zip(one, other, strict=True))


def holm(values: list[float]) -> list[float]:
    """Adjusted p values of a family of tests (Holm 1979)."""
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.array(values)[order] * factors))
    return [float(p) for p in adjusted]
