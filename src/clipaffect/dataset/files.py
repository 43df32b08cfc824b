"""Files and folders below a root: videos by name, folders of crops by name, frames by number."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipaffect.errors import UserError, raise_all

VIDEO_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in "mp4 avi mov mkv webm m4v mpg mpeg wmv flv ogv ts".split()  # noqa: SIM905
)
FRAME_NAME = re.compile(r"0*([1-9]\d{0,8})\.(?:jpe?g|png)", re.IGNORECASE)


def natural_order(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts video2 before video10."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts)


def check_name(path: Path, root: Path) -> UserError | None:
    """What is wrong with a path below ``root`` that tables and pages could not show."""
    name = str(path.relative_to(root))
    shown = name.encode("utf-8", "surrogateescape").decode("ascii", "backslashreplace")
    if any(0xDC80 <= ord(c) <= 0xDCFF for c in name):
        problem = f"the file name '{shown}' is not UTF-8"
    elif not name.isprintable():
        problem = f"the file name {name!a} has control characters"
    else:
        return None
    return UserError(problem, where=root, mend="rename the file (and its annotations)")


def files_below(root: Path) -> list[Path]:
    """Every file below ``root`` that is not hidden; links to folders are followed, once each."""
    if not root.is_dir():
        return []
    found: list[Path] = []
    seen: set[Path] = set()

    def stop(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(root, followlinks=True, onerror=stop):
        here = Path(folder).resolve()
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        found += [Path(folder) / name for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.exists())


def scan_videos(root: Path) -> dict[str, Path]:
    """Video files under ``root`` by name without suffix.

    Raises:
        UserError: no such folder, a name that cannot be kept, or two files of one name.
    """
    if not root.is_dir():
        raise UserError(
            "no such folder of videos",
            where=f"{root} (data.videos), seen from {Path.cwd()}",
            mend="set data.videos; docs/data.md shows the layout",
        )
    problems: list[UserError] = []
    named: dict[str, list[Path]] = defaultdict(list)
    for path in files_below(root):
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            continue
        problem = check_name(path, root)
        if problem:
            problems.append(problem)
        else:
            named[path.stem].append(path)
    for name, paths in named.items():
        if len(paths) > 1:
            problems.append(
                UserError(
                    f"{len(paths)} files are the video '{name}'",
                    where=" and ".join(map(str, paths)),
                    mend="keep one of them",
                )
            )
    raise_all(problems)
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
    """Folders of crops under ``roots``, at any depth; of several of one name the first counts.

    A folder that holds an image of a frame's name is one; so is an empty folder. The images of a
    folder are not listed: 594 folders of Aff-Wild2 take a fraction of a second, its 2.9 million
    files minutes on a network file system.

    Raises:
        UserError: no such root, images directly under a root, a name that cannot be kept.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    problems: list[UserError] = []
    for root in map(Path, roots):
        if not root.is_dir():
            problems.append(
                UserError(
                    "no such folder of crops",
                    where=f"{root} (data.images), seen from {Path.cwd()}",
                    mend="set data.images; docs/data.md shows the layout",
                )
            )
            continue
        for folder in _leaves(root, set()):
            if folder == root:
                mend = "give the folder above it"
                problems.append(UserError("images lie directly in it", where=root, mend=mend))
            elif problem := check_name(folder, root):
                problems.append(problem)
            else:
                found[folder.name].append(folder)
    raise_all(problems)
    used = {name: folders[0] for name, folders in found.items()}
    return CropFolders(used, {n: folders[1:] for n, folders in found.items() if folders[1:]})


def _leaves(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Folders that hold frames, or nothing; links are followed, once each."""
    here = folder.resolve()
    if here in seen:
        return
    seen.add(here)
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if FRAME_NAME.fullmatch(entry.name):
                yield folder
                return
            if entry.is_dir():
                folders.append(Path(entry.path))
    if not folders:
        yield folder
    for below in sorted(folders):
        yield from _leaves(below, seen)


@dataclass(frozen=True)
class FrameFiles:
    """The images of a folder.

    Attributes:
        numbers: (n,) int32 frame numbers, ascending, counted from 1.
        names: (n,) file names.
        others: files whose names are no frame's.
    """

    numbers: np.ndarray
    names: list[str]
    others: list[str]

    @property
    def last(self) -> int:
        """The highest frame number; 0 without any."""
        return int(self.numbers[-1]) if len(self.numbers) else 0


def list_frames(folder: Path, limit: int = 0) -> FrameFiles:
    """Images by frame number, the first ``limit`` numbers if it is not 0.

    Raises:
        UserError: two files are one frame (00001.jpg and 1.png).
    """
    found: list[tuple[int, str]] = []
    others = []
    for name in os.listdir(folder):  # noqa: PTH208 - a Path for each of 2.9 million costs minutes
        if match := FRAME_NAME.fullmatch(name):
            number = int(match[1])
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
            f"'{first[1]}' and '{second[1]}' are both frame {first[0]}",
            where=folder,
            mend="keep one of them",
        )
    return FrameFiles(numbers, [name for _, name in found], sorted(others))
