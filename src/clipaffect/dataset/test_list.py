"""The frames that a submission must cover: the organisers' sample file, or a list of videos.

A sample file has the submission's header and a row for each frame; a list has the name of a
video, as its folder of crops is called, in each line.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from clipaffect.core.errors import UserError
from clipaffect.core.names import has_control
from clipaffect.core.tasks import CHALLENGE, Task
from clipaffect.dataset.files import read_lines

LOCATION = re.compile(r"(?P<name>[^/\\]+)/0*(?P<frame>[1-9]\d{0,8})\.(?:jpe?g|png)", re.IGNORECASE)
FIRST = "image_location"


@dataclass(frozen=True)
class TestList:
    """Rows of a submission.

    Attributes:
        path: the file.
        rows: ``location`` (as in the file), video, person, frame, line; from a list of videos one
            row a person, frame 0 for every frame.
    """

    __test__ = False  # not a test of pytest's

    path: Path
    rows: pd.DataFrame

    def people(self) -> list[tuple[str, str]]:
        """Every (video, person)."""
        found = self.rows[["video", "person"]].drop_duplicates()
        return list(found.itertuples(index=False, name=None))


def submission_header(task: Task) -> str:
    """First line of a submission; that of EXPR lists eight classes, though rows have one number."""
    return ",".join([FIRST, *task.targets])


def task_of_header(line: str) -> Task | None:
    """The task whose submissions begin with ``line``."""
    return next((task for task in CHALLENGE.values() if line == submission_header(task)), None)


def read_test_list(path: Path, task: Task, who: Callable[[str], tuple[str, str]]) -> TestList:
    """Read a sample file or a list of videos.

    Args:
        path: the file.
        task: whose header the sample file has.
        who: from a folder's name to the video and the person.

    Raises:
        UserError: a wrong line, by its number.
    """
    where = str(path)
    if not path.is_file():
        fix = "use the organisers' sample file, or a text file with one video name per line"
        where = f"{where} (the list of {task.name}), relative to {Path.cwd()}"
        raise UserError("the file does not exist", where=where, fix=fix)
    lines = read_lines(path, "use a text file")
    is_sample = bool(lines) and lines[0].split(",")[0].strip() == FIRST
    other = task_of_header(lines[0].strip()) if is_sample else None
    if other is not None and other != task:
        raise UserError(
            f"the file is for {other.name}, not for {task.name}",
            where=f"{path}, line 1",
            fix=f"use the file for {task.name}",
        )
    rows: list[tuple[str, str, int, int]] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines[is_sample:], start=1 + is_sample):
        value = line.split(",")[0].strip() if is_sample else line.strip()
        if not value:
            continue
        if value in seen:
            raise UserError(
                f"'{value[:80]}' repeats line {seen[value]}",
                where=f"{where}, line {number}",
                fix="remove one of them",
            )
        seen[value] = number
        match = LOCATION.fullmatch(value) if is_sample else None
        if is_sample and not match:
            raise UserError(
                f"'{value[:80]}' is not an image",
                where=f"{where}, line {number}",
                fix="write it as video/00001.jpg",
            )
        if not is_sample and ("/" in value or "\\" in value or has_control(value)):
            raise UserError(
                f"'{value[:80]}' is not the name of a video",
                where=f"{where}, line {number}",
                fix="write only the name of its folder, or start a sample file with "
                f"'{submission_header(task)}'",
            )
        name, frame = (match["name"], int(match["frame"])) if match else (value, 0)
        rows.append((value, name, frame, number))
    if not rows:
        raise UserError("the list names no frames or videos", where=where, fix="complete the list")
    found = pd.DataFrame(rows, columns=["location", "name", "frame", "line"])
    found = found.astype({"frame": "int32"})
    people = {name: who(name) for name in found["name"].unique()}
    found["video"] = found["name"].map({name: video for name, (video, _) in people.items()})
    found["person"] = found["name"].map({name: person for name, (_, person) in people.items()})
    return TestList(path, found[["location", "video", "person", "frame", "line"]])
