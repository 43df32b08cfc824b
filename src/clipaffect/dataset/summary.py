"""Summarise a data set frame by frame, from names and numbers, without opening images."""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from clipaffect.config.data import Data
from clipaffect.core.container import stated_frames
from clipaffect.core.errors import UserError
from clipaffect.core.progress import Progress
from clipaffect.core.split_names import TRAIN, VALIDATION, folds_among, in_split
from clipaffect.core.tasks import Task
from clipaffect.dataset import published
from clipaffect.dataset.duplicates import COMPARED, find_duplicates, in_two_splits
from clipaffect.dataset.files import FrameFiles, list_frames, natural_order
from clipaffect.dataset.frame_lists import compare_list
from clipaffect.dataset.published import published_counts, verdict
from clipaffect.dataset.tree import Tree, folder_name

FEW, SAMPLED = 5, 50


def collect(
    data: Data,
    tasks: Sequence[Task],
    tree: Tree,
    labels: dict[str, pd.DataFrame],
    needs_images: bool = True,
) -> dict[str, Any]:
    """Collect everything that the preflight check reports about the data, as JSON values.

    Args:
        data: the configuration's section.
        tasks: the tasks.
        tree: what lies on disk.
        labels: every annotation row by task.
        needs_images: whether anything looks at them; imported features do not.
    """
    limit = data.frame_limit

    @cache
    def files(folder: Path) -> FrameFiles:
        return list_frames(folder, limit)

    counted: dict[str, int] = {}
    if searched := searched_videos(tree):
        with Progress("videos", len(searched)) as progress:
            for video in searched:
                stated = stated_frames(tree.videos[video])
                counted[video] = min(stated, limit) if limit else stated
                progress.advance()
    video_frames = counted.__getitem__

    found: dict[str, dict[str, Any]] = {}
    lists: dict[str, Any] = {}
    for task in tasks:
        rows = labels[task.name]
        has_image, beyond = np.full(len(rows), np.nan), np.zeros(len(rows), bool)
        if needs_images:
            has_image, beyond = _images(tree, rows, files, video_frames)
            if data.faces == "search":  # which images show a face is known after detection
                has_image[rows["video"].isin(list(tree.images)).to_numpy()] = np.nan
        found[task.name] = {
            split: _split(
                task, split, rows.iloc[at], tree, has_image[at], beyond[at], _is_whole(data)
            )
            for split, at in _positions(rows["split"]).items()
        }
        lists |= _compared_lists(data, task, rows, has_image)
    files_found = _files_found(data, tree, needs_images, files, video_frames)
    duplicates = find_duplicates(tree, _used_folders(tree), files)
    return files_found | {
        "duplicates": duplicates,
        "duplicates_in_both_splits": in_two_splits(duplicates, labels),
        "images_compared": len(tree.images) <= COMPARED,
        "in_test_and_training": _leaks(tree, labels),
        "notes": list(tree.notes),
        "tasks": found,
        "test": {
            task: {
                "people": len(listed.people()),
                "rows": int((listed.rows["frame"] > 0).sum()),
                "without_image": _rows_without_image(listed.rows, tree, files),
            }
            for task, listed in tree.test.items()
        },
        "frame_lists": lists,
    }


def _is_whole(data: Data) -> bool:
    """Whether it is said to be the edition whose sizes are known, and the whole of it."""
    of_edition = data.edition == published.EDITION and data.subset is None
    return of_edition and data.split.by == "given"


def _compared_lists(
    data: Data, task: Task, rows: pd.DataFrame, has_image: np.ndarray
) -> dict[str, Any]:
    """What the published lists of a task's frames say of the rows that have an image."""
    if task.name not in data.frame_lists or data.subset:
        return {}
    known = np.nan_to_num(has_image, nan=1.0).astype(bool)
    found = {}
    for split in (TRAIN, VALIDATION):
        at = ((rows["split"] == split) & rows["annotated"]).to_numpy()
        path = Path(getattr(data.frame_lists[task.name], split))
        found[f"{task.name} {split}"] = compare_list(path, rows[at & known], task)
    return found


