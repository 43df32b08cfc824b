"""Action units as blendshapes, and expressions as action units (FACS, EMFACS)."""

from __future__ import annotations

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

Ranges = dict[int, tuple[float, float]]
# Peak intensities of each expression, after EMFACS; variants take turns.
EXPRESSIONS: dict[str, tuple[Ranges, ...]] = {
    "Anger": (
        {4: (0.9, 1.0), 5: (0.5, 0.9), 7: (0.4, 0.8), 23: (0.8, 1.0), 17: (0.3, 0.7)},
        {4: (0.9, 1.0), 5: (0.2, 0.6), 7: (0.6, 1.0), 24: (0.8, 1.0), 17: (0.3, 0.7)},
    ),
    "Disgust": ({9: (0.8, 1.0), 10: (0.6, 1.0), 4: (0.0, 0.25), 7: (0.2, 0.6), 17: (0.0, 0.4)},),
    "Fear": (
        {
            1: (0.8, 1.0),
            2: (0.1, 0.35),
            4: (0.6, 0.9),
            5: (0.7, 1.0),
            16: (0.4, 0.8),
            20: (0.8, 1.0),
            25: (0.6, 1.0),
            26: (0.0, 0.18),
        },
    ),
    "Happiness": (
        {6: (0.5, 1.0), 12: (0.6, 1.0), 7: (0.0, 0.5), 10: (0.0, 0.5), 25: (0.3, 1.0)},
        {6: (0.4, 1.0), 12: (0.6, 1.0), 7: (0.1, 0.6)},
        {6: (0.6, 1.0), 12: (0.7, 1.0), 10: (0.2, 0.5), 25: (0.6, 1.0), 26: (0.2, 0.6)},
    ),
    "Sadness": (
        {1: (0.6, 1.0), 4: (0.2, 0.5), 15: (0.5, 1.0), 17: (0.2, 0.7), 7: (0.1, 0.4)},
        {1: (0.6, 1.0), 4: (0.3, 0.6), 15: (0.3, 0.8), 43: (0.2, 0.5)},
    ),
    "Surprise": ({1: (0.6, 1.0), 2: (0.6, 1.0), 5: (0.5, 1.0), 25: (0.3, 0.6), 26: (0.4, 0.9)},),
    "Other": (
        {14: (0.7, 1.0), 7: (0.0, 0.4)},  # contempt
        {18: (0.7, 1.0), 4: (0.1, 0.5)},  # doubt
        {2: (0.5, 1.0), 24: (0.5, 1.0), 17: (0.2, 0.6)},  # scepticism
        {43: (0.7, 1.0), 26: (0.6, 1.0), 25: (0.5, 0.8)},  # yawn
        {43: (0.8, 1.0), 12: (0.2, 0.4)},  # eyes closed, at ease
        {23: (0.8, 1.0), 2: (0.0, 0.3)},  # resolve
    ),
}


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
    """Peak action-unit intensities of one showing of an expression."""
    ranges = EXPRESSIONS[expression][variant]
    return {unit: float(rng.uniform(low, high)) for unit, (low, high) in ranges.items()}


def units_shown(intensity: dict[int, float]) -> dict[int, float]:
    """Intensities as a coder would see them: a dropped jaw or a bared tooth parts the lips."""
    parted = max(
        intensity.get(25, 0.0),
        intensity.get(26, 0.0),
        0.7 * intensity.get(16, 0.0),
        0.5 * intensity.get(10, 0.0) + 0.5 * intensity.get(16, 0.0),
    )
    return intensity | {25: parted}
