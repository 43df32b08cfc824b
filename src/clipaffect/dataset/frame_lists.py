"""Compare a published list of frames (a path and its label in each line) with what was found."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from clipaffect.dataset.aff_wild2 import folder_name
from clipaffect.errors import UserError
from clipaffect.tasks import Task

LINE = re.compile(r"(?:.*/)?(?P<name>[^/]+)/0*(?P<frame>\d+)\.\w+[\s,]+(?P<labels>.+)")
NUMBER = re.compile(r"-?\d+")
FEW = 5


def compare_list(path: Path, found: pd.DataFrame, task: Task) -> dict[str, Any]:
    """Row by row: frames in both with the same label, with another, and in one of the two alone.

    Args:
        path: the list; folders before ``<video>/00001.jpg`` are left aside.
        found: annotated rows with an image: video, person, frame and the task's label columns.
        task: how many numbers a label has.

    Raises:
        UserError: a line that is none, by its number.
    """
    if not path.is_file():
        raise UserError("no such file", where=f"{path} (data.frame_lists), seen from {Path.cwd()}",
                        mend="give the list, or remove the key")  # fmt: skip
    listed: dict[tuple[str, int], tuple[int, ...]] = {}
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            match = LINE.fullmatch(line.strip())
            labels = tuple(map(int, NUMBER.findall(match["labels"]))) if match else ()
            if not match or len(labels) != len(task.columns):
                raise UserError(
                    f"'{line.strip()[:80]}' is no frame with its {len(task.columns)} label"
                    f"{'s' if task.multilabel else ''}",
                    where=f"{path}, line {number}",
                    mend="write video/00001.jpg and the label, apart by a space or a comma",
                )
            listed[match["name"], int(match["frame"])] = labels
    people = {
        (video, person): folder_name(video, person)
        for video, person in found[["video", "person"]].drop_duplicates().itertuples(index=False)
    }
    owners = zip(found["video"], found["person"], strict=True)
    keys = zip([people[owner] for owner in owners], found["frame"].tolist(), strict=True)
    columns = [found[name].tolist() for name in task.columns]
    mine = dict(zip(keys, zip(*columns, strict=True), strict=True))
    both = listed.keys() & mine.keys()
    other = sorted(key for key in both if listed[key] != mine[key])
    only = sorted(listed.keys() - mine.keys()), sorted(mine.keys() - listed.keys())
    return {
        "listed": len(listed),
        "found": len(mine),
        "same": len(both) - len(other),
        "other_label": len(other),
        "only_listed": len(only[0]),
        "only_found": len(only[1]),
        "examples": {
            kind: [f"{name}/{frame:05d}.jpg" for name, frame in rows[:FEW]]
            for kind, rows in (("other label", other), ("only listed", only[0]),
                               ("only found", only[1]))
            if rows
        },
    }  # fmt: skip
