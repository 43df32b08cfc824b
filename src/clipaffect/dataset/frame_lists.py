"""Compare a published frame list (a path and its label on each line) with the data found."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipaffect.core.errors import UserError
from clipaffect.core.tasks import Task
from clipaffect.dataset.files import read_lines
from clipaffect.dataset.tree import folder_name

LINE = re.compile(r"(?:.*/)?(?P<name>[^/]+)/0*(?P<frame>\d+)\.\w+[\s,]+(?P<labels>.+)")
NUMBER = re.compile(r"-?\d+")
FEW = 5
STRIDE, BASE = 10**9, 16  # of a folder's code beside the frame; of one label beside the next


def compare_list(path: Path, found: pd.DataFrame, task: Task) -> dict[str, Any]:
    """Count the frames in both with the same label, with different labels, and in only one.

    Args:
        path: the list; folders before ``<video>/00001.jpg`` are ignored.
        found: annotated rows with an image: video, person, frame and the task's label columns.
        task: how many numbers a label has.

    Raises:
        UserError: a line is invalid; the message gives its number.
    """
    if not path.is_file():
        raise UserError(
            "the file does not exist",
            where=f"{path} (data.frame_lists), relative to {Path.cwd()}",
            fix="correct the path, or remove the key",
        )
    folders = found[["video", "person"]].drop_duplicates().itertuples(index=False)
    codes = {folder_name(video, person): code for code, (video, person) in enumerate(folders)}
    listed, repeated = _read(path, task, codes)
    names = list(codes)
    owner = found.groupby(["video", "person"], sort=False, observed=True).ngroup().to_numpy()
    keys = owner.astype(np.int64) * STRIDE + found["frame"].to_numpy()
    labels = _packed(found[list(task.columns)].to_numpy())
    mine = dict(zip(keys.tolist(), labels.tolist(), strict=True))
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
        "repeated": repeated,
        "examples": {
            kind: [f"{names[key // STRIDE]}/{key % STRIDE:05d}.jpg" for key in rows[:FEW]]
            for kind, rows in (
                ("other label", other),
                ("only listed", only[0]),
                ("only found", only[1]),
            )
            if rows
        },
    }


def _read(path: Path, task: Task, codes: dict[str, int]) -> tuple[dict[int, int], int]:
    """Labels by folder and frame, each packed into one number; and the number of repeated frames.

    Unknown folders get the next code. 1.4 million lines of units take 0.3 GB this way.
    """
    lines = read_lines(path, "use a text file")
    listed: dict[int, int] = {}
    repeated = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        match = LINE.fullmatch(line.strip())
        labels = [int(label) for label in NUMBER.findall(match["labels"])] if match else []
        if not match or len(labels) != len(task.columns):
            raise UserError(
                f"'{line.strip()[:80]}' is not a frame followed by {len(task.columns)} label"
                f"{'s' if task.multilabel else ''}",
                where=f"{path}, line {number}",
                fix="write video/00001.jpg and the label, separated by a space or a comma",
            )
        code = codes.setdefault(match["name"], len(codes))
        key = code * STRIDE + int(match["frame"])
        repeated += key in listed
        listed[key] = sum((label + 1) * BASE**place for place, label in enumerate(labels))
    return listed, repeated


def _packed(labels: np.ndarray) -> np.ndarray:
    """(n,) one number for each row of labels (n, k)."""
    powers = BASE ** np.arange(labels.shape[1], dtype=np.int64)
    packed: np.ndarray = (labels.astype(np.int64) + 1) @ powers
    return packed
