"""The multi-task challenge's file (s-Aff-Wild2): one line per image, with all tasks' labels.

A header line that begins with ``image,valence,arousal,expression``, then
``<video>/00001.jpg,valence,arousal,expression,AU1,...,AU26``. Not annotated is -5 (valence,
arousal) and -1 (the others), task by task: an image may have one task's labels and not another's.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pandas as pd

from clipaffect.core.errors import UserError
from clipaffect.core.tasks import AU, EXPR, NOT_ANNOTATED, Task
from clipaffect.dataset.files import read_lines
from clipaffect.dataset.test_list import LOCATION

START = ["image", "valence", "arousal", "expression"]
FIELDS = len(START) + len(AU.targets)


@lru_cache(maxsize=4)
def _read(path: Path, modified_ns: int) -> pd.DataFrame:
    """Columns name, frame, label, and the units."""
    lines = read_lines(path, "use the organisers' text file")
    header = [name.strip() for name in lines[0].split(",")] if lines else []
    named = header[len(START) :]
    # The organisers name the units together ('aus') or one by one.
    if header[: len(START)] != START or (len(named) > 1 and named != list(AU.targets)):
        raise UserError(
            f"the first line is {','.join(header)[:160]!a}, expected '{','.join(START)},aus' or "
            f"'{','.join([*START, *AU.targets])}'",
            where=f"{path}, line 1",
            fix="use the multi-task challenge's file with its columns in this order",
        )
    rows = [
        _row(line.split(","), f"{path}, line {number}")
        for number, line in enumerate(lines[1:], start=2)
        if line.strip()
    ]
    if not rows:
        raise UserError("there are no rows below the header", where=path, fix="complete the file")
    found = pd.DataFrame(rows, columns=["name", "frame", "label", *AU.targets])
    return found.astype({"frame": "int32"} | dict.fromkeys(["label", *AU.targets], "int8"))


def _row(fields: list[str], where: str) -> list[str | int]:
    if len(fields) != FIELDS:
        raise UserError(
            f"the line has {len(fields)} values, expected {FIELDS}",
            where=where,
            fix="write one line for each image",
        )
    match = LOCATION.fullmatch(fields[0].strip())
    if not match:
        raise UserError(
            f"'{fields[0][:60]}' is not an image", where=where, fix="write it as video/00001.jpg"
        )
    labels = []
    for field, highest, what in [
        (fields[3], len(EXPR.targets) - 1, "expression"),
        *((value, 1, unit) for value, unit in zip(fields[4:], AU.targets, strict=True)),
    ]:
        try:
            value = float(field)  # some editions write 7.0
        except ValueError:
            value = float("nan")
        if not (NOT_ANNOTATED <= value <= highest and value.is_integer()):
            raise UserError(
                f"'{field.strip()[:40]}' is not a label of {what}, a whole number from "
                f"{NOT_ANNOTATED} (not annotated) to {highest}",
                where=where,
                fix="correct the value, or write -1",
            )
        labels.append(int(value))
    return [match["name"], int(match["frame"]), *labels]


def _table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(
            "the file does not exist",
            where=f"{path} (data.multitask), relative to {Path.cwd()}",
            fix="set it to the training and validation files of the multi-task challenge",
        )
    return _read(path, path.stat().st_mtime_ns)


def read_people(path: Path) -> list[str]:
    """The names (``<video>[_left|_right]``) that a file annotates.

    Raises:
        UserError: a wrong line, by its number.
    """
    return sorted(_table(path)["name"].unique())


def read_multitask(path: Path, name: str, task: Task) -> pd.DataFrame:
    """One person's rows for one task: ``frame`` and the task's label columns, by frame.

    Raises:
        UserError: an image has two lines.
    """
    rows = _table(path)
    rows = rows[rows["name"] == name].sort_values("frame")
    twice = rows[rows["frame"].duplicated()]
    if len(twice):
        raise UserError(
            f"frame {twice['frame'].iloc[0]} of '{name}' has two lines",
            where=path,
            fix="keep one of them",
        )
    return rows[["frame", *task.columns]].reset_index(drop=True)
