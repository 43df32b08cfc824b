"""Read the cells of CSV and Parquet files as text, with the line number of each row.

Tables come out of spreadsheets: separated by commas, semicolons or tabs, in UTF-8 or UTF-16, with
empty columns and rows at the end.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clipaffect.core.errors import UserError, raise_all

PARQUET = (".parquet", ".pq")
SEPARATORS = (",", ";", "\t")  # the first of equals is chosen
LOOKED_AT = 20  # rows that tell the separator


def _text_of(path: Path) -> str:
    data = path.read_bytes()
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
        return text if "\n" in text else text.replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"byte {error.start} is not valid {'UTF-16' if utf16 else 'UTF-8'}",
            where=path,
            fix="save it as 'CSV UTF-8' (an .xlsx file is not a CSV file)",
        ) from None


def _separator(text: str) -> tuple[str, int]:
    """The separator, and the lines before the header: 1 if a spreadsheet's ``sep=`` is there."""
    first = next((line for line in io.StringIO(text) if line.strip()), "").strip('\r\n"')
    first = first.rstrip(";,\t") if first.casefold().startswith("sep=") else first
    if first.casefold() == "sep=" or (first.casefold().startswith("sep=") and len(first) == 5):
        return first[4:] or ";", 1
    return max(SEPARATORS, key=lambda mark: _columns(text, mark)), 0


def _columns(text: str, mark: str) -> tuple[float, int]:
    """The share of the first rows with as many cells as the header, and that number of cells.

    Zeros if the header has only one. Titles and labels may contain the other marks.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
    try:
        counts = [len(row) for row in itertools.islice(filter(None, reader), LOOKED_AT)]
    except csv.Error:
        return 0.0, 0
    if not counts or counts[0] == 1:
        return 0.0, 0
    return counts.count(counts[0]) / len(counts), counts[0]


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of a CSV file that are not empty: line number and cells.

    Empty cells at the end of every line, in columns without a name, are left out.

    Raises:
        UserError: the file is not text or not CSV.
    """
    text = _text_of(path)
    separator, skipped = _separator(text) if text.strip() else (",", 0)
    named = 0
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if skipped:
                skipped -= 1
                continue
            named = named or max(k for k, cell in enumerate(row, 1) if cell.strip())
            while len(row) > named and not row[-1].strip():
                row.pop()
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(
            f"the file is not a CSV table: {error}", where=path, fix="save it as CSV again"
        ) from None


def column_names(path: Path) -> list[str]:
    """The column names in a table's header, unchanged.

    Raises:
        UserError: the file is neither CSV nor Parquet, or names a column twice.
    """
    if path.suffix.lower() in PARQUET:
        try:
            names = list(pq.read_schema(path).names)
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(
                f"the file is not a Parquet file: {error}",
                where=path,
                fix="write it again, or use a CSV file",
            ) from None
    else:
        names = next(csv_rows(path), (1, []))[1]
    bare = [name.strip() for name in names]
    if twice := [name for name in bare if name and bare.count(name) > 1]:
        raise UserError(
            f"two columns have the name '{twice[0]}'",
            where=f"{path}, the header",
            fix="rename or remove one of them",
        )
    return names


def read_cells(
    path: Path, names: list[str], wanted: set[str]
) -> tuple[pd.DataFrame, Callable[[int], str]]:
    """The wanted columns as text ('' for empty cells), and a function that names a row.

    Args:
        path: a CSV or Parquet file.
        names: see ``column_names``.
        wanted: names without blanks around them.

    Raises:
        UserError: rows with more or fewer cells than the header, or no row at all.
    """
    kept = [name for name in names if name.strip() in wanted]
    if path.suffix.lower() in PARQUET:
        table = pq.read_table(path, columns=kept)
        columns = {name.strip(): list(map(_text, table[name].to_pylist())) for name in kept}
        cells = pd.DataFrame(columns, dtype=object)
        where: Callable[[int], str] = lambda row: f"{path}, row {row + 1}"  # noqa: E731
    else:
        lines, rows = [], []
        problems: list[UserError] = []
        at = [names.index(name) for name in kept]
        for line, row in csv_rows(path):
            if len(row) != len(names):
                problem = f"the row has {len(row)} cells, but the header has {len(names)}"
                fix = "keep the separators around empty cells, and quote cells that contain one"
                problems.append(UserError(problem, where=f"{path}, line {line}", fix=fix))
                continue
            lines.append(line)
            rows.append([row[k] for k in at])
        raise_all(problems)
        del lines[:1], rows[:1]  # the header
        cells = pd.DataFrame(rows, columns=[name.strip() for name in kept], dtype=object)
        where = lambda row: f"{path}, line {lines[row]}"  # noqa: E731
    if cells.empty:
        raise UserError("there are no rows below the header", where=path, fix="complete the table")
    return cells, where


def _text(value: object) -> str:
    if value is None or value != value:  # noqa: PLR0124 - not a number
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
