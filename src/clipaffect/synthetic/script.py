"""What a person does over time, and what an annotator would write down."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from clipaffect.core.tasks import AU, EXPR, NOT_ANNOTATED
from clipaffect.synthetic.actions import EXPRESSIONS, UNITS, draw_peaks, units_shown
from clipaffect.synthetic.person import smoothstep

# One hand of expressions. Its imbalance is that of Aff-Wild2's training set (rare anger, disgust
# and fear; much happiness, sadness and other); neutral fills the gaps between showings. Every
# hand is whole, so even a small split holds every class.
HAND = {
    "Anger": 1,
    "Disgust": 1,
    "Fear": 1,
    "Happiness": 4,
    "Sadness": 3,
    "Surprise": 2,
    "Other": 4,
}
UNIT_PRESENT = 0.20  # intensity from which a unit is coded as present
CLEAR, GONE = 0.45, 0.12  # envelope above which an expression is labelled; below: neutral
IDLE = 0.12  # involuntary movement stays below UNIT_PRESENT


@dataclass(frozen=True)
class Showing:
    """One expression to show, in one of its variants."""

    expression: str
    variant: int


@dataclass(frozen=True)
class Script:
    """A person's frames.

    Attributes:
        intensity: (T, len(UNITS)) action-unit intensities, speech included.
        mouth: (T, 2) speech shapes that no unit names: funnel, sideways.
        gaze: (T, 2) in [-1, 1], right and up.
        expression: (T,) EXPR label, -1 in transitions.
        units: (T, 12) AU labels.
    """

    intensity: np.ndarray
    mouth: np.ndarray
    gaze: np.ndarray
    expression: np.ndarray
    units: np.ndarray


def deal(count: int, rng: np.random.Generator) -> list[Showing]:
    """``count`` expressions from shuffled hands, each expression's variants in turn."""
    hand = [name for name, copies in HAND.items() for _ in range(copies)]
    hands = -(-count // len(hand))
    names = [str(name) for _ in range(hands) for name in rng.permutation(hand)][:count]
    turn = Counter[str]()
    showings = []
    for name in names:
        showings.append(Showing(name, turn[name] % len(EXPRESSIONS[name])))
        turn[name] += 1
    return showings


def wander(frames: int, fps: float, rng: np.random.Generator, seconds: float = 1.5) -> np.ndarray:
    """A smooth random path (frames,) in about [-1, 1] that turns every ``seconds``."""
    knots = int(frames / fps / seconds) + 4
    points = rng.uniform(-1, 1, knots)
    at = np.arange(frames) / fps / seconds + rng.random()
    index = at.astype(int)
    t = smoothstep(at - index, 0, 1)
    return points[index] * (1 - t) + points[index + 1] * t


def _speech(frames: int, fps: float, rng: np.random.Generator) -> np.ndarray:
    """Syllables (T, 3): jaw, funnel, sideways; silent about half of the time."""
    time = np.arange(frames) / fps
    talking = smoothstep(wander(frames, fps, rng, 2.0), 0.0, 0.3)
    beat = np.abs(np.sin(np.pi * (rng.uniform(2.5, 4.5) * time + rng.random())))
    loud = rng.uniform(0.15, 0.45) * (0.6 + 0.4 * wander(frames, fps, rng, 0.5))
    rounding = np.clip(wander(frames, fps, rng, 0.4), 0, 1) * 0.5
    side = np.clip(wander(frames, fps, rng, 0.8), 0, 1) * 0.25
    return np.column_stack([talking * beat * loud, talking * rounding, talking * side])


def _blinks(frames: int, fps: float, rng: np.random.Generator) -> np.ndarray:
    time = np.arange(frames) / fps
    closed = np.zeros(frames)
    at = rng.uniform(0.2, 3.0)
    while at < frames / fps:
        closed = np.maximum(closed, 1 - smoothstep(np.abs(time - at), 0.03, 0.13))
        at += rng.uniform(1.5, 4.5)
    return closed


def write_script(
    showings: tuple[Showing, ...], frames: int, fps: float, rng: np.random.Generator
) -> Script:
    """Lay expressions out over ``frames``: neutral, onset, apex, offset, neutral, ...

    The speech, blinks, gaze and idle movement come from the same generator but never look at
    the expression, so they carry no information about it.
    """
    column = {unit: k for k, unit in enumerate(UNITS)}
    intensity = np.clip(np.column_stack([wander(frames, fps, rng, 1.0) for _ in UNITS]), 0, 1) * (
        rng.random(len(UNITS)) * IDLE
    )
    speech = _speech(frames, fps, rng)
    label = np.full(frames, EXPR.targets.index("Neutral"))
    # Gaps and showings share the clip in proportion to random lengths, always whole.
    lengths = np.ravel([(rng.uniform(0.35, 0.8), rng.uniform(0.9, 1.5)) for _ in showings])
    ends = np.cumsum(np.append(lengths, rng.uniform(0.2, 0.5)))
    bounds = np.round(np.append(0, ends / ends[-1]) * frames).astype(int)
    for k, showing in enumerate(showings):
        first, last = bounds[2 * k + 1], bounds[2 * k + 2]
        x = (np.arange(last - first) + 0.5) / max(last - first, 1)
        envelope = smoothstep(x, 0.0, 0.22) * (1 - smoothstep(x, 0.80, 1.0))
        for unit, peak in draw_peaks(showing.expression, showing.variant, rng).items():
            column_now = intensity[first:last, column[unit]]
            np.maximum(column_now, envelope * peak, out=column_now)
        now = label[first:last]
        now[envelope > GONE] = NOT_ANNOTATED
        now[envelope >= CLEAR] = EXPR.targets.index(showing.expression)
    jaw = column[26]
    intensity[:, jaw] = np.clip(intensity[:, jaw] + speech[:, 0] / 0.85, 0, 1)
    intensity[:, column[43]] = np.maximum(intensity[:, column[43]], _blinks(frames, fps, rng))
    units = np.zeros((frames, len(AU.targets)), int)
    for t in range(frames):
        seen = units_shown({unit: intensity[t, k] for unit, k in column.items()})
        units[t] = [seen[int(name.removeprefix("AU"))] >= UNIT_PRESENT for name in AU.targets]
    gaze = np.column_stack([wander(frames, fps, rng, 0.7) for _ in range(2)])
    return Script(intensity, speech[:, 1:], 0.5 * gaze, label, units)
