"""Find the videos, crops and annotations of an Aff-Wild2 tree, of any edition of the challenge.

Annotations lie in ``<challenge folder>/{Train_Set,Validation_Set}/<video>[_left|_right].txt``,
crops in ``<video>[_left|_right]/00001.jpg``; ``_left`` and ``_right`` are two people in one video,
so the source video is the group that a split must not cut.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from clipaffect.config.data import Data, SplitFiles
from clipaffect.dataset.files import (
    CropFolders,
    check_name,
    files_below,
    natural_order,
    scan_crops,
    scan_videos,
)
from clipaffect.dataset.multitask import read_people
from clipaffect.dataset.test_list import TestList, read_test_list
from clipaffect.digest import digest
from clipaffect.errors import UserError, raise_all
from clipaffect.tasks import TASKS, Task, TaskName

SPLITS = {"Train_Set": "train", "Validation_Set": "validation"}
SIDES = ("left", "right")
SIDE_END = re.compile(r"_(?:left|right)$", re.IGNORECASE)


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
    """What lies on disk.

    Attributes:
        videos: video files by name.
        crops: folders of crops by name.
        annotations: one for each person, video and task.
        test: by task, what is to be predicted.
    """

    videos: dict[str, Path]
    crops: CropFolders
    annotations: list[AnnotationFile]
    test: dict[TaskName, TestList] = field(default_factory=dict)

    def people(self) -> dict[str, list[str]]:
        """Every video that is annotated or to be predicted, in natural order, and its people."""
        found: dict[str, set[str]] = defaultdict(set)
        for annotation in self.annotations:
            found[annotation.video].add(annotation.person)
        for listed in self.test.values():
            for video, person in listed.people():
                found[video].add(person)
        return {video: sorted(found[video]) for video in sorted(found, key=natural_order)}

    def crop_folder(self, video: str, person: str) -> Path | None:
        """Where a person's crops lie, if there are any."""
        return self.crops.used.get(folder_name(video, person))

    def is_missing(self, video: str, person: str) -> bool:
        """Whether there are neither crops of a person nor the video."""
        return video not in self.videos and self.crop_folder(video, person) is None


def folder_name(video: str, person: str) -> str:
    """The name of a person's folder of crops, annotation file and rows in a submission."""
    return f"{video}_{person}" if person else video


def split_name(name: str, videos: dict[str, Path]) -> tuple[str, str]:
    """The video and person of a name such as ``4-30-1920x1080_left``.

    The end names the side, unless a video file has the whole name.
    """
    if name not in videos:
        for side in SIDES:
            if name.endswith(f"_{side}"):
                return name.removesuffix(f"_{side}"), side
    return name, ""


def scan_tree(data: Data, tasks: tuple[TaskName, ...]) -> Tree:
    """Find every video, folder of crops and annotation file, and check that they fit together.

    Raises:
        UserError: every problem found, each with its file and mend.
    """
    videos = scan_videos(Path(data.videos)) if data.videos else {}
    crops = scan_crops(data.images)
    problems: list[UserError] = []
    annotations: list[AnnotationFile] = []
    for name in tasks:
        if data.multitask:
            where = Path(data.multitask.train)
            found = list(_multitask(data.multitask, name, videos))
        else:
            where = _task_folder(Path(data.annotations), TASKS[name])
            found = _scan_task(where, name, videos, problems)
        problems += _misplaced(found, name, where)
        annotations += found
    test = {
        name: read_test_list(Path(path), TASKS[name], lambda name: split_name(name, videos))
        for name, path in data.test.items()
        if name in tasks
    }
    problems += _unknown_length(test, videos, crops)
    raise_all(problems)
    annotations.sort(key=lambda a: (a.task, natural_order(a.video), a.person))
    return Tree(videos, crops, annotations, test)


def _unknown_length(
    test: dict[TaskName, TestList], videos: dict[str, Path], crops: CropFolders
) -> Iterator[UserError]:
    """Names in a list of videos of which there is neither a video nor a crop to count frames by."""
    for listed in test.values():
        for location, video, person, frame, line in listed.rows.itertuples(index=False):
            if not frame and video not in videos and folder_name(video, person) not in crops.used:
                yield UserError(
                    f"there are neither crops nor a video of '{location}'",
                    where=f"{listed.path}, line {line}",
                    mend="correct the name (a folder's or file's, without its ending), or give "
                    "the organisers' sample file, which says which rows it has",
                )


