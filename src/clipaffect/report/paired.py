"""Compare two systems' scores on the same people, and adjust the p values of a table."""

from __future__ import annotations

from typing import Any

import numpy as np

from clipaffect.evaluation.intervals import FEWEST, intervals
from clipaffect.evaluation.paired_test import holm, swap_test
from clipaffect.report.headline import verdict
from clipaffect.report.results import without_nan


def paired(first: list[np.ndarray], second: list[np.ndarray], resamples: int) -> dict[str, Any]:
    """The scores of two systems, and how much better the second one is.

    Args:
        first, second: counts (C, T, 3) of each seed, of the same people in the same order.
        resamples: exchanges of people in the test.

    Returns:
        ``first``, ``second`` and ``difference`` in macro F1; ``low`` and ``high`` of the
        difference, and ``p``, None with too few people; ``verdict`` on the second.
    """
    sides = (first, second)
    members = {f"{k}/{s}": counts for k, side in enumerate(sides) for s, counts in enumerate(side)}
    means = [{f"{k}/{s}": 1 / len(side) for s in range(len(side))} for k, side in enumerate(sides)]
    contrast = {name: -share for name, share in means[0].items()} | means[1]
    one, other, difference = intervals(members, [*means, contrast])
    p = swap_test(second, first, resamples) if len(first[0]) >= FEWEST else None
    return {
        "first": one.estimate,
        "second": other.estimate,
        "difference": difference.estimate,
        **without_nan({"low": difference.low, "high": difference.high}),
        "p": p,
        "p_adjusted": None,
        "verdict": verdict(difference.estimate, p),
    }


def adjust(rows: list[dict[str, Any]]) -> None:
    """Adjust the p values of a table by Holm's method, and the verdicts with them."""
    tested = [row for row in rows if row["p"] is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row |= {"p_adjusted": p, "verdict": verdict(row["difference"], p)}
