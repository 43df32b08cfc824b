"""Find duplicate recordings and images by comparing their ends and sizes."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from clipaffect.dataset.files import FrameFiles
from clipaffect.dataset.tree import Tree, folder_name

HEAD = 65536  # bytes of a file's two ends that tell one video from another
COMPARED = 20_000  # single images; more would be read for minutes


def find_duplicates(
    tree: Tree, folders: list[Path], files: Callable[[Path], FrameFiles]
) -> list[list[str]]:
    """Names of videos, or of folders of crops, whose ends and sizes are the same."""
    found: dict[tuple[object, ...], list[str]] = defaultdict(list)
    by_size: dict[int, list[Path]] = defaultdict(list)
    by_path = {path: name for name, path in tree.videos.items()}
    if len(tree.images) <= COMPARED:
        by_path |= {path: name for name, path in tree.images.items()}
    for path in by_path:
        by_size[path.stat().st_size].append(path)
    for size, paths in by_size.items():
        for path in paths if size and len(paths) > 1 else []:
            with path.open("rb") as file:
                ends = file.read(HEAD)
                file.seek(max(0, size - HEAD))
                ends += file.read(HEAD)
            found["file", size, hashlib.sha256(ends).hexdigest()].append(by_path[path])
    by_count: dict[tuple[int, int], list[Path]] = defaultdict(list)
    for folder in folders:
        own = files(folder)
        if len(own.numbers):
            by_count[len(own.numbers), own.last].append(folder)
    for count, same in by_count.items():
        for folder in same if len(same) > 1 else []:
            names = files(folder).names
            sample = [_bytes(folder / names[k]) for k in (0, len(names) // 2, -1)]
            if any(sample):
                sha = hashlib.sha256(b"\0".join(sample)).hexdigest()
                found["crops", *count, sha].append(folder.name)
    return sorted(sorted(names) for names in found.values() if len(names) > 1)


def in_two_splits(duplicates: list[list[str]], labels: dict[str, pd.DataFrame]) -> list[list[str]]:
    """The duplicate recordings that are in two splits of a task."""
    splits: dict[tuple[str, str], set[str]] = defaultdict(set)
    for task, rows in labels.items() if duplicates else ():
        owners = rows[["split", "video", "person"]].drop_duplicates()
        for split, video, person in owners.itertuples(index=False):
            splits[task, str(video)].add(split)
            splits[task, folder_name(str(video), str(person))].add(split)
    return [
        names
        for names in duplicates
        if any(len(set().union(*(splits[t, name] for name in names))) > 1 for t in labels)
    ]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # a link into the void: the image is told when it is embedded
        return b""
