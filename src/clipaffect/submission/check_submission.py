"""Check a submission: find the first wrong line, and rows missing from the sample file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipaffect.core.errors import UserError
from clipaffect.core.names import has_control
from clipaffect.core.tasks import Task
from clipaffect.dataset.test_list import LOCATION, read_test_list, submission_header, task_of_header


@dataclass(frozen=True)
class Checked:
    """The contents of a correct file."""

    rows: int
    people: int


def check_submission(path: Path, task: Task, sample: Path | None = None) -> Checked:
    """Read a submission as strictly as an evaluation script might.

    Args:
        path: the file.
        task: EXPR (one class number a row) or AU (twelve bits).
        sample: the organisers' sample file: every row of it must be there, and no other.

    Raises:
        UserError: a line is wrong; the message gives the first one's number and the problem.
    """
    wanted = None if sample is None else _locations(sample, task)
    seen: dict[str, int] = {}
    lines = _lines(path)
    header = submission_header(task)
    _, first = next(lines, (1, ""))
    other = task_of_header(first)
    if other is not None and other != task:
        raise _wrong(path, 1, f"the file is for {other.name}", f"check it with --task {other.name}")
    if first.startswith("\ufeff"):
        raise _wrong(
            path, 1, "there is a byte-order mark before the header", "save as UTF-8 without one"
        )
    if first != header:
        raise _wrong(
            path, 1, f"wrong header {first[:120]!a}", f"begin the file with the header '{header}'"
        )
    for number, line in lines:
        location, *values = line.split(",")
        match = LOCATION.fullmatch(location)
        if not match or has_control(match["name"]):
            raise _wrong(
                path,
                number,
                f"'{location[:80]}' is not an image name",
                "begin each row with a name such as video/00001.jpg",
            )
        if location in seen:
            raise _wrong(
                path,
                number,
                f"'{location}' repeats line {seen[location]}",
                "write one row for each frame",
            )
        seen[location] = number
        if wanted is not None and location not in wanted:
            fix = f"write it exactly as in {sample}, or remove it"
            raise _wrong(path, number, f"'{location}' is not a row of the sample file", fix)
        _check_values(path, number, values, task)
    if not seen:
        raise _wrong(path, 2, "there are no rows below the header", "write one row for each frame")
    if wanted is not None and len(seen) < len(wanted):
        location = next(location for location in wanted if location not in seen)
        raise UserError(
            f"{len(wanted) - len(seen)} rows of the sample file are missing; the first is "
            f"'{location}' (line {wanted[location]} of the sample file)",
            where=path,
            fix="include all rows of the sample file, also for frames without a face",
        )
    people = {location.rpartition("/")[0] for location in seen}
    return Checked(len(seen), len(people))


def _check_values(path: Path, number: int, values: list[str], task: Task) -> None:
    count = len(task.columns)
    if len(values) != count:
        fix = f"write {count} for {task.name} after the image name, separated by commas"
        raise _wrong(path, number, f"wrong number of values: {len(values)}", fix)
    allowed = {"0", "1"} if task.multilabel else {str(k) for k in range(len(task.targets))}
    for place, value in enumerate(values):
        if value not in allowed:
            of = f" for {task.targets[place]}" if task.multilabel else ""
            what = f"invalid value '{value[:40]}'{of}"
            fix = f"write a whole number from 0 to {len(allowed) - 1}, without spaces"
            raise _wrong(path, number, what, fix)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without line ends; the last may lack one, and none may be empty."""
    if not path.is_file():
        what = "this is a folder, not a file" if path.is_dir() else "the file does not exist"
        raise UserError(what, where=path, fix="give the text file of the submission")
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError:
                raise _wrong(path, number, "the line is not UTF-8", "save it as UTF-8") from None
            line = line.removesuffix("\n").removesuffix("\r")
            if not line:
                raise _wrong(path, number, "the line is empty", "remove it")
            yield number, line


def _locations(sample: Path, task: Task) -> dict[str, int]:
    """The sample file's rows and their lines, as the run itself reads them."""
    rows = read_test_list(sample, task, lambda name: (name, "")).rows
    if (rows["frame"] == 0).any():
        raise UserError(
            "this is not a sample file: it does not begin with 'image_location'",
            where=f"{sample}, line 1",
            fix="use the organisers' file with a row for each frame",
        )
    return dict(zip(rows["location"].tolist(), rows["line"].tolist(), strict=True))


def _wrong(path: Path, number: int, what: str, expected: str) -> UserError:
    return UserError(f"line {number}: {what}", where=f"{path}, line {number}", fix=expected)
