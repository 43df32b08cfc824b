"""What the index of a data set depends on, found without reading files at each Snakemake call."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from clipaffect.config.data import Data
from clipaffect.core.errors import UserError
from clipaffect.core.hashing import digest
from clipaffect.core.tasks import Task
from clipaffect.dataset.csv_cells import column_names, read_cells
from clipaffect.dataset.files import files_below
from clipaffect.dataset.readers import aff_wild2

LISTS = frozenset((".csv", ".txt"))


def inventory(data: Data, tasks: Sequence[Task]) -> str:
    """Digest of the names, sizes and times of the files that the index depends on.

    Missing or wrong files are reported by ``read_dataset``.
    """
    is_aff_wild2 = data.format == "aff_wild2"
    named = aff_wild2.named_files(data, tasks) if is_aff_wild2 else _named_files(data)
    return _states([*named, *([Path(data.people)] if data.people else [])])


def states(named: Sequence[str]) -> str:
    """Digest of the names, sizes and times of some files, and of all files below some folders."""
    paths = [Path(name) for name in named]
    return _states([own for path in paths for own in (files_below(path) or [path])])


def _states(paths: Iterable[Path]) -> str:
    found = []
    for path in paths:
        if path.exists():
            state = path.stat()
            size = 0 if path.is_dir() else state.st_size
            found.append([os.fsencode(path).hex(), size, state.st_mtime_ns])
    return digest(found)


def _named_files(data: Data) -> list[Path]:
    """The table and the files that it names, or all folders, videos and lists below the root.

    Images are covered by the time of their folder, which changes if one is added or removed.
    """
    if data.tables:
        return [
            own for path in data.tables.values() for own in _named_in_table(Path(path), data.root)
        ]
    paths: list[Path] = []
    seen: set[Path] = set()
    for folder, folders, names in os.walk(data.root or "", followlinks=True):
        here = Path(folder)
        if here.resolve() in seen:  # links may lead in circles
            folders.clear()
            continue
        seen.add(here.resolve())
        paths += [here, *(here / name for name in names if Path(name).suffix.lower() in LISTS)]
    return sorted(paths)


def _named_in_table(table: Path, root: str | None) -> list[Path]:
    base = Path(root) if root else table.parent
    paths = [table]
    with contextlib.suppress(UserError, OSError, pa.ArrowInvalid):
        cells, _ = read_cells(table, column_names(table), {"image", "video"})
        if "video" in cells:
            paths += [base / name for name in sorted(set(cells["video"])) if name]
        if "image" in cells:
            paths += sorted({(base / name).parent for name in set(cells["image"]) if name})
    return [path for path in paths if _exists(path)]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that no file system would take
        return False
