"""Action units as blendshapes, and expressions as action units (FACS, EMFACS)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PAIR = ("Left", "Right")

# Action unit -> blendshapes (without the side) and their gain at full intensity. Gains above 1
# compensate for shapes of the rig that are weaker than the muscle they stand for.
PAIRED: dict[int, dict[str, float]] = {
    2: {"browOuterUp": 1.0},
    4: {"browDown": 1.6},
    5: {"eyeWide": 1.0},
    6: {"cheekSquint": 1.0, "eyeSquint": 0.25},
    7: {"eyeSquint": 1.0},
    9: {"noseSneer": 1.3},
    10: {"mouthUpperUp": 1.0},
    12: {"mouthSmile": 1.0},
    14: {"mouthDimple": 1.5, "mouthPress": 0.4},
    15: {"mouthFrown": 1.15},
    16: {"mouthLowerDown": 0.9},
    20: {"mouthStretch": 1.5},
    24: {"mouthPress": 0.35, "mouthFrown": 0.2},
    25: {"mouthLowerDown": 0.35, "mouthUpperUp": 0.2},
    43: {"eyeBlink": 1.0},
}
CENTRAL: dict[int, dict[str, float]] = {
    1: {"browInnerUp": 1.0},
    17: {"mouthShrugLower": 0.9},
    18: {"mouthPucker": 1.0},
    23: {"mouthRollUpper": 0.75, "mouthRollLower": 0.75, "mouthPucker": 0.45},
    24: {"mouthShrugUpper": 0.5, "mouthShrugLower": 0.6, "mouthRollLower": 0.4},
    25: {"jawOpen": 0.12},
    26: {"jawOpen": 0.85},
}
UNITS = tuple(sorted(PAIRED.keys() | CENTRAL.keys()))


@dataclass(frozen=True)
class Part:
    """A unit's part in an expression: how often it joins in, and its range of peak intensity."""

    often: float
    low: float
    high: float


Variant = dict[int, Part]
# After EMFACS. How often a unit joins in is set so that units are as frequent as in Aff-Wild2
# (docs/demo.md): for example, most sad people there do not show AU15.
EXPRESSIONS: dict[str, tuple[Variant, ...]] = {
    "Anger": (
        {
            4: Part(1.0, 0.6, 1.0),
            5: Part(0.4, 0.2, 0.9),
            7: Part(0.7, 0.3, 1.0),
            10: Part(0.2, 0.2, 0.6),
            17: Part(0.4, 0.2, 0.7),
            23: Part(0.6, 0.5, 1.0),
            24: Part(0.4, 0.5, 1.0),
            25: Part(0.25, 0.2, 0.6),
        },
    ),
    "Disgust": (
        {
            4: Part(0.4, 0.1, 0.5),
            7: Part(0.5, 0.2, 0.6),
            9: Part(0.75, 0.4, 1.0),
            10: Part(1.0, 0.5, 1.0),
            17: Part(0.4, 0.1, 0.5),
            25: Part(0.35, 0.2, 0.6),
        },
    ),
    "Fear": (
        {
            1: Part(1.0, 0.6, 1.0),
            2: Part(0.5, 0.2, 0.6),
            4: Part(0.8, 0.4, 0.9),
            5: Part(0.8, 0.5, 1.0),
            16: Part(0.4, 0.3, 0.8),
            20: Part(0.7, 0.5, 1.0),
            25: Part(0.8, 0.3, 1.0),
            26: Part(0.3, 0.1, 0.4),
        },
    ),
    "Happiness": (
        {
            6: Part(0.85, 0.3, 1.0),
            7: Part(0.5, 0.1, 0.6),
            10: Part(0.4, 0.1, 0.5),
            12: Part(1.0, 0.5, 1.0),
            25: Part(0.65, 0.3, 1.0),
            26: Part(0.15, 0.2, 0.6),
        },
    ),
    "Sadness": (
        {
            1: Part(0.55, 0.4, 1.0),
            4: Part(0.68, 0.25, 0.8),
            7: Part(0.3, 0.1, 0.4),
            15: Part(0.22, 0.4, 1.0),
            17: Part(0.45, 0.2, 0.8),
            43: Part(0.35, 0.2, 0.5),
        },
    ),
    "Surprise": (
        {
            1: Part(0.75, 0.5, 1.0),
            2: Part(0.55, 0.5, 1.0),
            5: Part(0.8, 0.4, 1.0),
            25: Part(0.7, 0.3, 0.8),
            26: Part(0.55, 0.3, 0.9),
        },
    ),
    "Other": (
        {14: Part(1.0, 0.5, 1.0), 7: Part(0.5, 0.1, 0.4)},  # contempt
        {18: Part(1.0, 0.5, 1.0), 4: Part(0.75, 0.3, 0.7)},  # doubt
        {2: Part(0.35, 0.3, 1.0), 17: Part(0.8, 0.2, 0.6), 24: Part(0.4, 0.4, 1.0)},  # scepticism
        {43: Part(1.0, 0.5, 1.0), 26: Part(0.65, 0.4, 1.0), 25: Part(0.8, 0.3, 0.8)},  # yawn
        {43: Part(1.0, 0.7, 1.0), 12: Part(0.5, 0.1, 0.4)},  # eyes closed, at ease
        {23: Part(0.4, 0.5, 1.0), 17: Part(0.7, 0.2, 0.6), 2: Part(0.2, 0.1, 0.4)},  # resolve
        {4: Part(0.9, 0.4, 0.9), 7: Part(0.8, 0.3, 0.8)},  # effort, concentration
        {14: Part(0.5, 0.3, 0.7), 15: Part(0.1, 0.3, 0.7), 20: Part(0.7, 0.3, 0.8)},  # unease
    ),
}
# Compound expressions; they are annotated as Other.
BLENDS = (("Happiness", "Surprise"), ("Sadness", "Anger"), ("Fear", "Surprise"))


