"""Simulated annotators: their labels lag, some are wrong, and every error is recorded.

Only training annotations have these faults; validation labels are exact. docs/demo.md has the
sources of the rates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from clipaffect.core.tasks import AU, EXPR
from clipaffect.synthetic.casting import CLASS_FRAMES
from clipaffect.synthetic.script import Script

# Two annotators of AffectNet agreed on 60.7 % of the images. If each is right on a share p of them,
# and their errors differ, that is p squared. A majority of three such annotators is wrong on 12 %.
RIGHT = 0.607**0.5
EXPRESSION_WRONG = 1 - (RIGHT**3 + 3 * RIGHT**2 * (1 - RIGHT))
UNIT_MISSED = 0.10  # of a unit's stretches; as many are spurious, where there is room
LAG = (0.1, 0.6)  # seconds by which a video's expressions are late
UNIT_JITTER = 0.25  # seconds by which a unit's start and end are early or late
# The labels that a wrong expression can get, drawn in proportion to their frequency. Otherwise
# errors would dominate the rare classes.
TAKEN_FOR = {
    "Neutral": ("Sadness", "Other", "Happiness", "Anger"),
    "Anger": ("Disgust", "Neutral", "Other", "Sadness"),
    "Disgust": ("Anger", "Other", "Sadness"),
    "Fear": ("Surprise", "Sadness", "Other"),
    "Happiness": ("Other", "Neutral", "Surprise"),
    "Sadness": ("Neutral", "Other", "Disgust"),
    "Surprise": ("Fear", "Happiness", "Other"),
    "Other": ("Neutral", "Happiness", "Sadness", "Anger"),
}


@dataclass(frozen=True)
class Fault:
    """An injected fault: frames ``first`` to ``last``, counted from 1 as Aff-Wild2 counts.

    Attributes:
        kind: wrong_expression, missed_unit, spurious_unit, lag or misleading_resting_face.
        shown, annotated: class indices; 0 or 1 for a unit; 0 and the number of frames for a lag.
    """

    kind: str
    task: str
    target: str
    first: int
    last: int
    shown: int
    annotated: int


def annotate(
    script: Script, fps: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[Fault]]:
    """Annotations (T, 1) of EXPR and (T, 12) of AU with faults, and the list of these."""
    expression, wrong = _expressions(script, rng)
    lag = round(float(rng.uniform(*LAG)) * fps)
    frames = len(expression)
    late = np.concatenate([np.repeat(expression[:1], lag), expression])[:frames]
    wrong = [_later(fault, lag, frames) for fault in wrong]
    delay = Fault("lag", EXPR.name, "", 1, frames, 0, lag)
    units, missed = _units(script, fps, rng)
    return late[:, None], units, [delay, *(f for f in wrong if f.first <= frames), *missed]


def _later(fault: Fault, lag: int, frames: int) -> Fault:
    # Before the first label of a late annotator, the first one holds as well.
    first = 1 if fault.first == 1 else fault.first + lag
    return replace(fault, first=first, last=min(fault.last + lag, frames))


def written(faults: list[Fault], annotated: np.ndarray) -> list[Fault]:
    """The faults that are in a file's rows; ``annotated`` (rows,) is False where a row has -1."""
    found = []
    for fault in faults:
        last = min(fault.last, len(annotated))
        if annotated[fault.first - 1 : last].any():
            found.append(replace(fault, last=last))
    return found


def stretches(values: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of every run of equal values (T,)."""
    breaks = np.flatnonzero(np.diff(values)) + 1
    starts = [0, *breaks.tolist()]
    ends = [*(breaks - 1).tolist(), len(values) - 1]
    return list(zip(starts, ends, strict=True))


def _expressions(script: Script, rng: np.random.Generator) -> tuple[np.ndarray, list[Fault]]:
    found = script.expression.copy()
    faults = []
    # Neighbouring episodes may show the same: a stretch ends where either changes.
    for first, last in stretches(script.episode * len(EXPR.targets) + script.expression):
        shown = int(script.expression[first])
        if rng.random() < EXPRESSION_WRONG:
            others = TAKEN_FOR[EXPR.targets[shown]]
            weights = np.array([CLASS_FRAMES[name] for name in others], float)
            taken = EXPR.targets.index(str(rng.choice(others, p=weights / weights.sum())))
            found[first : last + 1] = taken
            faults.append(
                Fault("wrong_expression", EXPR.name, "", first + 1, last + 1, shown, taken)
            )
    return found, faults


def _units(script: Script, fps: float, rng: np.random.Generator) -> tuple[np.ndarray, list[Fault]]:
    frames = len(script.units)
    found = np.zeros_like(script.units)
    faults = []
    for k, name in enumerate(AU.targets):
        present = [(a, b) for a, b in stretches(script.units[:, k]) if script.units[a, k]]
        for first, last in present:
            if rng.random() < UNIT_MISSED:
                faults.append(Fault("missed_unit", AU.name, name, first + 1, last + 1, 1, 0))
                continue
            start, end = (round(float(rng.uniform(-1, 1)) * UNIT_JITTER * fps) for _ in range(2))
            # At least one frame of it is annotated: what is lost is a fault, and listed.
            begin = min(max(0, first + start), last)
            found[begin : max(last + 1 + end, max(begin, first) + 1), k] = 1
        free = (script.units[:, k] == 0) & (found[:, k] == 0)
        for _ in range(int(rng.binomial(len(present), UNIT_MISSED))):
            length = min(frames, max(1, round(float(rng.lognormal(0, 0.5)) * 1.6 * fps)))
            places = np.convolve(free, np.ones(length), "valid") == length
            if not places.any():
                continue  # a unit that is nearly always there leaves no room
            first = int(rng.choice(np.flatnonzero(places)))
            found[first : first + length, k] = 1
            free[first : first + length] = False
            faults.append(Fault("spurious_unit", AU.name, name, first + 1, first + length, 0, 1))
    return found, faults
