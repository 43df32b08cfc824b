"""What a data set holds, frame by frame, before any image is opened: names and numbers alone."""

from __future__ import annotations

import contextlib
import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from clipaffect.config.data import Data
from clipaffect.dataset import published
from clipaffect.dataset.aff_wild2 import Tree, folder_name
from clipaffect.dataset.files import FrameFiles, list_frames
from clipaffect.dataset.frame_lists import compare_list
from clipaffect.dataset.published import published_counts, verdict
from clipaffect.errors import UserError
from clipaffect.tasks import TASKS, TaskName
from clipaffect.video import stated_frames

HEAD = 65536  # bytes of a file's two ends that tell one video from another
FEW, SAMPLED = 5, 50


def collect(data: Data, tree: Tree, labels: dict[TaskName, pd.DataFrame]) -> dict[str, Any]:
    """Everything that the preflight says of the data, as JSON values.

    Args:
        data: the configuration's section.
        tree: what lies on disk.
        labels: every annotation row by task.
    """
    limit = data.frame_limit

    @cache
    def files(folder: Path) -> FrameFiles:
        return list_frames(folder, limit)

    @cache
    def video_frames(video: str) -> int:
        stated = stated_frames(tree.videos[video])
        return min(stated, limit) if limit else stated

    # Of data that is said to be the edition whose sizes are known, and whole.
    compare = data.edition == published.EDITION and data.subset is None
    tasks = {}
    lists = {}
    for task, rows in labels.items():
        has_image, beyond = _images(tree, rows, files, video_frames)
        tasks[task] = {
            str(split): _split(task, str(split), rows.iloc[at], has_image[at], beyond[at], compare)
            for split, at in _positions(rows["split"]).items()
        }
        for split in ("train", "validation"):
            if task in data.frame_lists and not data.subset:
                at = ((rows["split"] == split) & rows["annotated"]).to_numpy()
                path = Path(getattr(data.frame_lists[task], split))
                known = np.nan_to_num(has_image, nan=1.0).astype(bool)
                lists[f"{task} {split}"] = compare_list(path, rows[at & known], TASKS[task])
    people = [(video, person) for video, own in tree.people().items() for person in own]
    searched = _searched(tree)
    folders = [folder for owner in people if (folder := tree.crop_folder(*owner))]
    missing = sorted(folder_name(*owner) for owner in people if tree.is_missing(*owner))
    duplicates = _duplicates(tree, folders, files)
    odd = {str(folder): files(folder).others for folder in folders if files(folder).others}
    return {
        "videos_found": len(tree.videos),
        "crop_folders_found": len(tree.crops.used),
        "crop_folders_used": len(folders),
        "images_used": sum(len(files(folder).numbers) for folder in folders),
        "crop_sizes": _crop_sizes(folders, files),
        "frames_to_decode": sum(video_frames(video) for video in searched),
        "frames_to_search": sum(video_frames(video) * n for video, n in searched.items()),
        "videos_missing": missing,
        "near_names": _near_names(missing, tree),
        "empty": sorted(
            [str(tree.videos[name]) for name in searched
             if not tree.videos[name].stat().st_size]
            + [str(folder) for folder in folders if not files(folder).last]
        ),
        "videos_not_annotated": len(tree.videos.keys() - {video for video, _ in people}),
        "shadowed": {n: [str(p) for p in paths] for n, paths in tree.crops.shadowed.items()},
        "files_of_other_names": {folder: names[:FEW] for folder, names in odd.items()},
        "duplicates": duplicates,
        "duplicates_in_both_splits": [d for d in duplicates if _spans_splits(d, tree)],
        "in_test_and_training": _leaks(tree),
        "tasks": tasks,
        "test": {
            task: {
                "people": len(listed.people()),
                "rows": int((listed.rows["frame"] > 0).sum()),
                "without_image": _rows_without_image(listed.rows, tree, files),
            }
            for task, listed in tree.test.items()
        },
        "frame_lists": lists,
    }  # fmt: skip


def _positions(column: pd.Series) -> dict[Any, np.ndarray]:
    return {value: np.flatnonzero(column == value) for value in column.unique()}


def _searched(tree: Tree) -> dict[str, int]:
    """Videos that are decoded, and how many people without crops are looked for in each."""
    found: dict[str, int] = {}
    for video, people in tree.people().items():
        count = sum(tree.crop_folder(video, person) is None for person in people)
        if count and video in tree.videos:
            found[video] = count
    return found


def first_searched(tree: Tree) -> Path | None:
    """A video that will be decoded, if there is one."""
    return next((tree.videos[video] for video in _searched(tree)), None)


def _images(
    tree: Tree,
    rows: pd.DataFrame,
    files: Callable[[Path], FrameFiles],
    video_frames: Callable[[str], int],
) -> tuple[np.ndarray, np.ndarray]:
    """For each label row: 1 with an image, 0 without, NaN not known before detection; beyond."""
    has_image, beyond = np.full(len(rows), np.nan), np.zeros(len(rows), bool)
    frames = rows["frame"].to_numpy()
    groups = rows.reset_index(drop=True).groupby(["video", "person"], observed=True).indices
    for (video, person), at in groups.items():
        folder = tree.crop_folder(video, person)
        if folder is not None:
            own = files(folder)
            has_image[at] = np.isin(frames[at], own.numbers)
            beyond[at] = frames[at] > own.last
        elif video in tree.videos:
            beyond[at] = frames[at] > video_frames(video)
            has_image[at[beyond[at]]] = 0
        else:
            has_image[at] = 0
    return has_image, beyond