def _task_folder(root: Path, task: Task) -> Path:
    if not root.is_dir():
        raise UserError(
            "no such folder of annotations",
            where=f"{root} (data.annotations), seen from {Path.cwd()}",
            mend="set data.annotations to the folder that holds "
            f"{' or '.join(task.folders)} (write paths in full: ~ is not expanded)",
        )
    found = [root / folder for folder in task.folders if (root / folder).is_dir()]
    if len(found) > 1:
        raise UserError(
            f"annotations of {task.name} lie in two folders, of two editions",
            where=" and ".join(map(str, found)),
            mend="keep one of them there",
        )
    if found:
        return found[0]
    raise UserError(
        f"no annotations for {task.name}: none of the folders {', '.join(task.folders)}",
        where=f"{root} (data.annotations), seen from {Path.cwd()}",
        mend=f"set data.annotations to the folder above them, or remove {task.name} from "
        "training.tasks",
    )


def _scan_task(
    folder: Path, task: TaskName, videos: dict[str, Path], problems: list[UserError]
) -> list[AnnotationFile]:
    """The annotation files of a task; names that cannot be kept go to ``problems``."""
    found = []
    for sub_folder, split in SPLITS.items():
        for path in files_below(folder / sub_folder):
            if path.suffix.lower() != ".txt":
                continue
            if problem := check_name(path, folder):
                problems.append(problem)
                continue
            video, person = split_name(path.stem, videos)
            found.append(AnnotationFile(path, task, split, video, person))
    return found


def _multitask(
    files: SplitFiles, task: TaskName, videos: dict[str, Path]
) -> Iterator[AnnotationFile]:
    for split, file in (("train", files.train), ("validation", files.validation)):
        for name in read_people(Path(file)):
            yield AnnotationFile(Path(file), task, split, *split_name(name, videos))


def _misplaced(found: list[AnnotationFile], task: TaskName, where: Path) -> Iterator[UserError]:
    """Videos in both splits, people annotated twice, splits without a file."""
    splits: dict[str, dict[str, Path]] = defaultdict(dict)
    people: dict[tuple[str, str, str], list[Path]] = defaultdict(list)
    for annotation in found:
        # also where a video file's own name has a side, or one is written in capitals
        source = SIDE_END.sub("", annotation.video).casefold()
        splits[source][annotation.split] = annotation.path
        people[annotation.split, annotation.video, annotation.person].append(annotation.path)
    for video, by_split in splits.items():
        if len(by_split) > 1:
            yield UserError(
                f"the video '{video}' is in both splits of {task}",
                where=" and ".join(map(str, by_split.values())),
                mend="keep one: no person may be in both training and validation",
            )
    for (_, video, person), paths in people.items():
        if len(paths) > 1:
            yield UserError(
                f"{len(paths)} annotations of '{folder_name(video, person)}' for {task}",
                where=" and ".join(map(str, paths)),
                mend="keep one of them",
            )
    for split in SPLITS.values():
        if not any(annotation.split == split for annotation in found):
            yield UserError(
                f"no annotation files for the {split} split of {task}",
                where=where,
                mend=f"put them into its folder {' or '.join(SPLITS)}",
            )


def inventory(data: Data, tasks: tuple[TaskName, ...]) -> str:
    """Digest of what the index depends on: names, sizes and times of videos and annotations.

    Of a folder of crops it is the folder's own time, which an added or removed image changes.
    What is missing or wrong is left to ``scan_tree``.
    """
    paths = [Path(path) for path in data.test.values()]
    paths += [
        Path(p) for files in data.frame_lists.values() for p in (files.train, files.validation)
    ]
    if data.videos:
        paths += files_below(Path(data.videos))
    if data.multitask:
        paths += [Path(data.multitask.train), Path(data.multitask.validation)]
    else:
        folders = [Path(data.annotations) / folder for t in tasks for folder in TASKS[t].folders]
        paths += [path for folder in folders for path in files_below(folder)]
    with contextlib.suppress(UserError):
        paths += scan_crops(data.images).used.values()
    states = []
    for path in paths:
        if path.exists():
            state = path.stat()
            size = 0 if path.is_dir() else state.st_size
            states.append([os.fsencode(path).hex(), size, state.st_mtime_ns])
    return digest(states)
