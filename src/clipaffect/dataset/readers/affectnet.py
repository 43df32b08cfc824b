"""Reader for AffectNet as distributed by its authors (Mollahosseini et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clipaffect.config.data import Data
from clipaffect.core.errors import UserError
from clipaffect.core.tasks import NOT_ANNOTATED, Task
from clipaffect.dataset.csv_cells import csv_rows
from clipaffect.dataset.files import files_below, natural_order
from clipaffect.dataset.label_rows import FoundData, Listing, arrange
from clipaffect.dataset.media import IMAGE_SUFFIXES
from clipaffect.dataset.readers.folders import data_root, image_listing

AFFECTNET_LISTS = {"training.csv": "train", "validation.csv": "validation"}


AFFECTNET_FOLDERS = {"train_set": "train", "val_set": "validation"}


AFFECTNET_COLUMNS = ("subDirectory_filePath", "expression")


AFFECTNET_NAMELESS = (0, 6)  # of the same two columns in a list without a header


def read_affectnet(data: Data) -> Listing:
    """Read AffectNet from training.csv and validation.csv, or from train_set and val_set.

    Images marked as none, uncertain or without a face (8 to 10) are not annotated.

    Raises:
        UserError: neither layout, or a wrong value.
    """
    root = data_root(data)
    if all((root / folder).is_dir() for folder in AFFECTNET_FOLDERS):
        return _affectnet_folders(root)
    lists = [path for path in files_below(root) if path.name in AFFECTNET_LISTS]
    if {path.name for path in lists} != set(AFFECTNET_LISTS) or len(lists) != len(AFFECTNET_LISTS):
        found = ", ".join(map(str, lists)) or "none of them"
        raise UserError(
            f"AffectNet's training.csv and validation.csv are required; found: {found}",
            where=root,
            fix="set data.root to a folder that contains both lists once, or the folders "
            "train_set and val_set",
        )
    rows = [row for path in sorted(lists) for row in _affectnet_list(path)]
    base = _folder_of_images(root, [row[0] for row in rows])
    prefix = base.relative_to(root).as_posix()
    prefix = "" if prefix == "." else f"{prefix}/"
    return image_listing(
        root,
        root,
        [(prefix + row[0], *row[1:]) for row in rows],
        "EXPR",
        _left_out([row[2] for row in rows]),
    )


def _expression(text: str, where: str) -> int:
    if not text.strip().isdecimal() or int(text) > 10:
        raise UserError(
            f"'{text[:40]}' is not an AffectNet expression",
            where=where,
            fix="use a number from 0 to 10",
        )
    return int(text) if int(text) < 8 else NOT_ANNOTATED


def _left_out(labels: list[int]) -> str:
    count = labels.count(NOT_ANNOTATED)
    return f"{count:,} images marked as none, uncertain or without a face are left out."


def _affectnet_list(path: Path) -> list[tuple[str, str, int, str]]:
    rows = []
    columns = AFFECTNET_NAMELESS
    for number, (line, cells) in enumerate(csv_rows(path)):
        where = f"{path}, line {line}"
        if number == 0 and set(AFFECTNET_COLUMNS) <= set(cells):
            columns = cells.index(AFFECTNET_COLUMNS[0]), cells.index(AFFECTNET_COLUMNS[1])
            continue
        if len(cells) <= max(columns):
            raise UserError(
                f"unexpected number of values: {len(cells)}",
                where=where,
                fix="use AffectNet's original list",
            )
        label = _expression(cells[columns[1]], where)
        rows.append((cells[columns[0]], AFFECTNET_LISTS[path.name], label, where))
    return rows


def _folder_of_images(root: Path, names: list[str]) -> Path:
    """The folder that the lists' paths are relative to: the first that has one of a few."""
    few = names[:: max(1, len(names) // 50)]
    folders = [p.parent for p in root.glob("*/*/") if p.is_dir()] + list(root.glob("*/*/"))
    for folder in dict.fromkeys([root, *sorted(folders)]):
        if any((folder / name).is_file() for name in few):
            return folder
    return root


def _affectnet_folders(root: Path) -> Listing:
    rows = []
    for folder, split in AFFECTNET_FOLDERS.items():
        for path in sorted(
            (root / folder / "images").glob("*"), key=lambda p: natural_order(p.name)
        ):
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            own = root / folder / "annotations" / f"{path.stem}_exp.npy"
            label = _expression(_word(own), str(own))
            rows.append((path.relative_to(root).as_posix(), split, label, str(own)))
    return image_listing(root, root, rows, "EXPR", _left_out([row[2] for row in rows]))


def _word(path: Path) -> str:
    """The single value in a NumPy file; pickles are never read."""
    try:
        return str(np.load(path, allow_pickle=False).item())
    except (OSError, ValueError, EOFError):
        raise UserError(
            "the annotation is missing or is not a single value",
            where=path,
            fix="complete AffectNet's annotations",
        ) from None


def read(data: Data, tasks: Sequence[Task]) -> FoundData:
    """See ``registry.Reader``."""
    return arrange(read_affectnet(data), data, tasks)
