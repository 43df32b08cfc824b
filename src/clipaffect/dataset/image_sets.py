"""Readers of data sets that are folders of images: a folder a class, RAF-DB, AffectNet.

Their layouts as their authors give them out: Li et al. 2017 (RAF-DB), Mollahosseini et al. 2017
(AffectNet). None of them names its people.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from clipaffect.config.data import Data
from clipaffect.dataset.cells import csv_rows
from clipaffect.dataset.files import IMAGE_SUFFIXES, files_below, natural_order, read_lines
from clipaffect.dataset.listing import SPLIT_WORDS, Listing, blank_rows
from clipaffect.dataset.table_file import read_table
from clipaffect.errors import UserError
from clipaffect.tasks import NOT_ANNOTATED

NO_PEOPLE = (
    "The data does not say who is in an image: every image counts as another person, and splits "
    "may share people."
)
RAF_LIST = "EmoLabel/list_patition_label.txt"  # so spelt by its authors
RAF_LINE = re.compile(r"(?P<split>train|test)_(?P<number>\w+)\.jpe?g\s+(?P<label>[1-7])")
AFFECTNET_LISTS = {"training.csv": "train", "validation.csv": "validation"}
AFFECTNET_FOLDERS = {"train_set": "train", "val_set": "validation"}
AFFECTNET_COLUMNS = ("subDirectory_filePath", "expression")
AFFECTNET_NAMELESS = (0, 6)  # of the same two columns in a list without a header


def _root(data: Data) -> Path:
    root = Path(data.root or "")
    if not root.is_dir():
        raise UserError(
            "no such folder", where=f"{root} (data.root), seen from {Path.cwd()}",
            mend="set data.root to the data set's folder (write it in full: ~ is not expanded)",
        )  # fmt: skip
    return root


def _listing(
    path: Path, root: Path, found: Iterable[tuple[str, str, int, str]], task: str, *notes: str
) -> Listing:
    """A listing of single-label images from (source, split, label, where)."""
    rows = list(found)
    frame = blank_rows([source for source, *_ in rows], is_image=True)
    frame["split"] = [split for _, split, *_ in rows]
    frame[f"{task}/label"] = np.array([label for _, _, label, _ in rows], np.int8)
    where: Callable[[int], str] = lambda row: rows[row][3]  # noqa: E731 - it holds the rows
    return Listing(path, root, frame, where, (*notes, NO_PEOPLE))


def read_folders(data: Data) -> Listing:
    """A folder of images for each class, below a folder for each split or not.

    Raises:
        UserError: a folder that is no class (or split), or a class without a folder.
    """
    root = _root(data)
    name, task = next(iter(data.known_tasks().items()))
    top = [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    with_splits = bool(top) and all(folder.name.casefold() in SPLIT_WORDS for folder in top)
    parents = {folder: folder.name for folder in top} if with_splits else {root: ""}
    rows = []
    seen: set[str] = set()
    for parent, split in parents.items():
        for folder in sorted(parent.iterdir()):
            if folder.name.startswith(".") or not folder.is_dir():
                continue
            if folder.name not in task.targets:
                close = difflib.get_close_matches(folder.name, task.targets, n=1)
                hint = f"did you mean '{close[0]}'? " if close else ""
                raise UserError(
                    f"the folder '{folder.name}' is no class: {', '.join(task.targets)}",
                    where=folder,
                    mend=f"{hint}correct data.tasks.{name}.classes (letter by letter), or move it",
                )
            seen.add(folder.name)
            label = task.targets.index(folder.name)
            for path in sorted(files_below(folder), key=lambda p: natural_order(str(p))):
                if path.suffix.lower() in IMAGE_SUFFIXES:
                    rows.append((path.relative_to(root).as_posix(), split, label, str(path)))
    if missing := [target for target in task.targets if target not in seen]:
        raise UserError(
            f"no folder is called {', '.join(missing)}",
            where=f"{root} (data.root)",
            mend=f"add it, or take it out of data.tasks.{name}.classes",
        )
    return _listing(root, root, rows, name)


def read_raf_db(data: Data) -> Listing:
    """RAF-DB's basic set: its list of labels, and its aligned images (originals to search).

    Raises:
        UserError: no list, or a line that is none of its.
    """
    root = _root(data)
    if not (root / RAF_LIST).is_file() and (root / "basic" / RAF_LIST).is_file():
        root /= "basic"
    path = root / RAF_LIST
    if not path.is_file():
        raise UserError("RAF-DB's list of labels is not there", where=path,
                        mend="set data.root to the folder of EmoLabel and Image")  # fmt: skip
    original = data.faces == "search" or not (root / "Image/aligned").is_dir()
    rows = []
    for number, line in enumerate(read_lines(path, "give RAF-DB's own list"), start=1):
        if not line.strip():
            continue
        match = RAF_LINE.fullmatch(line.strip())
        if not match:
            raise UserError(f"'{line[:60]}' is no line of the list", where=f"{path}, line {number}",
                            mend="write it as 'train_00001.jpg 5', the label 1 to 7")  # fmt: skip
        stem = f"{match['split']}_{match['number']}"
        image = f"Image/original/{stem}.jpg" if original else f"Image/aligned/{stem}_aligned.jpg"
        rows.append((image, match["split"], int(match["label"]) - 1, f"{path}, line {number}"))
    return _listing(path, root, rows, "EXPR")


def read_affectnet(data: Data) -> Listing:
    """AffectNet: the lists training.csv and validation.csv, or the folders train_set and val_set.

    Images marked as none, uncertain or without a face (8 to 10) are not annotated.

    Raises:
        UserError: neither layout, or a wrong value.
    """
    root = _root(data)
    if all((root / folder).is_dir() for folder in AFFECTNET_FOLDERS):
        return _affectnet_folders(root)
    lists = [path for path in files_below(root) if path.name in AFFECTNET_LISTS]
    if {path.name for path in lists} != set(AFFECTNET_LISTS) or len(lists) != len(AFFECTNET_LISTS):
        found = ", ".join(map(str, lists)) or "none of them"
        raise UserError(
            f"AffectNet's training.csv and validation.csv: found {found}", where=root,
            mend="set data.root to the folder that holds both lists once, or the folders "
            "train_set and val_set",
        )  # fmt: skip
    rows = [row for path in sorted(lists) for row in _affectnet_list(path)]
    base = _folder_of_images(root, [row[0] for row in rows])
    prefix = base.relative_to(root).as_posix()
    prefix = "" if prefix == "." else f"{prefix}/"
    return _listing(root, root, [(prefix + row[0], *row[1:]) for row in rows], "EXPR",
                    _left_out([row[2] for row in rows]))  # fmt: skip


def _expression(text: str, where: str) -> int:
    if not text.strip().isdecimal() or int(text) > 10:
        raise UserError(f"'{text[:40]}' is no expression of AffectNet: 0 to 10", where=where,
                        mend="correct the value")  # fmt: skip
    return int(text) if int(text) < 8 else NOT_ANNOTATED


def _left_out(labels: list[int]) -> str:
    count = labels.count(NOT_ANNOTATED)
    return f"{count:,} images are marked as none, uncertain or without a face: they are left out."


def _affectnet_list(path: Path) -> list[tuple[str, str, int, str]]:
    rows = []
    columns = AFFECTNET_NAMELESS
    for number, (line, cells) in enumerate(csv_rows(path)):
        where = f"{path}, line {line}"
        if number == 0 and set(AFFECTNET_COLUMNS) <= set(cells):
            columns = cells.index(AFFECTNET_COLUMNS[0]), cells.index(AFFECTNET_COLUMNS[1])
            continue
        if len(cells) <= max(columns):
            raise UserError(f"{len(cells)} values", where=where,
                            mend="give AffectNet's own list")  # fmt: skip
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
    return _listing(root, root, rows, "EXPR", _left_out([row[2] for row in rows]))


def _word(path: Path) -> str:
    """The one value in a file of numpy's; no pickle is read."""
    try:
        return str(np.load(path, allow_pickle=False).item())
    except (OSError, ValueError, EOFError):
        raise UserError("no such annotation, or not one value", where=path,
                        mend="complete AffectNet's annotations") from None  # fmt: skip


READERS: dict[str, Callable[[Data], Listing]] = {
    "table": read_table,
    "folders": read_folders,
    "raf_db": read_raf_db,
    "affectnet": read_affectnet,
}
