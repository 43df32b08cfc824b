"""Read numbers as spreadsheets of several countries write them."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

SPACES = re.compile(r"[\s'\u2019]")  # also the fixed and the narrow space; they group thousands
GROUPED = {mark: re.compile(rf"[1-9]\d{{0,2}}(?:\{mark}\d{{3}})+") for mark in ".,"}
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
    spaces or by apostrophes. The whole column decides. A mark that could group in every cell where
    it stands (1,234 and 12,500, but never 0,5) groups if the other mark is that of decimals, or in
    a column of ``whole`` numbers (unless every cell has it, as in 1.000 and 2.000). Elsewhere a
    point is that of decimals, and a comma makes no number.
    """
    cells = text.map(lambda cell: SPACES.sub("", cell))
    has = {mark: cells.str.contains(mark, regex=False).to_numpy() for mark in ".,"}
    decimal = _decimal_mark(cells, has, whole)
    if decimal:
        return _with(cells, decimal)
    return np.where(has["."] & has[","].any() | has[","], np.nan, _with(cells, "."))


def _decimal_mark(cells: pd.Series, has: dict[str, np.ndarray], whole: bool) -> str:
    """The mark of decimals in a column; '' if a comma could be either."""
    both = has["."] & has[","]
    if both.any():  # the mark that comes last is that of decimals
        last = (cells.str.rfind(",") > cells.str.rfind("."))[both]
        return "," if last.all() else "." if not last.any() else ""
    groups = {mark: has[mark].any() and _all_grouped(cells[has[mark]], mark) for mark in ".,"}
    if has["."].any() and has[","].any():
        return "" if groups["."] == groups[","] else "," if groups["."] else "."
    if has[","].any():
        return "," if not groups[","] else "." if whole else ""
    if groups["."] and whole:
        everywhere = has["."][(cells != "").to_numpy()].all()
        is_whole = (_with(cells, ".")[has["."]] % 1 == 0).all()
        return "." if everywhere and is_whole else ","
    return "."


def _all_grouped(cells: pd.Series, mark: str) -> bool:
    return all(GROUPED[mark].fullmatch(cell) for cell in cells)


def _with(cells: pd.Series, decimal: str) -> np.ndarray:
    """The numbers of cells with one mark for decimals, and the other between thousands."""
    other = "," if decimal == "." else "."
    plain = cells.str.replace(other, "", regex=False).str.replace(decimal, ".", regex=False)
    found: np.ndarray = pd.to_numeric(plain, errors="coerce").to_numpy(np.float64)
    return found
