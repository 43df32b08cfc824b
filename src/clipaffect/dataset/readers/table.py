"""``data.format: table``: a CSV or Parquet file with a row for each label.

Columns: ``image`` or ``video`` (a path below ``data.root``); optional ``frame`` (from 1) or
``time`` (seconds), ``side`` (left, right: which of two people in the picture), ``person``,
``split``, ``fold``; and the columns of the tasks in ``data.tasks``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from clipaffect.config.data import Data, TaskLabels
from clipaffect.core.errors import UserError, raise_all
from clipaffect.core.names import composed
from clipaffect.core.tasks import NOT_ANNOTATED, Task
from clipaffect.dataset.csv_cells import column_names, read_cells
from clipaffect.dataset.label_rows import SIDES, FoundData, Listing, arrange, blank_rows, rater_rows
from clipaffect.dataset.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from clipaffect.dataset.numbers import is_date, read_numbers

COLUMNS = ("image", "video", "frame", "time", "side", "person", "split", "fold")
EMPTY = ("", "nan", "none", "na", "n/a", "null", "<na>", "nat")
YES_NO = {"1": 1, "true": 1, "yes": 1, "0": 0, "false": 0, "no": 0}
WHOLE = r"^(-?\d+)[.,]0+$"  # 1.0 and 1,00 are 1


def read_label_tables(data: Data) -> Listing:
    """Read ``data.table``, or the tables of ``data.raters`` as one.

    Raises:
        UserError: as ``read_label_table``.
    """
    found = {rater: read_label_table(data, path) for rater, path in data.tables.items()}
    first = next(iter(found.values()), None)
    if first is None or len(found) == 1:
        return first or read_label_table(data, data.table)
    starts = np.cumsum([0, *(len(own.rows) for own in found.values())])
    rows = [own.rows.assign(rater=rater) for rater, own in found.items()]
    each = list(found.values())

    def where(row: int) -> str:
        at = int(np.searchsorted(starts, row, side="right")) - 1
        return each[at].where(row - int(starts[at]))

    notes = tuple(dict.fromkeys(note for own in each for note in own.notes))
    return Listing(first.path, first.root, pd.concat(rows, ignore_index=True), where, notes)


def read_label_table(data: Data, table: str | None) -> Listing:
    """Read a table of labels.

    Raises:
        UserError: a column is missing or a value is invalid; the message gives the row.
    """
    path = Path(table or "")
    if not path.is_file():
        key = "data.raters" if data.raters else "data.table"
        raise UserError(
            "the table does not exist",
            where=f"{path} ({key}), relative to {Path.cwd()}",
            fix="set it to a CSV or Parquet file (write the full path: ~ is not expanded)",
        )
    root = Path(data.root) if data.root else path.parent
    if not root.is_dir():
        raise UserError(
            "the folder does not exist",
            where=f"{root} (data.root), relative to {Path.cwd()}",
            fix="set data.root to the folder that the table's paths are relative to (write the "
            "full path: ~ is not expanded)",
        )
    names = column_names(path)
    there = [name.strip() for name in names]
    _check_columns(path, there, data)
    used = set(COLUMNS) | ({data.rater} if data.rater else set())
    for task in data.known_tasks().values():
        used |= set(task.targets) if task.multilabel else {_column(data, task)}
    cells, where = read_cells(path, names, used)
    checked = Checked(where)
    rows = _sources(cells, root, checked)
    frame, time = _numbers(cells, "frame", checked, True), _numbers(cells, "time", checked, False)
    placed = (frame > 0) | ~np.isnan(time)
    checked.refuse(
        (frame > 0) & ~np.isnan(time),
        "the row has both a frame and a time",
        "give only one of them",
    )
    checked.refuse(
        rows["is_image"].to_numpy() & placed,
        "an image cannot have a frame or a time",
        "leave them empty, or give the video instead",
    )
    rows = rows.assign(frame=frame.astype(np.int64), time=time)
    for column in ("side", "person", "split", "fold"):
        if column in cells:
            rows[column] = cells[column].str.strip()
    if data.rater:
        rows["rater"] = cells[data.rater].str.strip()
        checked.refuse(
            (rows["rater"] == "").to_numpy(), "the row names no rater", "complete it", data.rater
        )
    rows["side"] = rows["side"].str.casefold()
    checked.refuse(
        ~rows["side"].isin(SIDES).to_numpy(),
        lambda row: f"'{rows['side'].iloc[row]}' is not a side",
        "write left or right, or leave it empty",
    )
    checked.refuse(
        (rows["is_image"] & (rows["side"] != "")).to_numpy(),
        "an image cannot have a side",
        "leave it empty: sides distinguish two people in a video",
    )
    for task in data.known_tasks().values():
        found = _labels(cells, data, task, checked)
        rows = rows.join(pd.DataFrame(found, columns=[f"{task.name}/{c}" for c in task.columns]))
    raise_all(checked.problems)
    unused = sorted(set(there) - used)
    notes = []
    if unused:
        notes.append(f"Unused columns of {path}: {', '.join(unused[:12])}.")
    unknown = int((rows["person"] == "").sum())
    if unknown:
        who = f"{unknown:,} of {len(rows):,} rows of {path} do not name a person"
        notes.append(
            f"{who}: each of their videos (or images) counts as a different person. If a person is "
            "in several of them, splits may share people: fill in the column 'person'."
        )
    return Listing(path, root, rows, where, tuple(notes))


class Checked:
    """Collects the errors of a table, so that all are told at once; ``where`` names a row."""

    def __init__(self, where: Callable[[int], str]) -> None:
        self.where = where
        self.problems: list[UserError] = []

    def refuse(
        self, wrong: np.ndarray, what: str | Callable[[int], str], fix: str, column: str = ""
    ) -> None:
        """Note an error for each row where ``wrong`` (n,) is true."""
        for row in np.flatnonzero(wrong).tolist():
            said = what if isinstance(what, str) else what(row)
            place = self.where(row) + (f", column '{column}'" if column else "")
            self.problems.append(UserError(said, where=place, fix=fix))


def _column(data: Data, task: Task) -> str:
    """The column that contains a task's classes."""
    return data.tasks[task.name].column or task.name


