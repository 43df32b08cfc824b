"""What a person does over time: expressions, conversation, speech, blinks and gaze."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clipaffect.core.tasks import AU, EXPR
from clipaffect.synthetic.actions import EXPRESSIONS, UNITS, draw_blend, draw_peaks, units_shown
from clipaffect.synthetic.casting import Episode
from clipaffect.synthetic.skin import smoothstep

UNIT_PRESENT = 0.20  # intensity from which a unit is coded as present
CLEAR = 0.25  # share of an episode's peak from which its expression is annotated
IDLE = 0.12  # involuntary movement stays below UNIT_PRESENT
HARD = 0.15  # share of people whose face at rest looks like an expression
COLUMN = {unit: k for k, unit in enumerate(UNITS)}
# Faces at rest that look like something: furrowed, drooping, smiling, raised, sneering.
RESTING = (
    {4: 0.40, 7: 0.25},
    {15: 0.40, 17: 0.25, 1: 0.2},
    {12: 0.35, 6: 0.2},
    {1: 0.35, 2: 0.35},
    {10: 0.40, 9: 0.2},
)


@dataclass(frozen=True)
class Habit:
    """Movements of conversation that belong to no expression.

    Attributes:
        share: mean share of time, over people.
        units: how often each joins in, and its range of peak intensity.
    """

    share: float
    units: dict[int, tuple[float, float, float]]


# Set so that each unit is as frequent as in Aff-Wild2 (tests/demo/test_demo.py).
HABITS = (
    Habit(0.515, {25: (1.0, 0.25, 0.8), 10: (0.40, 0.2, 0.5), 26: (0.02, 0.2, 0.5)}),  # talk
    Habit(0.34, {7: (1.0, 0.2, 0.6), 6: (0.42, 0.2, 0.5)}),  # narrowed eyes
    Habit(0.105, {12: (1.0, 0.2, 0.4), 6: (0.30, 0.2, 0.4)}),  # a smile out of politeness
    Habit(0.13, {10: (1.0, 0.2, 0.45)}),  # a raised lip
)


@dataclass(frozen=True)
class Temper:
    """A person's traits that affect every clip.

    Attributes:
        strength: factor of all peaks.
        resting: intensities of the resting face, which are not annotated.
        hard: the face at rest looks like an expression.
        habits: share of each of ``HABITS``.
    """

    strength: float
    resting: dict[int, float]
    hard: bool
    habits: tuple[float, ...]


@dataclass(frozen=True)
class Script:
    """A person's frames.

    Attributes:
        intensity: (T, len(UNITS)) action-unit intensities, speech and face at rest included.
        mouth: (T, 2) speech shapes that no unit names: funnel, sideways.
        gaze: (T, 2) in [-1, 1], right and up.
        expression: (T,) EXPR class, as shown.
        units: (T, 12) AU labels, as shown: without the face at rest.
        episode: (T,) number of the episode.
    """

    intensity: np.ndarray
    mouth: np.ndarray
    gaze: np.ndarray
    expression: np.ndarray
    units: np.ndarray
    episode: np.ndarray


def draw_temper(rng: np.random.Generator) -> Temper:
    """Somebody's strength of expression, face at rest and habits."""
    hard = bool(rng.random() < HARD)
    looks = RESTING[int(rng.integers(len(RESTING)))]
    amount = rng.uniform(0.8, 1.3) if hard else rng.uniform(0.0, 0.4)
    # Beta with the habit's mean: some people do it all the time, some never.
    shares = tuple(float(rng.beta(1.5 * h.share, 1.5 * (1 - h.share))) for h in HABITS)
    return Temper(
        strength=float(rng.uniform(0.65, 1.1)),
        resting={unit: float(amount * level) for unit, level in looks.items()},
        hard=hard,
        habits=shares,
    )


def wander(frames: int, fps: float, rng: np.random.Generator, seconds: float = 1.5) -> np.ndarray:
    """A smooth random path (frames,) in about [-1, 1] that turns every ``seconds``."""
    knots = int(frames / fps / seconds) + 4
    points = rng.uniform(-1, 1, knots)
    at = np.arange(frames) / fps / seconds + rng.random()
    index = at.astype(int)
    t = smoothstep(at - index, 0, 1)
    return points[index] * (1 - t) + points[index + 1] * t


