"""Match the rows of a feature file to frames."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from clipaffect.config.features import FeatureFile
from clipaffect.core.errors import UserError
from clipaffect.dataset.csv_cells import PARQUET
from clipaffect.dataset.files import read_lines
from clipaffect.dataset.tree import folder_name

FRAME = re.compile(r"0*(?P<frame>[1-9]\d{0,8})\.\w+")
ENDING = re.compile(r"\.\w+$")
# A path, then labels: numbers apart by blanks or commas.
LABELLED = re.compile(r"(?P<path>.*?\.\w+)[\s,]+-?\d[\d\s,.-]*")


Place = tuple[int, int]  # an owner's number and a frame; (-1, 0) for none
NOWHERE: Place = (-1, 0)


class FrameIndex:
    """Index of the frames that need features, by name.

    Args:
        wanted: (n,) video, person, frame; each once.
    """

    def __init__(self, wanted: pd.DataFrame) -> None:
        groups = wanted.groupby(["video", "person"], sort=False, observed=True)
        self.owners: dict[tuple[str, str], int] = {o: k for k, o in enumerate(groups.groups)}
        # 1.4 million frames as whole numbers take 20 MB, as keys of a dictionary 300.
        codes = _code(groups.ngroup().to_numpy(), wanted["frame"].to_numpy())
        self.order = np.argsort(codes)
        self.codes = codes[self.order]
        self.folders: dict[str, int] = {}
        shorter: dict[str, list[int]] = defaultdict(list)
        for (video, person), owner in self.owners.items():
            shorter[folder_name(ENDING.sub("", video), person)].append(owner)
        self.folders |= {name: own[0] for name, own in shorter.items() if len(own) == 1}
        self.folders |= {folder_name(*key): owner for key, owner in self.owners.items()}

    def rows(self, places: list[Place]) -> np.ndarray:
        """(m,) the wanted frame at each place; -1 for none."""
        asked = np.array(places, np.int64).reshape(-1, 2)
        codes = _code(asked[:, 0], asked[:, 1])
        at = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        found: np.ndarray = np.where(self.codes[at] == codes, self.order[at], -1)
        return found

    def place(self, line: str) -> Place:
        """The frame that a line names, with or without labels after it, in any folder.

        The path of an image, or ``<video>/00001.jpg``, the video with or without its ending.
        """
        match = LABELLED.fullmatch(line)
        for text in dict.fromkeys((line, match["path"] if match else line)):
            parts = PurePosixPath(text).parts
            number = FRAME.fullmatch(parts[-1]) if parts else None
            for start in range(len(parts)):
                image = self.owners.get(("/".join(parts[start:]), ""))
                if image is not None:
                    return image, 1
                folder = self.folders.get("/".join(parts[start:-1]))
                if number and folder is not None:
                    return folder, int(number["frame"])
        return NOWHERE


def _code(owner: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """A unique integer for each owner and frame."""
    return (owner.astype(np.int64) << 32) | frame.astype(np.int64)


def frames_of_rows(settings: FeatureFile, rows: int, index: FrameIndex) -> np.ndarray:
    """(rows,) the wanted frame of each row of a file, by number; -1 for none.

    Raises:
        UserError: the list is missing, or has another length.
    """
    if settings.frames is None:
        places = [
            (index.owners.get((video, side), -1), frame)
            for video, side, frame in _own_keys(settings)
        ]
    else:
        path = Path(settings.frames)
        if not path.is_file():
            raise UserError(
                "the frame list does not exist",
                where=f"{path}, relative to {Path.cwd()}",
                fix="correct features.import",
            )
        lines = [line for line in read_lines(path, "use a text file") if line.strip()]
        places = [index.place(line.strip()) for line in lines]
    if len(places) != rows:
        raise UserError(
            f"{len(places):,} frames are listed, but {settings.file} has {rows:,} rows",
            where=settings.frames or settings.file,
            fix="use the list that the features were made from, with a line for each row",
        )
    return index.rows(places)


def _own_keys(settings: FeatureFile) -> list[tuple[str, str, int]]:
    """The frames of a Parquet file that has frame columns."""
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
        "the file does not say which frame each row belongs to",
        where=path,
        fix="set 'frames' under features.import to a text file with one frame per line (a Parquet "
        "file may have the columns image, or video, frame and side)",
    )


def _own_key(path: Path, row: int, video: Any, side: Any, frame: Any) -> tuple[str, str, int]:
    whole = isinstance(frame, int) or (isinstance(frame, float) and frame.is_integer())
    if not whole or side not in (None, "", "left", "right"):
        raise UserError(
            f"invalid frame or side: frame {frame!r}, side {side!r}",
            where=f"{path}, row {row}",
            fix="use a whole number from 1 as frame, and left, right or nothing as side",
        )
    return str(video), side or "", int(frame)