def _used_folders(tree: Tree) -> list[Path]:
    """The folders of crops of everybody who is annotated or to be predicted."""
    people = [(video, person) for video, own in tree.people().items() for person in own]
    return [folder for owner in people if (folder := tree.crop_folder(*owner))]


def _files_found(
    data: Data,
    tree: Tree,
    needs_images: bool,
    files: Callable[[Path], FrameFiles],
    video_frames: Callable[[str], int],
) -> dict[str, Any]:
    """Videos, folders of crops and images: how many there are, are missing or are odd."""
    people = [(video, person) for video, own in tree.people().items() for person in own]
    searched = searched_videos(tree)
    folders = _used_folders(tree)
    missing = sorted(folder_name(*p) for p in people if needs_images and tree.is_missing(*p))
    images = [tree.images[video] for video, _ in people if video in tree.images]
    search = data.faces == "search"
    odd = {str(folder): files(folder).others for folder in folders if files(folder).others}
    return {
        "videos_found": len(tree.videos),
        "crop_folders_found": len(tree.crops.used),
        "crop_folders_used": len(folders),
        "images_used": sum(len(files(folder).numbers) for folder in folders)
        + (0 if search else len(images)),
        "single_images": len(images),
        "crop_sizes": _crop_sizes(folders, files, images),
        "frames_to_decode": sum(video_frames(video) for video in searched)
        + (len(images) if search else 0),
        "frames_to_search": sum(video_frames(video) * n for video, n in searched.items())
        + (len(images) if search else 0),
        "videos_missing": missing,
        "first_missing": str(tree.root / missing[0]) if tree.root and missing else "",
        "names_people": tree.named is not None,
        "names_some": tree.names_some,
        "unit": tree.unit,
        "near_names": _near_names(missing, tree),
        "empty": sorted(
            [str(tree.videos[name]) for name in searched if not tree.videos[name].stat().st_size]
            + [str(folder) for folder in folders if not files(folder).last]
            + [str(image) for image in images if not image.stat().st_size]
        ),
        "videos_not_annotated": len(tree.videos.keys() - {video for video, _ in people}),
        "shadowed": {n: [str(p) for p in paths] for n, paths in tree.crops.shadowed.items()},
        "files_of_other_names": {folder: names[:FEW] for folder, names in odd.items()},
        "other_annotation_files": [str(path) for path in tree.other_files],
    }


def _positions(column: pd.Series) -> dict[str, np.ndarray]:
    """Training first, then validation or the folds in order."""
    order = sorted(map(str, column.unique()), key=lambda s: (s != TRAIN, natural_order(s)))
    return {value: np.flatnonzero(column == value) for value in order}


def searched_videos(tree: Tree) -> dict[str, int]:
    """Videos that are decoded, and how many people without crops are looked for in each."""
    found: dict[str, int] = {}
    for video, people in tree.people().items():
        count = sum(tree.crop_folder(video, person) is None for person in people)
        if count and video in tree.videos:
            found[video] = count
    return found


def first_searched(tree: Tree) -> Path | None:
    """The first video that will be decoded, if any."""
    return next((tree.videos[video] for video in searched_videos(tree)), None)


def _images(
    tree: Tree,
    rows: pd.DataFrame,
    files: Callable[[Path], FrameFiles],
    video_frames: Callable[[str], int],
) -> tuple[np.ndarray, np.ndarray]:
    """For each label row: 1 with image, 0 without, NaN if unknown before detection; and beyond."""
    has_image, beyond = np.full(len(rows), np.nan), np.zeros(len(rows), bool)
    frames = rows["frame"].to_numpy()
    single = rows["video"].isin(list(tree.images)).to_numpy()
    has_image[single] = 1
    rows = rows.assign(at=np.arange(len(rows)))[~single]
    groups = {
        owner: own["at"].to_numpy()
        for owner, own in rows.groupby(["video", "person"], observed=True)
    }
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
    task: Task,
    split: str,
    rows: pd.DataFrame,
    tree: Tree,
    has_image: np.ndarray,
    beyond: np.ndarray,
    compare: bool,
) -> dict[str, Any]:
    annotated = rows["annotated"].to_numpy()
    known = not np.isnan(has_image).any()
    there = np.nan_to_num(has_image, nan=1.0).astype(bool)
    counts = task.frames_showing(rows[annotated & there])
    with_image = int((annotated & there).sum()) if known else None
    kind, text = "other", ""
    if compare:
        kind, text = verdict(task.name, split, int(annotated.sum()), with_image, counts)
    return {
        "videos": int(rows["video"].nunique()),
        "people": _people(tree, rows),
        "rows": len(rows),
        "annotated": int(annotated.sum()),
        "with_image": with_image,
        "without_image": int((annotated & ~there & ~beyond).sum()),
        "beyond": int((annotated & beyond).sum()),
        "counts": counts,
        "published": published_counts(task.name, split) if compare else None,
        "verdict": kind,
        "sentence": text,
    }


