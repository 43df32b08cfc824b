"""Find the videos and annotations of an Aff-Wild2 tree.

Annotations lie in ``<challenge folder>/{Train_Set,Validation_Set}/<video>[_left|_right].txt``;
``_left`` and ``_right`` are two people in one video, so the source video is the group that a
split must not cut.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipaffect.config.models import Data
from clipaffect.digest import digest
from clipaffect.errors import UserError, raise_all
from clipaffect.tasks import TASKS, Task, TaskName

VIDEO_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in "mp4 avi mov mkv webm m4v mpg mpeg wmv flv ogv ts".split()  # noqa: SIM905
)
SPLITS = {"Train_Set": "train", "Validation_Set": "validation"}
SIDES = ("left", "right")


@dataclass(frozen=True)
class AnnotationFile:
    """Labels of one person in one video for one task; ``person`` is '', 'left' or 'right'."""

    path: Path
    task: TaskName
    split: str
    video: str
    person: str


@dataclass(frozen=True)
class Tree:
    """What lies on disk: video files by name, and every annotation file."""

    videos: dict[str, Path]
    annotations: list[AnnotationFile]


def natural_order(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that puts video2 before video10."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts)


def _check_name(path: Path, root: Path) -> UserError | None:
    name = str(path.relative_to(root))
    shown = name.encode("utf-8", "surrogateescape").decode("ascii", "backslashreplace")
    if any(0xDC80 <= ord(c) <= 0xDCFF for c in name):
        problem = f"the file name '{shown}' is not UTF-8"
    elif not name.isprintable():
        problem = f"the file name {name!a} has control characters"
    else:
        return None
    return UserError(problem, where=root, mend="rename the file (and its annotations)")


def _files(root: Path) -> list[Path]:
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
    for path in _files(root):
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            continue
        problem = _check_name(path, root)
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


def _task_folder(root: Path, task: Task) -> Path:
    for folder in task.folders:
        if (root / folder).is_dir():
            return root / folder
    raise UserError(
        f"no annotations for {task.name}: none of the folders {', '.join(task.folders)}",
        where=f"{root} (data.annotations), seen from {Path.cwd()}",
        mend=f"set data.annotations to the folder that holds them, or remove {task.name} from "
        "training.tasks",
    )


def scan_tree(data: Data, tasks: tuple[TaskName, ...]) -> Tree:
    """Find every video and annotation file and check that they fit together.

    Raises:
        UserError: every problem found, each with its file and mend.
    """
    videos = scan_videos(Path(data.videos))
    problems: list[UserError] = []
    annotations: list[AnnotationFile] = []
    for name in tasks:
        folder = _task_folder(Path(data.annotations), TASKS[name])
        found = _scan_task(folder, name, videos, problems)
        problems += _misplaced(found, name, folder)
        annotations += found
    raise_all(problems)
    annotations.sort(key=lambda a: (a.task, natural_order(a.video), a.person))
    if data.subset:
        annotations = _subset(annotations, data.subset.train, data.subset.validation)
    return Tree(videos, annotations)


def _scan_task(
    folder: Path, task: TaskName, videos: dict[str, Path], problems: list[UserError]
) -> list[AnnotationFile]:
    """The annotation files of a task; names that cannot be kept go to ``problems``."""
    found = []
    for sub_folder, split in SPLITS.items():
        for path in _files(folder / sub_folder):
            if path.suffix.lower() != ".txt":
                continue
            if problem := _check_name(path, folder):
                problems.append(problem)
                continue
            video, person = path.stem, ""
            if video not in videos:
                for side in SIDES:
                    if video.endswith(f"_{side}"):
                        video, person = video.removesuffix(f"_{side}"), side
                        break
            found.append(AnnotationFile(path, task, split, video, person))
    return found


def _misplaced(found: list[AnnotationFile], task: TaskName, folder: Path) -> Iterator[UserError]:
    """Videos in both splits, people annotated twice, splits without a file."""
    splits: dict[str, dict[str, Path]] = defaultdict(dict)
    people: dict[tuple[str, str, str], list[Path]] = defaultdict(list)
    for annotation in found:
        splits[annotation.video][annotation.split] = annotation.path
        people[annotation.split, annotation.video, annotation.person].append(annotation.path)
    for video, by_split in splits.items():
        if len(by_split) > 1:
            yield UserError(
                f"the video '{video}' is in both splits of {task}",
                where=" and ".join(map(str, by_split.values())),
                mend="keep one: no person may be in both training and validation",
            )
    for paths in people.values():
        if len(paths) > 1:
            yield UserError(
                f"{len(paths)} annotations of '{paths[0].stem}' for {task}",
                where=" and ".join(map(str, paths)),
                mend="keep one of them",
            )
    for split in SPLITS.values():
        if not any(annotation.split == split for annotation in found):
            yield UserError(
                f"no annotation files for the {split} split of {task}",
                where=folder,
                mend=f"put them into its folder {' or '.join(SPLITS)}",
            )


def _subset(annotations: list[AnnotationFile], train: int, validation: int) -> list[AnnotationFile]:
    wanted: dict[tuple[str, str], set[str]] = {}
    for task in {a.task for a in annotations}:
        for split, count in (("train", train), ("validation", validation)):
            names = {a.video for a in annotations if (a.task, a.split) == (task, split)}
            wanted[task, split] = set(sorted(names, key=natural_order)[:count])
    return [a for a in annotations if a.video in wanted[a.task, a.split]]


def inventory(data: Data, tasks: tuple[TaskName, ...]) -> str:
    """Digest of every video's and annotation's name, size and time: what the index depends on.

    What is missing or wrong is left to ``scan_tree``.
    """
    roots = [Path(data.videos)]
    roots += [Path(data.annotations) / folder for t in tasks for folder in TASKS[t].folders]
    states = []
    for path in (path for root in roots for path in _files(root)):
        state = path.stat()
        states.append([os.fsencode(path).hex(), state.st_size, state.st_mtime_ns])
    return digest(states)
