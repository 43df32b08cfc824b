"""What the index of a data set depends on, without reading it: asked at every call of Snakemake."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from clipaffect.config.data import Data
from clipaffect.dataset import aff_wild2
from clipaffect.dataset.files import VIDEO_SUFFIXES
from clipaffect.digest import digest
from clipaffect.tasks import Task

LISTS = frozenset((".csv", ".txt"))


def inventory(data: Data, tasks: Sequence[Task]) -> str:
    """Digest of the names, sizes and times of the files that the index depends on.

    What is missing or wrong is left to ``read_dataset``.
    """
    is_aff_wild2 = data.format == "aff_wild2"
    states = []
    for path in aff_wild2.named_files(data, tasks) if is_aff_wild2 else _named_files(data):
        if path.exists():
            state = path.stat()
            size = 0 if path.is_dir() else state.st_size
            states.append([os.fsencode(path).hex(), size, state.st_mtime_ns])
    return digest(states)


def _named_files(data: Data) -> list[Path]:
    """The table, and below the root every folder, video and list.

    Images are noticed by their folder's time, which an added or removed one changes.
    """
    paths = [Path(data.table)] if data.table else []
    root = Path(data.root) if data.root else paths[0].parent
    for folder, _, names in os.walk(root, followlinks=True):
        here = Path(folder)
        paths.append(here)
        for name in sorted(names):
            if Path(name).suffix.lower() in VIDEO_SUFFIXES | LISTS:
                paths.append(here / name)
    return sorted(paths)
