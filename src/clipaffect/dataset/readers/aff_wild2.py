"""Find the videos, crops and annotations of Aff-Wild2, from any edition of the challenge.

Annotations lie in ``<challenge folder>/{Train_Set,Validation_Set}/<video>[_left|_right].txt``,
crops in ``<video>[_left|_right]/00001.jpg``; ``_left`` and ``_right`` are two people in one video,
so a split must keep the source video together.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from clipaffect.config.data import Data, SplitFiles
from clipaffect.core.errors import UserError, raise_all
from clipaffect.core.names import composed
from clipaffect.core.tasks import Task
from clipaffect.dataset.files import (
    CropFolders,
    files_below,
    natural_order,
    scan_crops,
    scan_videos,
)
from clipaffect.dataset.label_rows import FoundData, label_rows
from clipaffect.dataset.readers.annotation_files import read_annotation
from clipaffect.dataset.readers.multitask import read_multitask, read_people
from clipaffect.dataset.test_list import TestList, read_test_list
from clipaffect.dataset.tree import Annotation, Tree, folder_name

SPLITS = {"Train_Set": "train", "Validation_Set": "validation"}
SIDES = ("left", "right")
# Names of a task's annotation folder, by edition of the challenge.
FOLDERS = {
    "EXPR": ("EXPR_Recognition_Challenge", "EXPR_Classification_Challenge"),
    "AU": ("AU_Detection_Challenge",),
}
SIDE_END = re.compile(r"_(?:left|right)$", re.IGNORECASE)


def split_name(name: str, videos: dict[str, Path]) -> tuple[str, str]:
    """The video and person of a name such as ``4-30-1920x1080_left``.

    The suffix gives the side, unless a video file has the whole name.
    """
    if name not in videos:
        for side in SIDES:
            if name.endswith(f"_{side}"):
                return name.removesuffix(f"_{side}"), side
    return name, ""


def scan_tree(data: Data, tasks: Sequence[Task]) -> Tree:
    """Find every video, folder of crops and annotation file, and check that they fit together.

    Raises:
        UserError: there are problems; each is listed with its file and fix.
    """
    videos = scan_videos(Path(data.videos)) if data.videos else {}
    crops = scan_crops(data.images)
    problems: list[UserError] = []
    annotations: list[Annotation] = []
    others: list[Path] = []
    for task in tasks:
        if data.multitask:
            where = Path(data.multitask.train)
            found = list(_multitask(data.multitask, task.name, videos))
        else:
            where = _task_folder(Path(data.annotations), task.name)
            found = _scan_task(where, task.name, videos, problems, others)
        problems += _misplaced(found, task.name, where)
        annotations += found
    test = {
        task.name: read_test_list(
            Path(data.test[task.name]), task, lambda name: split_name(composed(name), videos)
        )
        for task in tasks
        if task.name in data.test
    }
    problems += _unknown_length(test, videos, crops)
    raise_all(problems)
    annotations.sort(key=lambda a: (a.task, natural_order(a.video), a.person))
    respelled = sum(a.video in videos and videos[a.video].stem != a.video for a in annotations)
    note = f"{respelled:,} video names encode accents differently from the files; they match."
    notes = (note,) if respelled else ()
    return Tree(videos, crops, annotations, test, notes=notes, other_files=tuple(others))


def _unknown_length(
    test: dict[str, TestList], videos: dict[str, Path], crops: CropFolders
) -> Iterator[UserError]:
    """Names in a list of videos that have neither a video nor crops from which to count frames."""
    for listed in test.values():
        for location, video, person, frame, line in listed.rows.itertuples(index=False):
            if not frame and video not in videos and folder_name(video, person) not in crops.used:
                yield UserError(
                    f"there are no crops and no video for '{location}'",
                    where=f"{listed.path}, line {line}",
                    fix="correct the name (of a folder, or of a file without its extension), or "
                    "use the organisers' sample file, which lists its rows",
                )


def _task_folder(root: Path, task: str) -> Path:
    names = FOLDERS[task]
    if not root.is_dir():
        raise UserError(
            "the annotation folder does not exist",
            where=f"{root} (data.annotations), relative to {Path.cwd()}",
            fix="set data.annotations to the folder that contains "
            f"{' or '.join(names)} (write the full path: ~ is not expanded)",
        )
    found = [root / folder for folder in names if (root / folder).is_dir()]
    if len(found) > 1:
        raise UserError(
            f"there are two folders of annotations for {task}, from two editions",
            where=" and ".join(map(str, found)),
            fix="keep only one of them",
        )
    if found:
        return found[0]
    raise UserError(
        f"no annotations for {task}: none of the folders {', '.join(names)} exists",
        where=f"{root} (data.annotations), relative to {Path.cwd()}",
        fix=f"set data.annotations to their parent folder, or remove {task} from training.tasks",
    )


def _scan_task(
    folder: Path,
    task: str,
    videos: dict[str, Path],
    problems: list[UserError],
    others: list[Path],
) -> list[Annotation]:
    """The annotation files of a task; names that cannot be kept go to ``problems``.

    Files of another kind go to ``others``.
    """
    found = []
    for sub_folder, split in SPLITS.items():
        for path in files_below(folder / sub_folder):
            if path.suffix.lower() != ".txt":
                others.append(path)
                continue
            video, person = split_name(composed(path.stem), videos)
            found.append(Annotation(path, task, split, video, person))
    return found


def _multitask(files: SplitFiles, task: str, videos: dict[str, Path]) -> Iterator[Annotation]:
    for split, file in (("train", files.train), ("validation", files.validation)):
        for name in read_people(Path(file)):
            yield Annotation(Path(file), task, split, *split_name(composed(name), videos))


def _misplaced(found: list[Annotation], task: str, where: Path) -> Iterator[UserError]:
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
                fix="keep one of them: no person may be in both training and validation",
            )
    for (_, video, person), paths in people.items():
        if len(paths) > 1:
            yield UserError(
                f"'{folder_name(video, person)}' has {len(paths)} annotations for {task}",
                where=" and ".join(map(str, paths)),
                fix="keep one of them",
            )
    for split in SPLITS.values():
        if not any(annotation.split == split for annotation in found):
            yield UserError(
                f"no annotation files for the {split} split of {task}",
                where=where,
                fix=f"put them in the folder {' or '.join(SPLITS)}",
            )


def read_labels(tree: Tree, task: Task, data: Data) -> pd.DataFrame:
    """Every annotation row of a task: split, group, video, person, frame, labels, annotated.

    Raises:
        UserError: every wrong annotation.
    """
    problems: list[UserError] = []
    parts: list[pd.DataFrame] = []
    own = [a for a in tree.annotations if a.task == task.name]
    for annotation in own:
        try:
            rows = _read_rows(annotation, task, data.multitask is not None)
        except UserError as problem:
            problems.append(problem)
            continue
        if data.frame_limit:
            rows = rows[rows["frame"] <= data.frame_limit]
        parts.append(rows)
    raise_all(problems)
    sizes = [len(part) for part in parts]
    keys = {
        "split": [a.split for a in own],
        "group": [SIDE_END.sub("", a.video) for a in own],
        "video": [a.video for a in own],
        "person": [a.person for a in own],
    }
    return label_rows(pd.concat(parts, ignore_index=True), task, keys, sizes)


def _read_rows(annotation: Annotation, task: Task, multitask: bool) -> pd.DataFrame:
    """One person's rows: frame, label columns."""
    if multitask:
        name = folder_name(annotation.video, annotation.person)
        return read_multitask(annotation.path, name, task)
    rows = pd.DataFrame(read_annotation(annotation.path, task), columns=list(task.columns))
    rows.insert(0, "frame", np.arange(1, len(rows) + 1, dtype=np.int32))
    return rows


def named_files(data: Data, tasks: Sequence[Task]) -> list[Path]:
    """Files and folders whose names, sizes and times the index depends on.

    Of a folder of crops it is the folder's own time, which an added or removed image changes.
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
        folders = [Path(data.annotations) / f for task in tasks for f in FOLDERS[task.name]]
        paths += [path for folder in folders for path in files_below(folder)]
    with contextlib.suppress(UserError):
        paths += scan_crops(data.images).used.values()
    return paths


def read(data: Data, tasks: Sequence[Task]) -> FoundData:
    """See ``registry.Reader``."""
    tree = scan_tree(data, tasks)
    labels = {task.name: read_labels(tree, task, data) for task in tasks}
    return FoundData(tree, labels, "the annotations")
