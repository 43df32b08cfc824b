"""Scan a root for files and folders: videos and crop folders by name, frames by number."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipaffect.core.errors import UserError, raise_all
from clipaffect.core.hashing import digest
from clipaffect.core.names import composed
from clipaffect.dataset.manifest import VIDEO
from clipaffect.dataset.media import media_kind

# At most 999,999, nine hours at 30 a second: a date is no frame number.
FRAME_NAME = re.compile(r"0*([1-9]\d{0,5})\.(?:jpe?g|png)", re.IGNORECASE)


def natural_order(name: str) -> tuple[tuple[tuple[int, int | str], ...], str]:
    """Sort key that orders video2 before video10; different names have different keys."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts), name


def read_lines(path: Path, fix: str) -> list[str]:
    """Lines of a text file, with or without a byte-order mark.

    Raises:
        UserError: it is not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"byte {error.start} is not valid text", where=path, fix=fix) from None


def files_below(root: Path) -> list[Path]:
    """All files below ``root`` that are not hidden; links to folders are followed once each."""
    if not root.is_dir():
        return []
    found: list[Path] = []

    def stop(error: OSError) -> None:
        raise error

    for here, _, names in walk_once(root, set(), stop):
        found += [here / name for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.exists())


def walk_once(
    root: Path, seen: set[str], onerror: Callable[[OSError], None]
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Like ``os.walk``, but into links to folders too, and into each folder once.

    Args:
        root: where to start.
        seen: the real paths of the folders so far, to which this adds.
        onerror: is told of folders that cannot be read.
    """
    for folder, folders, names in os.walk(root, followlinks=True, onerror=onerror):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
        else:
            seen.add(real)
            yield Path(folder), folders, names


def scan_videos(root: Path) -> dict[str, Path]:
    """Video files under ``root`` by name without suffix (see ``names.composed``).

    Raises:
        UserError: no such folder, or two files of one name.
    """
    if not root.is_dir():
        raise UserError(
            "the video folder does not exist",
            where=f"{root} (data.videos), relative to {Path.cwd()}",
            fix="correct data.videos; docs/data.md shows the layout",
        )
    problems: list[UserError] = []
    named: dict[str, list[Path]] = defaultdict(list)
    for path in files_below(root):
        if media_kind(path) == VIDEO:
            named[composed(path.stem)].append(path)
    for name, paths in named.items():
        if len(paths) > 1:
            problems.append(
                UserError(
                    f"{len(paths)} files have the video name '{name}'",
                    where=" and ".join(map(str, paths)),
                    fix="keep one of them",
                )
            )
    raise_all(problems)
    if not named:
        raise UserError(
            "the folder contains no video files (mp4, avi, mov, mkv, ...)",
            where=f"{root} (data.videos)",
            fix="set data.videos to the folder of videos; use data.images for folders of images",
        )
    return {name: paths[0] for name, paths in named.items()}


@dataclass(frozen=True)
class CropFolders:
    """Folders of crops.

    Attributes:
        used: by name, which is ``<video>`` or ``<video>_left``.
        shadowed: by name, folders of the same name under later roots, which are not read.
    """

    used: dict[str, Path]
    shadowed: dict[str, list[Path]]


def scan_crops(roots: tuple[str, ...]) -> CropFolders:
    """Folders of crops under ``roots``, at any depth; the first of several of one name is used.

    A folder that holds an image of a frame's name is one; so is an empty folder. The images of a
    folder are not listed: 594 folders of Aff-Wild2 take a fraction of a second, its 2.9 million
    files minutes on a network file system.

    Raises:
        UserError: no such root, or images directly under a root.
    """
    found: dict[str, list[tuple[Path, bool]]] = defaultdict(list)
    problems: list[UserError] = []
    for root in map(Path, roots):
        if not root.is_dir():
            problems.append(
                UserError(
                    "the folder of crops does not exist",
                    where=f"{root} (data.images), relative to {Path.cwd()}",
                    fix="correct data.images; docs/data.md shows the layout",
                )
            )
            continue
        leaves = list(_leaves(root, ()))
        if [folder for folder, _ in leaves] in ([], [root]):
            direct = leaves and leaves[0][1]
            what = "images lie directly in the folder" if direct else "there is no folder of crops"
            fix = "set it to the folder whose subfolders have the names of the videos"
            problems.append(UserError(what, where=f"{root} (data.images)", fix=fix))
            continue
        for folder, has_frames in leaves:
            found[composed(folder.name)].append((folder, has_frames))
    raise_all(problems)
    used, shadowed = {}, {}
    for name, folders in found.items():
        # An empty folder (an archive's leftover) never hides a full one.
        ranked = sorted(folders, key=lambda entry: not entry[1])
        used[name] = ranked[0][0]
        if len(ranked) > 1:
            shadowed[name] = [folder for folder, _ in ranked[1:]]
    return CropFolders(used, shadowed)


def _leaves(folder: Path, above: tuple[Path, ...]) -> Iterator[tuple[Path, bool]]:
    """Folders that contain frames (True), or nothing at all (False).

    Links are followed, but not in circles.
    A folder with a frame is not read to its end, unless its count of links says that there are
    folders below it (file systems that do not count them give 1).
    """
    here = folder.resolve()
    if here in above:
        return
    folders = []
    has_frames, is_empty = False, True
    has_folders = folder.stat().st_nlink > 2
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            is_empty = False
            if FRAME_NAME.fullmatch(entry.name):
                has_frames = True
                if not has_folders:
                    break
            elif entry.is_dir():
                folders.append(Path(entry.path))
    if has_frames or is_empty:
        yield folder, has_frames
    for below in sorted(folders):
        yield from _leaves(below, (*above, here))


@dataclass(frozen=True)
class FrameFiles:
    """The images of a folder.

    Attributes:
        numbers: (n,) int32 frame numbers, ascending, counted from 1.
        names: (n,) file names.
        others: files whose names are no frame's.
        last: the highest frame number, also of images without one before it; 0 without any image.
    """

    numbers: np.ndarray
    names: list[str]
    others: list[str]
    last: int


def list_frames(folder: Path, limit: int = 0) -> FrameFiles:
    """Images by frame number, the first ``limit`` numbers if it is not 0.

    Raises:
        UserError: two files are one frame (00001.jpg and 1.png).
    """
    found: list[tuple[int, str]] = []
    others = []
    last = 0
    for name in os.listdir(folder):  # noqa: PTH208 - a Path for each of 2.9 million costs minutes
        if match := FRAME_NAME.fullmatch(name):
            number = int(match[1])
            last = max(last, number)
            if not limit or number <= limit:
                found.append((number, name))
        elif not name.startswith("."):
            others.append(name)
    found.sort()
    numbers = np.array([number for number, _ in found], np.int32)
    twice = np.flatnonzero(numbers[1:] == numbers[:-1])
    if len(twice):
        first, second = found[twice[0]], found[twice[0] + 1]
        raise UserError(
            f"'{first[1]}' and '{second[1]}' are the same frame, {first[0]}",
            where=folder,
            fix="keep one of them",
        )
    last = min(last, limit) if limit else last
    return FrameFiles(numbers, [name for _, name in found], sorted(others), last)


def folder_state(folder: Path, limit: int = 0) -> str:
    """Digest of the names and sizes of a folder's images, on which its frames depend."""
    names = list_frames(folder, limit).names
    return digest([[name, os.stat(folder / name).st_size] for name in names])  # noqa: PTH116