def _split(
    task: TaskName,
    split: str,
    rows: pd.DataFrame,
    has_image: np.ndarray,
    beyond: np.ndarray,
    compare: bool,
) -> dict[str, Any]:
    annotated = rows["annotated"].to_numpy()
    known = not np.isnan(has_image).any()
    there = np.nan_to_num(has_image, nan=1.0).astype(bool)
    counts = TASKS[task].frames_showing(rows[annotated & there])
    with_image = int((annotated & there).sum()) if known else None
    kind, text = "other", ""
    if compare:
        kind, text = verdict(task, split, int(annotated.sum()), with_image, counts)
    return {
        "videos": int(rows["video"].nunique()),
        "people": len(rows[["video", "person"]].drop_duplicates()),
        "rows": len(rows),
        "annotated": int(annotated.sum()),
        "with_image": with_image,
        "without_image": int((annotated & ~there & ~beyond).sum()),
        "beyond": int((annotated & beyond).sum()),
        "counts": counts,
        "published": published_counts(task, split) if compare else None,
        "verdict": kind,
        "sentence": text,
    }


def _duplicates(
    tree: Tree, folders: list[Path], files: Callable[[Path], FrameFiles]
) -> list[list[str]]:
    """Names of videos, or of folders of crops, that look the same from their ends and sizes."""
    found: dict[tuple[object, ...], list[str]] = defaultdict(list)
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in tree.videos.values():
        by_size[path.stat().st_size].append(path)
    for size, paths in by_size.items():
        for path in paths if size and len(paths) > 1 else []:
            with path.open("rb") as file:
                ends = file.read(HEAD)
                file.seek(max(0, size - HEAD))
                ends += file.read(HEAD)
            found["video", size, hashlib.sha256(ends).hexdigest()].append(path.name)
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


def _spans_splits(names: list[str], tree: Tree) -> bool:
    """Whether recordings that look the same are in training and in validation."""
    stems = {Path(name).stem for name in names} | set(names)
    splits = {
        a.split for a in tree.annotations if {a.video, folder_name(a.video, a.person)} & stems
    }
    return len(splits) > 1


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # a link into the void: the image is told when it is embedded
        return b""


def refuse_hopeless(facts: dict[str, Any]) -> None:
    """Stop before any work where heads cannot be trained or scored.

    Raises:
        UserError: a class that no training frame with an image shows, or no frame to score.
    """
    for task, splits in facts["tasks"].items():
        counts = splits["train"]["counts"]
        absent = [name for name, count in counts.items() if not count]
        nothing = [split for split, found in splits.items() if found["with_image"] == 0]
        if not nothing and not absent:
            continue
        if nothing:
            what = f"no annotated frame of {task} has an image: {' and '.join(nothing)}"
        else:
            what = f"no training frame of {task} with an image shows {', '.join(absent)}"
        raise UserError(
            what,
            where="data.images and data.videos, beside data.annotations",
            mend="complete the crops (a folder's name is the annotation file's), or give the "
            "videos too",
        )


def _crop_sizes(folders: list[Path], files: Callable[[Path], FrameFiles]) -> list[list[int]]:
    """Widths and heights among the first images of some folders, from their headers."""
    sizes = set()
    for folder in folders[:: max(1, len(folders) // SAMPLED)]:
        for name in files(folder).names[:1]:
            with contextlib.suppress(OSError), Image.open(folder / name) as image:
                sizes.add(image.size)
    return sorted(map(list, sizes))


def _rows_without_image(rows: pd.DataFrame, tree: Tree, files: Callable[[Path], FrameFiles]) -> int:
    """Rows of a sample file, of people with crops or of nobody, that have no image."""
    count = 0
    for (video, person), own in rows[rows["frame"] > 0].groupby(["video", "person"]):
        folder = tree.crop_folder(video, person)
        if folder is not None:
            count += int((~own["frame"].isin(files(folder).numbers)).sum())
        elif video not in tree.videos:
            count += len(own)
    return count


def _near_names(missing: list[str], tree: Tree) -> dict[str, str]:
    """Names there are that differ from a missing one in capitals or accents' spelling alone."""

    def plain(name: str) -> str:
        return unicodedata.normalize("NFKD", name).casefold()

    there = {plain(name): name for name in [*tree.videos, *tree.crops.used]}
    return {name: there[plain(name)] for name in missing if plain(name) in there}


def _leaks(tree: Tree) -> list[str]:
    """Videos that are to be predicted for a task and are in its training split."""
    return sorted(
        f"{video} ({task})"
        for task, listed in tree.test.items()
        for video in {v for v, _ in listed.people()}
        & {a.video for a in tree.annotations if (a.task, a.split) == (task, "train")}
    )
