"""A card: a question, the sentences that answer it, and the tables and charts behind them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipaffect.core.files import write_text
from clipaffect.core.layout import Study
from clipaffect.features.build_table import folds_of
from clipaffect.report import figures
from clipaffect.report.pages import page_environment
from clipaffect.report.tables import write_tables

SHOWN = 20  # rows of a table on the page; the CSV has all
SCORES = ("macro_f1", "low", "high", "f1")  # three decimals, however small
PLAIN = (1e-3, 1e5)  # other numbers outside are written with an exponent


@dataclass(frozen=True)
class CardSection:
    """A table, a chart, or both, under one caption.

    Attributes:
        title: a heading; "" goes on under the one before.
        name: of ``tables/<name>.csv`` and of the files in ``figures``.
        caption: what is to be seen, and how it was made.
        table: its column names are headings, with spaces for underscores.
        chart: from ``figures.finish``.
    """

    title: str
    name: str
    caption: str
    table: pd.DataFrame | None = None
    chart: figures.Spec | None = None


@dataclass(frozen=True)
class Card:
    """A page.

    Attributes:
        question: the title.
        lead: what was done, in a sentence.
        answers: by task, computed from the tables.
        sections: in order.
        note: the protocol, and what the answers cannot say.
    """

    question: str
    lead: str
    answers: dict[str, str]
    sections: list[CardSection]
    note: str


def write_card_page(card: Card, run: str, out: Path) -> None:
    """Write ``index.html``, ``answer.json``, ``tables/`` and ``figures/`` of a card to ``out``."""
    files = Study(out)
    tables = {s.name: s.table for s in card.sections if s.table is not None}
    write_tables(tables, files.tables)
    for section in card.sections:
        if section.chart is not None:
            figures.save(section.chart, files.figures, section.name)
    page = (
        page_environment()
        .get_template("card.html")
        .render(
            card=card,
            run=run,
            shown=SHOWN,
            script=figures.script(),
            rows={name: _rows(table) for name, table in tables.items()},
            numeric={name: _numeric(table) for name, table in tables.items()},
            charts={
                s.name: figures.for_page(s.chart) for s in card.sections if s.chart is not None
            },
        )
    )
    write_text(files.page, page)
    said = {"question": card.question, "answers": card.answers}
    write_text(files.answer, json.dumps(said, indent=2, ensure_ascii=False) + "\n")


def score_dots(table: pd.DataFrame, names: Any, kind: Any = "head") -> figures.Spec:
    """The chart of a table with columns macro_f1, low, high, seeds and people, in its order.

    ``kind`` is that of every row, or of each: ``head`` or ``reference``.
    """
    shown = table.rename(columns={"macro_f1": "estimate"}).assign(name=names, kind=kind)
    return figures.dots(shown[["name", "kind", "estimate", "low", "high", "seeds", "people"]])


def first_fold_only(tables: Path, tasks: Iterable[str]) -> str:
    """A sentence for the note of a card that looks at one fold; "" where there are no folds."""
    folds = [folds_of(tables / task)[0] for task in tasks]
    return "Under k-fold evaluation this is of the first fold alone." if any(folds) else ""


def _numeric(table: pd.DataFrame) -> list[bool]:
    return [pd.api.types.is_numeric_dtype(table[name]) for name in table]


def _rows(table: pd.DataFrame) -> list[list[str]]:
    return [
        [in_words(value, name) for name, value in zip(table, row, strict=True)]
        for row in table.head(SHOWN).itertuples(index=False)
    ]


def in_words(value: Any, column: str) -> str:
    """A cell as a reader wants it: shares in per cent, differences with a sign, p short."""
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return _decimal(float(value), column) if isinstance(value, float | np.floating) else str(value)


def _decimal(value: float, column: str) -> str:
    if column.startswith("share"):
        return f"{100 * value:.1f} %"
    if column == "difference":
        return f"{value:+.3f}"
    if column in ("p", "p_adjusted"):
        return f"{value:.2g}"
    small, large = PLAIN
    plain = column in SCORES or value == 0 or small <= abs(value) < large
    return f"{value:.3f}" if plain else f"{value:.3g}"
