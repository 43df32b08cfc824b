"""One of many captions of a rendered face, to train the tiny CLIP on."""

from __future__ import annotations

import numpy as np

from clipaffect.encoders.captions import EXPRESSION_NAMES, OPENINGS, expression_prompt, unit_phrase
from clipaffect.synthetic.script import UNIT_PRESENT

EXPRESSION_ALONE, UNITS_ALONE = 0.10, 0.30  # shares of captions that say only half


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
