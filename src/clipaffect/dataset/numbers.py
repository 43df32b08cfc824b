"""Read numbers as spreadsheets of several countries write them."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

SPACES = re.compile(r"[\s'\u2019]")  # also the fixed and the narrow space; they group thousands
GROUPED = {mark: re.compile(rf"\d{{1,3}}(?:\{mark}\d{{3}})+") for mark in ".,"}
MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec mai mär okt dez fév avr aoû déc ene abr"
DATE = re.compile(
    r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}(?:[ T].*)?"  # 2024-05-01, 01.05.2024, 5/1/24
    rf"|\d{{1,4}}[-. ]{{1,2}}(?:{MONTHS.replace(' ', '|')})[a-zéû]*\.?(?:[-. ]\d{{1,4}})?"  # 5-Jan
    rf"|(?:{MONTHS.replace(' ', '|')})[a-zéû]*\.?[-. ]{{1,2}}\d{{1,4}}",  # Jan-05
    re.IGNORECASE,
)


def is_date(text: str) -> bool:
    """Whether a cell is a date, which spreadsheets make of numbers such as 1.5 and 3-4."""
    return DATE.fullmatch(text.strip()) is not None


def read_numbers(text: pd.Series, whole: bool) -> np.ndarray:
    """(n,) float64 of a column of text; NaN for what is no number, or could be two.

    Decimals may follow a point or a comma, and thousands may be grouped by the other mark, by
    spaces or by apostrophes. A mark that groups in every cell where it stands (1,234 and 12,500,
    but never 0,5) could still be a decimal one: it groups thousands in a column of ``whole``
    numbers whose values would else not be whole, and is no number in others if it is a comma.
    """
    cells = text.map(lambda cell: SPACES.sub("", cell))
    plain = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64)
    has_comma = cells.str.contains(",", regex=False).to_numpy()
    has_point = cells.str.contains(".", regex=False).to_numpy()
    if whole and not has_comma.any() and (plain[has_point] % 1 != 0).any():
        grouped = cells[has_point].map(lambda cell: GROUPED["."].fullmatch(cell) is not None)
        if grouped.all():
            return _number(cells.str.replace(".", "", regex=False))
    if not has_comma.any():
        return plain
    by_comma = cells[has_comma].map(lambda cell: GROUPED[","].fullmatch(cell) is not None).all()
    if by_comma and not has_point.any():
        without = _number(cells.str.replace(",", "", regex=False))
        return without if whole else np.where(has_comma, np.nan, without)
    both = has_comma & has_point
    last = cells.str.rfind(",") > cells.str.rfind(".")
    if not both.any() or last[both].all():  # 0,5 or 1.234,5
        points = cells.str.replace(".", "", regex=False) if both.any() else cells
        return _number(points.str.replace(",", ".", regex=False))
    if not last[both].any():  # 1,234.5
        return _number(cells.str.replace(",", "", regex=False))
    return np.where(has_comma, np.nan, plain)


def _number(cells: pd.Series) -> np.ndarray:
    found: np.ndarray = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64)
    return found
