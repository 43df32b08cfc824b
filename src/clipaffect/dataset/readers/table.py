"""``data.format: table``: a CSV or Parquet file with a row for each label.

Columns: ``image`` or ``video`` (a path below ``data.root``); optional ``frame`` (from 1) or
``time`` (seconds), ``side`` (left, right: which of two people in the picture), ``person``,
``split``, ``fold``; and the columns of the tasks in ``data.tasks``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from clipaffect.config.data import Data
from clipaffect.core.errors import UserError
from clipaffect.core.tasks import NOT_ANNOTATED, Task
from clipaffect.dataset.csv_cells import column_names, read_cells
from clipaffect.dataset.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from clipaffect.dataset.label_rows import SIDES, FoundData, Listing, arrange, blank_rows

COLUMNS = ("image", "video", "frame", "time", "side", "person", "split", "fold")
EMPTY = ("", "nan", "none", "na", "n/a", "null", "<na>", "nat")
YES_NO = {"1": 1, "1.0": 1, "true": 1, "yes": 1, "0": 0, "0.0": 0, "false": 0, "no": 0}


def read_label_table(data: Data) -> Listing:
    """Read the table that ``data.table`` names.

    Raises:
        UserError: a column is missing or a value is invalid; the message gives the row.
    """
    path = Path(data.table or "")
    if not path.is_file():
        raise UserError(
            "the table does not exist",
            where=f"{path} (data.table), relative to {Path.cwd()}",
            fix="set it to a CSV or Parquet file (write the full path: ~ is not expanded)",
        )
    names = column_names(path)
    there = [name.strip() for name in names]
    _check_columns(path, there, data)
    used = set(COLUMNS)
    for task in data.known_tasks().values():
        used |= set(task.targets) if task.multilabel else {_column(data, task)}
    cells, where = read_cells(path, names, used)
    rows = _sources(cells, where)
    frame, time = _numbers(cells, "frame", where, True), _numbers(cells, "time", where, False)
    if both := np.flatnonzero((frame > 0) & ~np.isnan(time)).tolist():
        raise UserError(
            "the row has both a frame and a time", where=where(both[0]), fix="give only one of them"
        )
    placed = np.flatnonzero(rows["is_image"].to_numpy() & ((frame > 0) | ~np.isnan(time))).tolist()
    if placed:
        raise UserError(
            "an image cannot have a frame or a time",
            where=where(placed[0]),
            fix="leave them empty, or give the video instead",
        )
    rows = rows.assign(frame=frame.astype(np.int64), time=time)
    for column in ("side", "person", "split", "fold"):
        if column in cells:
            rows[column] = cells[column].str.strip()
    rows["side"] = rows["side"].str.casefold()
    if wrong := np.flatnonzero(~rows["side"].isin(SIDES)).tolist():
        raise UserError(
            f"'{rows['side'].iloc[wrong[0]]}' is not a side",
            where=where(wrong[0]),
            fix="write left or right, or leave it empty",
        )
    if sided := np.flatnonzero(rows["is_image"] & (rows["side"] != "")).tolist():
        raise UserError(
            "an image cannot have a side",
            where=where(sided[0]),
            fix="leave it empty: sides distinguish two people in a video",
        )
    for task in data.known_tasks().values():
        found = _labels(cells, task, _column(data, task), where)
        rows = rows.join(pd.DataFrame(found, columns=[f"{task.name}/{c}" for c in task.columns]))
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
    root = Path(data.root) if data.root else path.parent
    if not root.is_dir():
        raise UserError(
            "the folder does not exist",
            where=f"{root} (data.root), relative to {Path.cwd()}",
            fix="set data.root to the folder that the table's paths are relative to (write the "
            "full path: ~ is not expanded)",
        )
    return Listing(path, root, rows, where, tuple(notes))


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
    if len(there) == 1 and any(mark in there[0] for mark in ";\t"):
        raise UserError(
            "the columns are not separated by commas",
            where=f"{path}, line 1",
            fix="save the table with commas as separators",
        )
    if not {"image", "video"} & set(there):
        raise UserError(
            f"there is no column 'image' or 'video'; the columns are {', '.join(there)[:300]}",
            where=f"{path}, the header",
            fix="use one of these names for the column of file paths",
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


def _sources(cells: pd.DataFrame, where: Callable[[int], str]) -> pd.DataFrame:
    empty = pd.Series("", index=cells.index)
    image = cells["image"].str.strip() if "image" in cells else empty
    video = cells["video"].str.strip() if "video" in cells else empty
    wrong = np.flatnonzero((image == "") == (video == "")).tolist()
    if wrong:
        both = image.iloc[wrong[0]] != ""
        raise UserError(
            f"the row names {'both image and video' if both else 'no image and no video'}",
            where=where(wrong[0]),
            fix="give exactly one of them",
        )
    is_image = (image != "").to_numpy()
    sources = image.where(image != "", video)
    plain = {path: str(PurePosixPath(path.replace("\\", "/"))) for path in sources.unique()}
    sources = sources.map(plain)
    for column, at, suffixes, other in (
        ("image", is_image, VIDEO_SUFFIXES, "video"),
        ("video", ~is_image, IMAGE_SUFFIXES, "image"),
    ):
        kinds = sources[at].map(lambda path: PurePosixPath(path).suffix.lower())
        if wrong := kinds.index[kinds.isin(suffixes)].tolist():
            raise UserError(
                f"'{sources[wrong[0]]}' is not a file of the kind '{column}'",
                where=where(wrong[0]),
                fix=f"put it in the column '{other}'",
            )
    rows = blank_rows(sources.tolist(), is_image=False).assign(is_image=is_image)
    mixed = rows.groupby("source")["is_image"].nunique()
    if (mixed > 1).any():
        source = mixed.index[mixed > 1][0]
        at = int(np.flatnonzero(rows["source"] == source)[0])
        raise UserError(
            f"'{source}' is an image in one row and a video in another",
            where=where(at),
            fix="use the same column in all rows",
        )
    return rows


def _numbers(
    cells: pd.DataFrame, column: str, where: Callable[[int], str], whole: bool
) -> np.ndarray:
    """(n,) float64; empty cells are 0 for whole numbers from 1, and NaN for others from 0."""
    if column not in cells:
        return np.full(len(cells), 0.0 if whole else np.nan)
    text = cells[column].str.strip()
    text = text.mask(text.str.casefold().isin(EMPTY), "")
    values = pd.to_numeric(text.mask(text == ""), errors="coerce").to_numpy(np.float64)
    blank = (text == "").to_numpy()
    right = np.isfinite(values) & (values >= (1 if whole else 0))
    if whole:
        right &= (values == np.floor(values)) & (values < 2**31)
    if wrong := np.flatnonzero(~blank & ~right).tolist():
        kind = "a whole number from 1" if whole else "seconds from 0"
        raise UserError(
            f"'{text.iloc[wrong[0]][:40]}' is not a valid {column}: expected {kind}",
            where=where(wrong[0]),
            fix="correct the value",
        )
    found: np.ndarray = np.where(blank, 0.0 if whole else np.nan, values)
    return found


def _labels(
    cells: pd.DataFrame, task: Task, column: str, where: Callable[[int], str]
) -> np.ndarray:
    """(n, columns) int8 of a task; empty cells and -1 are not annotated."""
    if task.multilabel:
        words = YES_NO
        names, meaning = task.targets, "0 or 1"
    else:
        words = {name.casefold(): number for number, name in enumerate(task.targets)}
        names, meaning = (column,), f"one of {', '.join(task.targets)}"
        if any(_is_number(name) for name in words):  # 1 is the class '1', also where it is 1.0
            words |= {f"{name}.0": k for name, k in words.items() if name.isdecimal()}
        else:
            meaning += ", or its index from 0"
            words |= {str(number): number for number in range(len(task.targets))}
            words |= {f"{number}.0": number for number in range(len(task.targets))}
    words = words | {"": NOT_ANNOTATED, "-1": NOT_ANNOTATED, "-1.0": NOT_ANNOTATED}
    found = np.empty((len(cells), len(names)), np.int8)
    for place, name in enumerate(names):
        text = cells[name].str.strip().str.casefold()
        # A class may be called 'none': nothing is what is no class.
        text = text.mask(text.isin(EMPTY) & ~text.isin(words), "")
        values = text.map(words)
        if wrong := np.flatnonzero(values.isna()).tolist():
            raise UserError(
                f"'{cells[name].iloc[wrong[0]][:60]}' in column '{name}' is not a label of "
                f"{task.name}: expected {meaning[:300]}, or empty or -1 if not annotated",
                where=where(wrong[0]),
                fix="correct the value, or add it to data.tasks",
            )
        found[:, place] = values.to_numpy(np.int8)
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read(data: Data, tasks: Sequence[Task]) -> FoundData:
    """See ``registry.Reader``."""
    return arrange(read_label_table(data), data, tasks)