def _check_columns(path: Path, there: list[str], data: Data) -> None:
    for name in there:
        if name not in COLUMNS and name.casefold() in COLUMNS and name.casefold() not in there:
            raise UserError(
                f"the column '{name}' should be named '{name.casefold()}'",
                where=f"{path}, the header",
                fix="write it in lower case, or rename it",
            )
    if not {"image", "video"} & set(there):
        raise UserError(
            f"there is no column 'image' or 'video'; the columns are {', '.join(there)[:300]}",
            where=f"{path}, the header",
            fix="use one of these names for the column of file paths",
        )
    if data.rater and data.rater not in there:
        raise UserError(
            f"there is no column '{data.rater}'; the columns are {', '.join(there)[:300]}",
            where=f"{path}, the header (data.rater)",
            fix="name the column that holds the rater",
        )
    for name, own in data.tasks.items():
        wanted = own.labels if own.labels is not None else (own.column or name,)
        for column in wanted:
            if column not in there:
                close = difflib.get_close_matches(column, there, n=1)
                hint = f"did you mean '{close[0]}'? " if close else ""
                fix = "rename the column, or correct data.tasks"
                raise UserError(
                    f"there is no column '{column}'; the columns are {', '.join(there)[:300]}",
                    where=f"{path}, the header (data.tasks.{name})",
                    fix=hint + (fix if own.labels else f"{fix}.{name}.column"),
                )


def _relative(path: str, root: Path) -> str:
    """A cell's path as it is below the root: blanks around it and backslashes may belong to it."""
    with suppress(OSError, ValueError):
        if path.strip() != path and (root / path).is_file():
            return path
        if "\\" in path and (root / path.strip()).is_file():
            return path.strip()
    return str(PurePosixPath(path.strip().replace("\\", "/")))


def _sources(cells: pd.DataFrame, root: Path, checked: Checked) -> pd.DataFrame:
    empty = pd.Series("", index=cells.index)
    image, video = (cells.get(name, empty) for name in ("image", "video"))
    no_image, no_video = image.str.strip() == "", video.str.strip() == ""
    for wrong, names in (
        (~no_image & ~no_video, "both image and video"),
        (no_image & no_video, "neither an image nor a video"),
    ):
        checked.refuse(wrong.to_numpy(), f"the row names {names}", "give exactly one of them")
    is_image = ~no_image.to_numpy()
    given = video.where(no_image, image)
    sources = given.map({path: _relative(path, root) for path in given.unique()})
    kinds = sources.map(lambda path: PurePosixPath(path).suffix.lower())
    for column, at, suffixes, other in (
        ("image", is_image, VIDEO_SUFFIXES, "video"),
        ("video", ~is_image, IMAGE_SUFFIXES, "image"),
    ):
        checked.refuse(
            at & kinds.isin(suffixes).to_numpy(),
            partial(_of_other_kind, sources, column),
            f"put it in the column '{other}'",
        )
    rows = blank_rows(sources.tolist(), is_image=False).assign(is_image=is_image)
    mixed = rows.groupby("source")["is_image"].nunique()
    first = ~rows.duplicated("source") & rows["source"].isin(mixed.index[mixed > 1])
    checked.refuse(
        first.to_numpy() & (rows["source"] != "").to_numpy(),
        lambda row: f"'{rows['source'].iloc[row]}' is an image in one row and a video in another",
        "use the same column in all rows",
    )
    return rows


