"""Annotation files of the ABAW challenges: a header line, then one row per frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from clipaffect.core.errors import UserError
from clipaffect.core.tasks import NOT_ANNOTATED, Task
from clipaffect.dataset.files import read_lines


def read_annotation(path: Path, task: Task) -> np.ndarray:
    """Labels (rows, 1) of EXPR or (rows, 12) of AU; -1 is not annotated.

    Raises:
        UserError: wrong header, a row of the wrong length, or a value out of range, naming the
            line.
    """
    fast = _read_clean(path, task)
    return _read_lines(path, task) if fast is None else fast


def _highest(task: Task) -> int:
    return 1 if task.multilabel else len(task.targets) - 1


def _read_clean(path: Path, task: Task) -> np.ndarray | None:
    """Read an error-free file thirty times as fast; None if it may contain an error."""
    with path.open("rb") as file:
        first = file.readline()
    if [name.strip() for name in first.split(b",")] != [name.encode() for name in task.targets]:
        return None
    try:
        table = csv.read_csv(
            path,
            csv.ReadOptions(skip_rows=1, column_names=list(task.columns), use_threads=False),
            csv.ParseOptions(quote_char=False, ignore_empty_lines=False),
            csv.ConvertOptions(column_types=dict.fromkeys(task.columns, pa.int8())),
        )
    except pa.ArrowInvalid:
        return None
    if not len(table) or any(column.null_count for column in table.columns):
        return None
    rows = np.stack([column.to_numpy() for column in table.columns], axis=1)
    if rows.min() < NOT_ANNOTATED or rows.max() > _highest(task):
        return None
    return rows


def _read_lines(path: Path, task: Task) -> np.ndarray:
    """Read the labels line by line; reports the first wrong one."""
    lines = read_lines(path, "use the organisers' text file")
    header = [name.strip() for name in lines[0].split(",")] if lines else []
    if header != list(task.targets):
        raise UserError(
            f"the first line is '{lines[0][:80] if lines else ''}', expected '{task.header}'",
            where=f"{path}, line 1",
            fix=f"use an annotation file for {task.name}, with its header line",
        )
    while len(lines) > 1 and not lines[-1].strip():
        lines.pop()
    if len(lines) == 1:
        raise UserError(
            "there are no rows below the header", where=path, fix="complete or remove the file"
        )
    width = len(task.columns)
    highest = _highest(task)
    rows = np.empty((len(lines) - 1, width), np.int8)
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split(",")
        if len(fields) != width:
            raise UserError(
                f"'{line[:80]}' has {len(fields)} values, expected {width}",
                where=f"{path}, line {number}",
                fix="write one row for each frame",
            )
        for column, field in enumerate(fields):
            try:
                value = int(field)
            except ValueError:
                value = NOT_ANNOTATED - 1
            if not NOT_ANNOTATED <= value <= highest:
                raise UserError(
                    f"'{field.strip()[:40]}' is not an {task.name} label, which is a whole number "
                    f"from {NOT_ANNOTATED} (not annotated) to {highest}",
                    where=f"{path}, line {number}",
                    fix="correct the value, or write -1",
                )
            rows[number - 2, column] = value
    return rows