def _speech(frames: int, fps: float, talking: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Syllables (T, 3) while somebody talks (T,) in [0, 1]: jaw, funnel, sideways."""
    time = np.arange(frames) / fps
    beat = np.abs(np.sin(np.pi * (rng.uniform(2.5, 4.5) * time + rng.random())))
    loud = rng.uniform(0.05, 0.20) * (0.6 + 0.4 * wander(frames, fps, rng, 0.5))
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


def _spells(frames: int, fps: float, share: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Envelopes (T,) of alternating intervals that are on for ``share`` of the time."""
    mean = (
        1.6 * np.sqrt(share / max(1 - share, 1e-3)),
        1.6 * np.sqrt((1 - share) / max(share, 1e-3)),
    )
    time = (np.arange(frames) + 0.5) / fps
    spells, on, at = [], bool(rng.random() < share), 0.0
    at -= float(rng.exponential(mean[0] if on else mean[1])) * rng.random()
    while at < frames / fps:
        length = float(rng.exponential(mean[0] if on else mean[1])) + 0.2
        if on:
            spells.append(
                smoothstep(time, at - 0.1, at + 0.1)
                * (1 - smoothstep(time, at + length - 0.1, at + length + 0.1))
            )
        at, on = at + length, not on
    return spells


def _peaks(episode: Episode, rng: np.random.Generator) -> dict[int, float]:
    if episode.expression not in EXPRESSIONS:
        return {}
    if episode.variant == len(EXPRESSIONS[episode.expression]):
        return draw_blend(rng)
    return draw_peaks(episode.expression, episode.variant, rng)


def write_script(
    episodes: tuple[Episode, ...],
    temper: Temper,
    frames: int,
    fps: float,
    rng: np.random.Generator,
) -> Script:
    """Lay episodes out over ``frames``, each with onset, apex and offset.

    Speech, blinks, gaze and idle movement use the same generator but are independent of the
    expression.
    """
    shown = np.column_stack([wander(frames, fps, rng, 1.0) for _ in UNITS])
    shown = np.clip(shown, 0, 1) * (rng.random(len(UNITS)) * IDLE)
    talking = np.zeros(frames)
    for habit, share in zip(HABITS, temper.habits, strict=True):
        for spell in _spells(frames, fps, share, rng):
            talking = np.maximum(talking, spell) if habit is HABITS[0] else talking
            for unit, (often, low, high) in habit.units.items():
                amount = rng.uniform(low, high) * (rng.random() < often)
                np.maximum(shown[:, COLUMN[unit]], amount * spell, out=shown[:, COLUMN[unit]])
    label = np.full(frames, EXPR.targets.index("Neutral"))
    number = np.zeros(frames, int)
    lengths = rng.lognormal(0, 0.5, len(episodes))
    bounds = np.round(np.append(0, np.cumsum(lengths)) / lengths.sum() * frames).astype(int)
    for k, episode in enumerate(episodes):
        first, last = bounds[k], bounds[k + 1]
        number[first:last] = k
        x = (np.arange(last - first) + 0.5) / max(last - first, 1)
        envelope = smoothstep(x, 0.0, 0.20) * (1 - smoothstep(x, 0.80, 1.0))
        strength = temper.strength * rng.uniform(0.45, 1.0)
        for unit, peak in _peaks(episode, rng).items():
            column = shown[first:last, COLUMN[unit]]
            np.maximum(column, envelope * strength * peak, out=column)
        label[first:last][envelope >= CLEAR] = EXPR.targets.index(episode.expression)
    speech = _speech(frames, fps, talking, rng)
    shown[:, COLUMN[26]] = np.clip(shown[:, COLUMN[26]] + speech[:, 0] / 0.85, 0, 1)
    shown[:, COLUMN[43]] = np.maximum(shown[:, COLUMN[43]], _blinks(frames, fps, rng))
    units = np.zeros((frames, len(AU.targets)), int)
    for t in range(frames):
        seen = units_shown({unit: shown[t, k] for unit, k in COLUMN.items()})
        units[t] = [seen[int(name.removeprefix("AU"))] >= UNIT_PRESENT for name in AU.targets]
    resting = np.array([temper.resting.get(unit, 0.0) for unit in UNITS])
    gaze = np.column_stack([wander(frames, fps, rng, 0.7) for _ in range(2)])
    return Script(
        intensity=np.clip(shown + resting, 0, 1),
        mouth=speech[:, 1:],
        gaze=0.8 * gaze,
        expression=label,
        units=units,
        episode=number,
    )