def _of_other_kind(sources: pd.Series, column: str, row: int) -> str:
    return f"'{sources.iloc[row]}' is not a file of the kind '{column}'"


def _numbers(cells: pd.DataFrame, column: str, checked: Checked, whole: bool) -> np.ndarray:
    """(n,) float64; empty cells are 0 for whole numbers from 1, and NaN for others from 0."""
    if column not in cells:
        return np.full(len(cells), 0.0 if whole else np.nan)
    text = cells[column].str.strip()
    text = text.mask(text.str.casefold().isin(EMPTY), "")
    values = read_numbers(text, whole)
    blank = (text == "").to_numpy()
    right = np.isfinite(values) & (values >= (1 if whole else 0))
    if whole:
        right &= (values == np.floor(values)) & (values < 2**31)
    kind = "a whole number from 1" if whole else "seconds from 0"
    checked.refuse(
        ~blank & ~right,
        lambda row: (
            f"'{text.iloc[row][:40]}' is not a valid {column}: {_why(text.iloc[row], kind)}"
        ),
        "correct the cell",
        column,
    )
    found: np.ndarray = np.where(blank | ~right, 0.0 if whole else np.nan, values)
    return found


def _why(cell: str, kind: str) -> str:
    if is_date(cell):
        return f"it looks like a date; a spreadsheet may have converted a number. Expected {kind}"
    return f"expected {kind}"


def _labels(cells: pd.DataFrame, data: Data, task: Task, checked: Checked) -> np.ndarray:
    """(n, columns) int8 of a task; empty cells and -1 are not annotated."""
    if task.multilabel:
        words = YES_NO | _own_words(data.tasks.get(task.name))
        names, meaning = task.targets, "0 or 1"
    else:
        words = {name.casefold(): number for number, name in enumerate(task.targets)}
        names, meaning = (_column(data, task),), f"one of {', '.join(task.targets)}"
        if not any(_is_number(name) for name in words):
            meaning += ", or its index from 0"
            words |= {str(number): number for number in range(len(task.targets))}
    words = {composed(word): value for word, value in words.items()}
    words |= {"": NOT_ANNOTATED, "-1": NOT_ANNOTATED}
    found = np.empty((len(cells), len(names)), np.int8)
    for place, name in enumerate(names):
        text = cells[name].str.strip().str.casefold().map(composed)
        text = text.str.replace(WHOLE, r"\1", regex=True)
        # A class may be called 'none': nothing is what is no class.
        text = text.mask(text.isin(EMPTY) & ~text.isin(words), "")
        values = text.map(words)
        checked.refuse(
            values.isna().to_numpy(),
            partial(_no_label, cells[name], task.name, meaning[:300]),
            "correct the cell, or add the value to data.tasks",
            name,
        )
        found[:, place] = values.fillna(NOT_ANNOTATED).to_numpy(np.int8)
    return found


def _no_label(cells: pd.Series, task: str, meaning: str, row: int) -> str:
    cell = cells.iloc[row][:60]
    return (
        f"'{cell}' is not a label of {task}: {_why(cell, meaning)}, or empty or -1 if not annotated"
    )


def _own_words(labels: TaskLabels | None) -> dict[str, int]:
    """The words for yes and no that the configuration adds."""
    if labels is None:
        return {}
    return {word.casefold(): 1 for word in labels.yes} | {word.casefold(): 0 for word in labels.no}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read(data: Data, tasks: Sequence[Task]) -> FoundData:
    """See ``registry.Reader``."""
    return arrange(read_label_tables(data), data, tasks)


def read_ratings(data: Data, tasks: Sequence[Task]) -> dict[str, pd.DataFrame]:
    """Every rater's labels of each task: a row for each frame, person and rater."""
    return rater_rows(read_label_tables(data), data, tasks)
