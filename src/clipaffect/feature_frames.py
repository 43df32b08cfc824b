"""Which frame each row of a file of features belongs to."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from clipaffect.config.features import FeatureFile
from clipaffect.dataset.cells import PARQUET
from clipaffect.dataset.files import read_lines
from clipaffect.dataset.tree import folder_name
from clipaffect.errors import UserError

FRAME = re.compile(r"0*(?P<frame>[1-9]\d{0,8})\.\w+")
# A path, then labels: numbers apart by blanks or commas.
LABELLED = re.compile(r"(?P<path>.*?\.\w+)[\s,]+-?\d[\d\s,.-]*")


def names_of_folders(wanted: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Who is meant by the name of a folder of frames, with or without a video's ending."""
    people = wanted[["video", "person"]].drop_duplicates().itertuples(index=False)
    found: dict[str, tuple[str, str]] = {}
    shorter: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for video, person in people:
        found[folder_name(video, person)] = (video, person)
        stem = str(PurePosixPath(video).with_suffix(""))
        shorter[folder_name(stem, person)].append((video, person))
    return {name: own[0] for name, own in shorter.items() if len(own) == 1} | found


def frames_of_rows(
    settings: FeatureFile,
    rows: int,
    place: dict[tuple[str, str, int], int],
    names: dict[str, tuple[str, str]],
) -> np.ndarray:
    """(rows,) the annotated frame of each row of a file, by number; -1 for none."""
    if settings.frames is None:
        keys = _own_keys(settings)
    else:
        path = Path(settings.frames)
        if not path.is_file():
            raise UserError("no such list of frames", where=f"{path}, seen from {Path.cwd()}",
                            mend="correct features.import")  # fmt: skip
        lines = [line for line in read_lines(path, "give a text file") if line.strip()]
        keys = [_key(line.strip(), place, names) for line in lines]
    if len(keys) != rows:
        raise UserError(
            f"{len(keys):,} frames are listed, but {settings.file} has {rows:,} rows",
            where=settings.frames or settings.file,
            mend="give the list that the features were made from, a line for each row",
        )
    return np.array([place.get(key, -1) for key in keys], np.int64)


def _key(
    line: str, place: dict[tuple[str, str, int], int], names: dict[str, tuple[str, str]]
) -> tuple[str, str, int]:
    """The frame that a line names, with labels behind it or not, in whatever folder."""
    match = LABELLED.fullmatch(line)
    for text in dict.fromkeys((line, match["path"] if match else line)):
        parts = PurePosixPath(text).parts
        for start in range(len(parts)):
            image = "/".join(parts[start:])
            if (image, "", 1) in place:
                return image, "", 1
            number = FRAME.fullmatch(parts[-1])
            folder = "/".join(parts[start:-1])
            if number and folder in names:
                return (*names[folder], int(number["frame"]))
    return line, "", 0


def _own_keys(settings: FeatureFile) -> list[tuple[str, str, int]]:
    """The frames of a Parquet file that names them itself."""
    path = Path(settings.file)
    columns = pq.read_schema(path).names if path.suffix.lower() in PARQUET else []
    if "image" in columns:
        images = pq.read_table(path, columns=["image"])["image"].to_pylist()
        return [(str(PurePosixPath(str(image))), "", 1) for image in images]
    if {"video", "frame"} <= set(columns):
        who = "side" if "side" in columns else "person"  # as this project's own tables call it
        table = pq.read_table(path, columns=[n for n in ("video", who, "frame") if n in columns])
        sides = table[who].to_pylist() if who in columns else [""] * len(table)
        keys = zip(table["video"].to_pylist(), sides, table["frame"].to_pylist(), strict=True)
        return [_own_key(path, row, *key) for row, key in enumerate(keys, start=1)]
    raise UserError(
        "which frame a row belongs to is not said", where=path,
        mend="give features.import 'frames', a text file with a frame in each line (a Parquet "
        "file may have the columns image, or video, frame and side)",
    )  # fmt: skip


def _own_key(path: Path, row: int, video: Any, side: Any, frame: Any) -> tuple[str, str, int]:
    whole = isinstance(frame, int) or (isinstance(frame, float) and frame.is_integer())
    if not whole or side not in (None, "", "left", "right"):
        raise UserError(
            f"frame {frame!r} and side {side!r}", where=f"{path}, row {row}",
            mend="give a whole number from 1, and left, right or nothing",
        )  # fmt: skip
    return str(video), side or "", int(frame)
