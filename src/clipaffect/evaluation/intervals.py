"""Confidence intervals of macro F1 over people.

The unit is a person, never a frame: the frames of one person are alike. A *member* is one scored
method with one seed, given by its counts (C, T, 3) of C people, T targets and TP, FP, FN; a
*contrast* is a sum of members' macro F1 with coefficients, such as a mean over seeds or a
difference of two means.

The standard error is the jackknife's (Efron & Tibshirani 1993, eq. 11.5): the estimate is computed
again without each person in turn. The interval is Student's t with as many degrees of freedom as
the people's influences support (Satterthwaite 1946). Where a few long recordings decide, these
are far fewer than the people less one, and the interval is wider. docs/statistics.md has its
coverage in simulations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

from clipaffect.evaluation.person_counts import macro_f1

FEWEST = 20  # people: with fewer, no interval is given
LEVEL = 0.95
FEWEST_FREEDOM = 2.0  # below, the bound of t grows without gain: coverage is over .99 already
# Effective people. An estimate that one person of 20 alone moves has 1.11.
FEWEST_EFFECTIVE = 1.15

Members = Mapping[str, np.ndarray]
Contrast = Mapping[str, float]


@dataclass(frozen=True)
class Interval:
    """An estimate with its uncertainty over people.

    Attributes:
        estimate: of the people that there are.
        low, high: bounds of the 95 % interval; NaN with fewer than ``FEWEST`` people, and where
            one person alone decides the estimate.
        standard_error: over people; NaN with fewer than ``FEWEST``.
        bound: of Student's t; half the interval's width in standard errors.
    """

    estimate: float
    low: float
    high: float
    standard_error: float
    bound: float

    def widened(self, variance: float) -> tuple[float, float]:
        """Bounds with a further, independent variance, such as that of a mean over seeds."""
        half = self.bound * np.sqrt(self.standard_error**2 + variance)
        return self.estimate - half, self.estimate + half


def effective_people(influences: np.ndarray) -> float:
    """As many people of equal influence would determine the standard error equally well.

    With influences u about their mean, (sum of u^2)^2 / (sum of u^4); NaN if nobody has any.

    Args:
        influences: (C,) how much the estimate changes without each person.
    """
    squares = (influences - influences.mean()) ** 2
    below = float((squares**2).sum())
    return float(squares.sum() ** 2 / below) if below > 0 else float("nan")


def intervals(members: Members, contrasts: Sequence[Contrast]) -> list[Interval]:
    """The interval of each contrast.

    Args:
        members: counts (C, T, 3) by name, of the same people in the same order.
        contrasts: coefficients by member.
    """
    whole = {name: float(macro_f1(counts.sum(axis=0))) for name, counts in members.items()}
    without = {
        name: macro_f1(counts.sum(axis=0) - counts)  # (C,)
        for name, counts in members.items()
    }
    found = []
    for contrast in contrasts:
        estimate = sum(share * whole[name] for name, share in contrast.items())
        left_out = sum((share * without[name] for name, share in contrast.items()), np.zeros(1))
        found.append(interval_of(estimate, left_out))
    return found


def interval_of(estimate: float, left_out: np.ndarray) -> Interval:
    """The interval of any estimate, from the estimates (C,) without each person."""
    people, nothing = len(left_out), float("nan")
    if people < FEWEST:
        return Interval(estimate, nothing, nothing, nothing, nothing)
    error = float(np.sqrt((people - 1) * left_out.var()))
    effective = effective_people(left_out)
    if not effective >= FEWEST_EFFECTIVE:
        return Interval(estimate, nothing, nothing, error, nothing)
    freedom = min(max(effective - 1, FEWEST_FREEDOM), people - 1)
    bound = float(student_t.ppf((1 + LEVEL) / 2, freedom))
    return Interval(estimate, estimate - bound * error, estimate + bound * error, error, bound)
