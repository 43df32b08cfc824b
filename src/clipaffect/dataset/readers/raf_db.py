"""Reader for RAF-DB as distributed by its authors (Li et al. 2017)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clipaffect.config.data import Data
from clipaffect.core.errors import UserError
from clipaffect.core.tasks import Task
from clipaffect.dataset.files import read_lines
from clipaffect.dataset.label_rows import FoundData, Listing, arrange
from clipaffect.dataset.readers.folders import data_root, image_listing

RAF_LIST = "EmoLabel/list_patition_label.txt"  # so spelt by its authors


RAF_LINE = re.compile(r"(?P<split>train|test)_(?P<number>\w+)\.jpe?g\s+(?P<label>[1-7])")


def read_raf_db(data: Data) -> Listing:
    """RAF-DB's basic set: its list of labels, and its aligned images (originals to search).

    Raises:
        UserError: no list, or a line that is none of its.
    """
    root = data_root(data)
    if not (root / RAF_LIST).is_file() and (root / "basic" / RAF_LIST).is_file():
        root /= "basic"
    path = root / RAF_LIST
    if not path.is_file():
        raise UserError(
            "RAF-DB's list of labels is missing",
            where=path,
            fix="set data.root to the folder that contains EmoLabel and Image",
        )
    original = data.faces == "search" or not (root / "Image/aligned").is_dir()
    rows = []
    for number, line in enumerate(read_lines(path, "use RAF-DB's own list"), start=1):
        if not line.strip():
            continue
        match = RAF_LINE.fullmatch(line.strip())
        if not match:
            raise UserError(
                f"'{line[:60]}' is not a valid line of the list",
                where=f"{path}, line {number}",
                fix="write it as 'train_00001.jpg 5', with a label from 1 to 7",
            )
        stem = f"{match['split']}_{match['number']}"
        image = f"Image/original/{stem}.jpg" if original else f"Image/aligned/{stem}_aligned.jpg"
        rows.append((image, match["split"], int(match["label"]) - 1, f"{path}, line {number}"))
    return image_listing(path, root, rows, "EXPR")


def read(data: Data, tasks: Sequence[Task]) -> FoundData:
    """See ``registry.Reader``."""
    return arrange(read_raf_db(data), data, tasks)