def _people(tree: Tree, rows: pd.DataFrame) -> int:
    """People in a split; where they are not known, everybody in a video is another one."""
    owners = rows[["video", "person"]].drop_duplicates().astype(str)
    if tree.named is None:
        return len(owners)
    names = [folder_name(*owner) for owner in owners.itertuples(index=False)]
    return len(set().union(*(tree.named[name] for name in names)))


def refuse_hopeless(facts: dict[str, Any]) -> None:
    """Stop before any work if heads cannot be trained or scored.

    Raises:
        UserError: a class that no training frame with an image shows, or no frame to score.
    """
    for task, splits in facts["tasks"].items():
        absent = _never_trained(splits)
        nothing = [split for split, found in splits.items() if found["with_image"] == 0]
        if not nothing and not absent:
            continue
        if nothing:
            what = f"no annotated frame of {task} has an image: {' and '.join(nothing)}"
            if facts["first_missing"]:
                what += f" ({facts['first_missing']} does not exist)"
            if any(splits[s]["beyond"] == splits[s]["annotated"] for s in nothing):
                what += ": every label lies beyond the end of its video (is the time in seconds?)"
        else:
            what = f"no training frame of {task} with an image shows {', '.join(absent)}"
        raise UserError(
            what,
            where="the images and videos that the labels name",
            fix="add the missing crops (in folders named like the annotation files) or the "
            "videos; the paths in a table are relative to data.root",
        )


def _never_trained(splits: dict[str, Any]) -> list[str]:
    """Classes or labels that no training frame with an image shows, in some fold."""
    absent: set[str] = set()
    for fold in folds_among(splits):
        training = [found for name, found in splits.items() if in_split(name, TRAIN, fold)]
        counts = pd.DataFrame([found["counts"] for found in training]).sum()
        absent |= set(counts.index[counts == 0])
    first = next(iter(splits.values()))["counts"]
    return [name for name in first if name in absent]


def _crop_sizes(
    folders: list[Path], files: Callable[[Path], FrameFiles], images: list[Path]
) -> list[list[int]]:
    """Widths and heights from the headers of images, or of the first images of folders."""
    sizes = set()
    few = folders[:: max(1, len(folders) // SAMPLED)]
    paths = [folder / name for folder in few for name in files(folder).names[:1]]
    for path in [*paths, *images[:: max(1, len(images) // SAMPLED)]]:
        with contextlib.suppress(OSError), Image.open(path) as image:
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
    """Existing names that differ from a missing one only in case or in the encoding of accents."""

    def plain(name: str) -> str:
        return unicodedata.normalize("NFKD", name).casefold()

    there = {plain(name): name for name in [*tree.videos, *tree.images, *tree.crops.used]}
    return {name: there[plain(name)] for name in missing if plain(name) in there}


def _leaks(tree: Tree, labels: dict[str, pd.DataFrame]) -> list[str]:
    """Videos to be predicted for a task that are also used to train its heads."""
    found = []
    for task, listed in tree.test.items():
        rows = labels[task]
        trained = set(rows["video"][rows["split"] != VALIDATION].unique())
        found += [f"{v} ({task})" for v in {video for video, _ in listed.people()} & trained]
    return sorted(found)
