"""Bounded scalar minimisation of many functions at once: ``scipy.optimize.fminbound`` on a device.

Brent 1973, "Algorithms for Minimization without Derivatives", chapter 5, as scipy runs it (the
FMIN of Forsythe, Malcolm and Moler 1977): a golden-section step, or a parabolic one through the
three best points where that is safe. Every function goes its own way; one that has converged
stands still. The number of rounds is fixed, so that the host never waits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

GOLDEN = (3 - math.sqrt(5)) / 2
RELATIVE = math.sqrt(2.2e-16)  # of scipy: half the digits of a float64
ABSOLUTE = 1e-5  # scipy's default tolerance
# CVaR's functions, on intervals of 1000 and more, take up to 46 (720,000 random batches of 8
# to 384 losses); a search that is cut short keeps its best point.
ROUNDS = 56


def bounded_minimum(
    objective: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, rounds: int = ROUNDS
) -> Tensor:
    """Where scipy's bounded search finds the minimum of each of G functions.

    Args:
        objective: (G,) points to (G,) values.
        low, high: (G,) float64 bounds.
        rounds: steps, of which each evaluates the objective once.
    """
    # The three best points so far, best first, above their values.
    start = low + GOLDEN * (high - low)
    value = objective(start)
    best = torch.stack([start, start, start, value, value, value])
    # (4, 6): for a new point that is (0) the best, (1) second, (2) third, (3) none of these, the
    # rows of ``best``, with the new point as row 6 and its value as row 7, that become its rows.
    place, case = torch.arange(3, device=low.device), torch.arange(4, device=low.device)[:, None]
    points = torch.where(place < case, place, place - 1)
    rows = torch.cat(
        [torch.where(place == case, 6, points), torch.where(place == case, 7, points + 3)], 1
    )
    step = before = torch.zeros_like(low)  # the last step, and the one before it
    for _ in range(rounds):
        x, second, third, fx, f_second, f_third = best
        middle = (low + high) / 2
        small = RELATIVE * x.abs() + ABSOLUTE / 3
        moving = (x - middle).abs() > 2 * small - (high - low) / 2
        # The parabola through the three points has its minimum at x + p / q.
        r, q = (x - second) * (fx - f_third), (x - third) * (fx - f_second)
        p, q = (x - third) * q - (x - second) * r, 2 * (q - r)
        p, q = torch.where(q > 0, -p, p) + 0.0, q.abs()  # never -0.0: a step of 0 goes up
        inside = (p > q * (low - x)) & (p < q * (high - x))
        parabolic = (before.abs() > small) & inside & (p.abs() < (q * before / 2).abs())
        ahead = p / q
        there = x + ahead
        at_edge = (there - low < 2 * small) | (high - there < 2 * small)
        ahead = torch.where(at_edge, small.copysign(middle - x), ahead)
        section = torch.where(x >= middle, low, high) - x
        before = torch.where(parabolic, step, section)
        step = torch.where(parabolic, ahead, GOLDEN * section)
        new = x + step.abs().maximum(small).copysign(step)
        value = objective(new)
        is_best = value <= fx
        is_second = (value <= f_second) | (second == x)
        is_third = (value <= f_third) | (third == x) | (third == second)
        case = torch.where(is_best, 0, torch.where(is_second, 1, torch.where(is_third, 2, 3)))
        case = torch.where(moving, case, 3)
        best = torch.cat([best, new[None], value[None]]).gather(0, rows[case].t())
        # The worse of the two points becomes a bound: nothing beyond it can be better.
        worse = torch.where(is_best, x, new)
        below, above = moving & (worse < best[0]), moving & (worse > best[0])
        low, high = torch.where(below, worse, low), torch.where(above, worse, high)
    return best[0]
