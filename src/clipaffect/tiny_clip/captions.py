"""What a caption says about a face: its expression and its action units, by their FACS names."""

from __future__ import annotations

import numpy as np

from clipaffect.demo.script import UNIT_PRESENT

# Names of the action units in the Facial Action Coding System (Ekman, Friesen and Hager 2002).
UNIT_NAMES = {
    1: "inner brow raiser", 2: "outer brow raiser", 4: "brow lowerer", 5: "upper lid raiser",
    6: "cheek raiser", 7: "lid tightener", 9: "nose wrinkler", 10: "upper lip raiser",
    12: "lip corner puller", 14: "dimpler", 15: "lip corner depressor",
    16: "lower lip depressor", 17: "chin raiser", 18: "lip pucker", 20: "lip stretcher",
    23: "lip tightener", 24: "lip pressor", 25: "lips part", 26: "jaw drop", 43: "eyes closed",
}  # fmt: skip
# An expression as it is put into words; Aff-Wild2's Other is no one expression.
EXPRESSION_NAMES = {
    "Neutral": "neutral", "Anger": "anger", "Disgust": "disgust", "Fear": "fear",
    "Happiness": "happiness", "Sadness": "sadness", "Surprise": "surprise",
}  # fmt: skip
STRENGTHS = ((0.45, "slight"), (0.75, "marked"), (np.inf, "extreme"))
OPENINGS = ("a face", "a photo of a face", "a portrait")
EXPRESSION_ALONE, UNITS_ALONE = 0.10, 0.30  # shares of captions that say only half


def expression_prompt(name: str, opening: str = OPENINGS[0]) -> str:
    """The sentence for an expression alone, such as 'a face showing anger'."""
    return f"{opening} showing {EXPRESSION_NAMES[name]}"


def unit_phrase(unit: int, intensity: float) -> str:
    """A unit in words, such as 'marked brow lowerer'."""
    strength = next(word for bound, word in STRENGTHS if intensity < bound)
    return f"{strength} {UNIT_NAMES[unit]}"


def caption(expression: str, units: dict[int, float], rng: np.random.Generator) -> str:
    """One of many captions of a face.

    Args:
        expression: one of EXPR's classes, or '' for units that make none.
        units: intensities (0..1) as a coder would see them.
        rng: decides the opening, what is left out and the order of the units.
    """
    opening = str(rng.choice(OPENINGS))
    named = expression in EXPRESSION_NAMES
    start = expression_prompt(expression, opening) if named else opening
    seen = [unit for unit, intensity in units.items() if intensity >= UNIT_PRESENT]
    if not seen:
        return start
    share = rng.random()
    if named and share < EXPRESSION_ALONE:
        return start
    if share > 1 - UNITS_ALONE:
        start = opening
    phrases = [unit_phrase(int(unit), units[int(unit)]) for unit in rng.permutation(seen)]
    return f"{start} with {' and '.join(phrases)}"


def vocabulary() -> list[str]:
    """Every word that a caption can hold, sorted."""
    words = {"showing", "with", "and"} | {word for _, word in STRENGTHS}
    for text in (*UNIT_NAMES.values(), *EXPRESSION_NAMES.values(), *OPENINGS):
        words.update(text.split())
    return sorted(words)
