"""Format ``folders``: a folder of images for each class; parts that other image formats share."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from clipaffect.config.data import Data
from clipaffect.core.errors import UserError
from clipaffect.core.tasks import Task
from clipaffect.dataset.files import files_below, natural_order
from clipaffect.dataset.label_rows import SPLIT_WORDS, FoundData, Listing, arrange, blank_rows
from clipaffect.dataset.media import IMAGE_SUFFIXES

NO_PEOPLE = (
    "The data does not identify people: every image counts as a different person, and splits may "
    "share people."
)


def data_root(data: Data) -> Path:
    """``data.root``, which must be there."""
    root = Path(data.root or "")
    if not root.is_dir():
        raise UserError(
            "the folder does not exist",
            where=f"{root} (data.root), relative to {Path.cwd()}",
            fix="set data.root to the data set's folder (write the full path: ~ is not expanded)",
        )
    return root


def image_listing(
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
    root = data_root(data)
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
                    f"the folder '{folder.name}' is not a class: {', '.join(task.targets)}",
                    where=folder,
                    fix=f"{hint}correct data.tasks.{name}.classes (exact spelling), or move it",
                )
            seen.add(folder.name)
            label = task.targets.index(folder.name)
            for path in sorted(files_below(folder), key=lambda p: natural_order(str(p))):
                if path.suffix.lower() in IMAGE_SUFFIXES:
                    rows.append((path.relative_to(root).as_posix(), split, label, str(path)))
    if missing := [target for target in task.targets if target not in seen]:
        raise UserError(
            f"there is no folder for {', '.join(missing)}",
            where=f"{root} (data.root)",
            fix=f"add it, or remove it from data.tasks.{name}.classes",
        )
    return image_listing(root, root, rows, name)


def read(data: Data, tasks: Sequence[Task]) -> FoundData:
    """See ``registry.Reader``."""
    return arrange(read_folders(data), data, tasks)