def blendshapes(intensity: dict[int, float], asymmetry: float) -> dict[str, float]:
    """Blendshape weights of action-unit intensities (0..1).

    ``asymmetry`` makes the left side that much stronger and the right side weaker.
    """
    weights: dict[str, float] = {}
    for unit, amount in intensity.items():
        for shape, gain in CENTRAL.get(unit, {}).items():
            weights[shape] = weights.get(shape, 0.0) + gain * amount
        for shape, gain in PAIRED.get(unit, {}).items():
            for side, sign in zip(PAIR, (1, -1), strict=True):
                name = shape + side
                weights[name] = weights.get(name, 0.0) + gain * amount * (1 + sign * asymmetry)
    return {name: float(np.clip(weight, 0, 1.6)) for name, weight in weights.items()}


def gaze_shapes(right: float, up: float) -> dict[str, float]:
    """Blendshape weights of a gaze (-1..1 each): to the person's left where ``right`` > 0."""
    sideways = (
        ("eyeLookOutLeft", "eyeLookInRight") if right > 0 else ("eyeLookInLeft", "eyeLookOutRight")
    )
    upright = "eyeLookUp" if up > 0 else "eyeLookDown"
    return dict.fromkeys(sideways, abs(right)) | {upright + side: abs(up) for side in PAIR}


def draw_peaks(expression: str, variant: int, rng: np.random.Generator) -> dict[int, float]:
    """Peak action-unit intensities of one showing of an expression: at least one unit."""
    parts = EXPRESSIONS[expression][variant]
    while True:
        peaks = {
            unit: float(rng.uniform(part.low, part.high))
            for unit, part in parts.items()
            if rng.random() < part.often
        }
        if peaks:
            return peaks


def draw_blend(rng: np.random.Generator) -> dict[int, float]:
    """Two expressions at once, each weaker than alone: annotators call it Other."""
    peaks: dict[int, float] = {}
    for name in BLENDS[int(rng.integers(len(BLENDS)))]:
        share = float(rng.uniform(0.4, 0.7))
        for unit, peak in draw_peaks(name, 0, rng).items():
            peaks[unit] = max(peaks.get(unit, 0.0), share * peak)
    return peaks


def units_shown(intensity: dict[int, float]) -> dict[int, float]:
    """Intensities as a coder would see them: a dropped jaw or a bared tooth parts the lips."""
    parted = max(
        intensity.get(25, 0.0),
        intensity.get(26, 0.0),
        0.7 * intensity.get(16, 0.0),
        0.5 * intensity.get(10, 0.0) + 0.5 * intensity.get(16, 0.0),
    )
    return intensity | {25: parted}
