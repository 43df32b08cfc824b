"""Paired tests between methods: permutation over people, and Holm's adjustment."""

from __future__ import annotations

import numpy as np

from clipaffect.evaluation.person_counts import macro_f1

AT_ONCE = 4_000_000  # cells (resample, person) in memory
TINY = 1e-9


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
