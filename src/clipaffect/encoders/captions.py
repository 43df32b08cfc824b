"""Captions that describe a face: its expression, and its action units by their FACS names."""

from __future__ import annotations

import numpy as np

# Names of the action units in the Facial Action Coding System (Ekman, Friesen and Hager 2002).
UNIT_NAMES = {
    1: "inner brow raiser",
    2: "outer brow raiser",
    4: "brow lowerer",
    5: "upper lid raiser",
    6: "cheek raiser",
    7: "lid tightener",
    9: "nose wrinkler",
    10: "upper lip raiser",
    12: "lip corner puller",
    14: "dimpler",
    15: "lip corner depressor",
    16: "lower lip depressor",
    17: "chin raiser",
    18: "lip pucker",
    20: "lip stretcher",
    23: "lip tightener",
    24: "lip pressor",
    25: "lips part",
    26: "jaw drop",
    43: "eyes closed",
}
# An expression as it is put into words; Aff-Wild2's Other is no one expression.
EXPRESSION_NAMES = {
    "Neutral": "neutral",
    "Anger": "anger",
    "Disgust": "disgust",
    "Fear": "fear",
    "Happiness": "happiness",
    "Sadness": "sadness",
    "Surprise": "surprise",
}
STRENGTHS = ((0.45, "slight"), (0.75, "marked"), (np.inf, "extreme"))
OPENINGS = ("a face", "a photo of a face", "a portrait")


def expression_prompt(name: str, opening: str = OPENINGS[0]) -> str:
    """The sentence for an expression alone, such as 'a face showing anger'."""
    return f"{opening} showing {EXPRESSION_NAMES[name]}"


def unit_phrase(unit: int, intensity: float) -> str:
    """A unit in words, such as 'marked brow lowerer'."""
    strength = next(word for bound, word in STRENGTHS if intensity < bound)
    return f"{strength} {UNIT_NAMES[unit]}"


def vocabulary() -> list[str]:
    """Every word that a caption can hold, sorted."""
    words = {"showing", "with", "and"} | {word for _, word in STRENGTHS}
    for text in (*UNIT_NAMES.values(), *EXPRESSION_NAMES.values(), *OPENINGS):
        words.update(text.split())
    return sorted(words)
