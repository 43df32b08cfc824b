"""Data as rows: an image or a video (whole, at a frame, or at a time) and its labels.

Every format but Aff-Wild2's is read into a ``Listing``; here it becomes what the chain works on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from clipaffect.config.data import Data
from clipaffect.core.container import stated_frames
from clipaffect.core.errors import UserError
from clipaffect.core.frame_status import KEYS
from clipaffect.core.names import existing
from clipaffect.core.split_names import TRAIN, VALIDATION, fold_split
from clipaffect.core.tasks import NOT_ANNOTATED, Task
from clipaffect.core.video import presentation_times
from clipaffect.dataset.files import CropFolders, natural_order
from clipaffect.dataset.groups import group_names, joins_people, people_in
from clipaffect.dataset.raters import consensus
from clipaffect.dataset.tree import Annotation, Tree, folder_name


def label_schema(task: Task) -> pa.Schema:
    """Columns of the file. ``group`` is the person or video that a split must keep together."""
    keys = [(name, pa.string()) for name in ("split", "group", "video", "person")]
    labels = [(column, pa.int8()) for column in task.columns]
    return pa.schema([*keys, ("frame", pa.int32()), *labels, ("annotated", pa.bool_())])


def label_rows(
    rows: pd.DataFrame,
    task: Task,
    keys: dict[str, list[str]],
    sizes: list[int] | None = None,
) -> pd.DataFrame:
    """Add name columns, and a column for having any label, to ``rows`` (frame and label columns).

    Names become categories, in natural order: three million rows take 100 MB.

    Args:
        rows: (n,) frame, label columns.
        task: whose label columns they are.
        keys: split, group, video and person of each run of rows.
        sizes: rows of each run; 1 where left out.
    """
    rows = rows.copy(deep=False)
    for column in reversed(keys):
        names, codes = np.unique(np.array(keys[column], object).astype(str), return_inverse=True)
        order = sorted(range(len(names)), key=lambda k: natural_order(str(names[k])))
        place = np.empty(len(names), np.int64)
        place[order] = np.arange(len(names))
        codes = place[codes] if sizes is None else np.repeat(place[codes], sizes)
        rows.insert(0, column, pd.Categorical.from_codes(codes, names[order].tolist()))
    # A frame counts as annotated if any of its labels is: the losses mask the others.
    rows["annotated"] = (rows[list(task.columns)] != NOT_ANNOTATED).any(axis=1)
    return rows


TEST = "test"
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("validation", "valid", "val", "dev"), VALIDATION),
    **dict.fromkeys(("test", "testing"), TEST),
}
SIDES = ("", "left", "right")
MOST_FRAMES = 2**31 - 2


@dataclass(frozen=True)
class Listing:
    """Rows of a data set.

    Attributes:
        path: the file or folder that holds the labels.
        root: folder that the rows' paths are relative to.
        rows: (n,) ``source`` (path of an image or video, '/' between folders), ``is_image``;
            ``frame`` (0: every frame), ``time`` (seconds, NaN: by frame), ``side`` (which of two
            people in the picture), ``person`` ('' unknown), ``split``, ``fold``, ``rater`` ('' for
            one alone); and the label columns of every task, its name in front: ``mood/label``,
            ``units/AU1``.
        where: from a row's number to the words of an error message.
        notes: facts for the reader of the report.
    """

    path: Path
    root: Path
    rows: pd.DataFrame
    where: Callable[[int], str]
    notes: tuple[str, ...] = ()


class FoundData(NamedTuple):
    """What a reader finds.

    Attributes:
        tree: what lies on disk.
        labels: by task, rows of ``label_schema``.
        where: the labels are, for messages.
    """

    tree: Tree
    labels: dict[str, pd.DataFrame]
    where: str


def blank_rows(sources: Sequence[str], *, is_image: bool) -> pd.DataFrame:
    """Rows without labels, of unknown people and splits, each for every frame of its source."""
    return pd.DataFrame(
        {
            "source": np.array(sources, object),
            "is_image": is_image,
            "frame": 0,
            "time": np.nan,
            "side": "",
            "person": "",
            "split": "",
            "fold": "",
            "rater": "",
        }
    )


def arrange(listing: Listing, data: Data, tasks: Sequence[Task]) -> FoundData:
    """The tree and the labels by task (see ``labels.label_schema``) of a listing.

    A row without frame and time holds for every frame of its video; a time means the frame nearest
    to it. People and videos that belong together (one person in two videos, two people in one) are
    one group. An image without any label is left alone.

    Raises:
        UserError: a path that leaves the root, a wrong value, or two labels of one frame.
    """
    if listing.rows.empty:
        raise UserError(
            "the labels name no images or videos",
            where=listing.path,
            fix="see docs/own-data.md for the expected layout",
        )
    _check_sources(listing)
    rows = listing.rows
    groups = group_names(rows["source"].tolist(), rows["person"].tolist())
    rows = rows.assign(split=_splits(listing, data.split.by), group=np.array(groups, object))
    notes = listing.notes
    if data.split.by == "given" and not (_words(listing.rows) == VALIDATION).any():
        notes += (
            "There is no validation split: the test split is scored. Do not use it for choices.",
        )
    if left := int((rows["split"] == TEST).sum()):
        notes += (f"{left:,} rows of the test split are not used.",)
    labelled = np.zeros(len(rows), bool)
    for task in tasks:
        labelled |= (_labels(rows, task) != NOT_ANNOTATED).any(axis=1)
    rows = rows[labelled & (rows["split"] != TEST).to_numpy()]
    if rows.empty:
        raise UserError("no row has a label", where=listing.path, fix="see docs/own-data.md")
    names_people = bool((rows["person"] != "").all())
    places = (folder_name(*place) for place in zip(rows["source"], rows["side"], strict=True))
    named = people_in(places, rows["person"]) if names_people else None
    together = joins_people(rows["group"], rows["person"])
    there = {
        source: path
        for source in rows["source"].unique()
        if (path := existing(listing.root, source)) is not None
    }
    respelled = sum(path != listing.root / source for source, path in there.items())
    if respelled:
        notes += (
            f"{respelled:,} names in {listing.path} encode accents differently from the files "
            "(NFC or NFD); they were matched anyway.",
        )
    is_image = dict(zip(rows["source"], rows["is_image"], strict=True))
    videos = {source: path for source, path in there.items() if not is_image[source]}
    images = {source: path for source, path in there.items() if is_image[source]}
    rows = _every_frame(rows, videos, data.frame_limit)
    labels = {}
    for task in tasks:
        labels[task.name], ties = _of_task(listing, rows, task)
        if ties:
            notes += (f"{ties:,} labels of {task.name} are not used: as many raters disagree.",)
    annotations = [
        Annotation(listing.path, name, str(split), str(video), str(person))
        for name, found in labels.items()
        for split, video, person in found[["split", "video", "person"]]
        .drop_duplicates()
        .itertuples(index=False)
    ]
    tree = Tree(
        videos,
        CropFolders({}, {}),
        annotations,
        {},
        images,
        notes,
        root=listing.root,
        named=named,
        names_some=bool((rows["person"] != "").any()) and named is None,
        joins_people=together,
    )
    return FoundData(tree, labels, f"the labels in {listing.path}")


def _labels(rows: pd.DataFrame, task: Task) -> np.ndarray:
    return rows[[f"{task.name}/{column}" for column in task.columns]].to_numpy()


def _check_sources(listing: Listing) -> None:
    """Reject paths that leave the root."""
    first = listing.rows["source"].drop_duplicates()
    for at, source in zip(first.index, first, strict=True):
        path = PurePosixPath(source)
        if path.is_absolute() or ".." in path.parts:
            kind = "is absolute" if path.is_absolute() else "leaves the data folder"
            what = f"the path '{source[:120]}' {kind}"
            fix = f"use paths relative to {listing.root} (data.root), without '..'"
            raise UserError(what, where=listing.where(at), fix=fix)


def _splits(listing: Listing, by: str) -> np.ndarray:
    """(n,) split of each row; '' if splits have yet to be made."""
    rows = listing.rows
    if by == "folds" and (rows["fold"] != "").any():
        return _given_folds(listing)
    splits = _words(rows)
    words = rows["split"].str.strip()
    if by != "given":  # what is marked for a last test is not dealt, unless everything is
        test = (splits == TEST) & ~(splits == TEST).all()
        return np.where(test, TEST, "").astype(object)
    wrong = np.flatnonzero(splits.isna())
    if len(wrong) == len(rows) and (words == "").all():
        raise UserError(
            "the data has no splits",
            where=listing.path,
            fix="set data.split.by to hold_out or folds, which split by person, or give each row "
            "a split (train or validation)",
        )
    if len(wrong):
        at = int(wrong[0])
        raise UserError(
            f"unknown split '{rows['split'].iloc[at]}'",
            where=listing.where(at),
            fix="write train, validation or test",
        )
    if not (
        splits == VALIDATION
    ).any():  # many sets have a test split alone: heads are scored on it
        splits = splits.replace(TEST, VALIDATION)
    return splits.to_numpy(object)


def _words(rows: pd.DataFrame) -> pd.Series:
    """The split that each row's word stands for; missing if the word is unknown."""
    return rows["split"].str.strip().str.casefold().map(SPLIT_WORDS)


def _given_folds(listing: Listing) -> np.ndarray:
    folds = listing.rows["fold"].str.strip()
    wrong = np.flatnonzero(folds == "")
    if len(wrong):
        raise UserError(
            "the row has no fold",
            where=listing.where(int(wrong[0])),
            fix="give all rows a fold, or none",
        )
    names = sorted(folds.unique(), key=natural_order)
    if len(names) < 2:
        raise UserError(
            "the column 'fold' has only one value",
            where=listing.path,
            fix="give at least two folds, or remove the column",
        )
    return folds.map({name: fold_split(k) for k, name in enumerate(names, start=1)}).to_numpy(
        object
    )


def _every_frame(rows: pd.DataFrame, videos: dict[str, Path], limit: int) -> pd.DataFrame:
    """Expand rows to frames: 1 for an image, all for a whole video, the nearest for a time."""
    is_image, by_time = rows["is_image"].to_numpy(), ~np.isnan(rows["time"].to_numpy())
    whole = (rows["frame"].to_numpy() == 0) & ~by_time & ~is_image
    frame = np.where(is_image, 1, rows["frame"].to_numpy())
    repeats = np.ones(len(rows), np.int64)
    asked = np.flatnonzero(by_time | whole)
    for source, within in (
        pd.Series(asked).groupby(rows["source"].to_numpy()[asked]).indices.items()
    ):
        at = asked[within]
        times = presentation_times(videos[source]) if source in videos else np.zeros(0)
        timed = at[by_time[at]]
        frame[timed] = _frames_at(times, rows["time"].to_numpy()[timed])
        # A video that cannot be read keeps its row, as frame 1.
        count = len(times) or (stated_frames(videos[source]) if source in videos else 0)
        repeats[at[whole[at]]] = max(1, count)
    index = np.repeat(np.arange(len(rows)), repeats)
    counted = np.arange(len(index)) - np.repeat(np.cumsum(repeats) - repeats, repeats) + 1
    found = rows.iloc[index].assign(
        frame=np.where(whole[index], counted, frame[index]), row=rows.index.to_numpy()[index]
    )
    return found[found["frame"] <= limit] if limit else found


def _frames_at(times: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Frame numbers (n,) of some times in a video; of one that cannot be read, their order."""
    if not len(times):
        return np.unique(asked, return_inverse=True)[1] + 1
    # Seconds are counted from the first frame, as players count them.
    return nearest_frames(times - times[0], asked)


def nearest_frames(times: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Numbers (n,), counted from 1, of the frames shown nearest to some times (the earlier of two).

    A time more than half a frame behind the last one is given a number beyond it.

    Args:
        times: (frames,) presentation times in seconds, ascending; at least one.
        asked: (n,) seconds.
    """
    after = np.clip(np.searchsorted(times, asked), 0, len(times) - 1)
    before = np.maximum(after - 1, 0)
    number = np.where(asked - times[before] <= times[after] - asked, before, after)
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    behind = np.ceil((asked - times[-1]) / max(step, 1e-6) - 0.5)
    behind = np.clip(behind, 0, MOST_FRAMES - len(times)).astype(np.int64)
    found: np.ndarray = np.where(behind > 0, len(times) - 1 + behind, number) + 1
    return found


def rater_rows(listing: Listing, data: Data, tasks: Sequence[Task]) -> dict[str, pd.DataFrame]:
    """Every rater's labels of each task: ``KEYS``, rater, and the task's columns."""
    rows = listing.rows.assign(group="")
    videos = {
        source: path
        for source in rows["source"][~rows["is_image"]].unique()
        if (path := existing(listing.root, source)) is not None
    }
    rows = _every_frame(rows, videos, data.frame_limit)
    found = {}
    for task in tasks:
        own = _by_rater(listing, rows, task)
        kept = own[own["annotated"]]
        found[task.name] = kept[[*KEYS, "rater", *task.columns]].reset_index(drop=True)
    return found


def rating_schema(task: Task) -> pa.Schema:
    """Columns of the file of the raters' own labels."""
    keys = [pa.field("video", pa.string()), pa.field("person", pa.string())]
    labels = [pa.field(column, pa.int8()) for column in task.columns]
    return pa.schema([*keys, ("frame", pa.int32()), ("rater", pa.string()), *labels])


def _of_task(listing: Listing, rows: pd.DataFrame, task: Task) -> tuple[pd.DataFrame, int]:
    """A task's rows, one for each frame and person; and how many labels raters disagree on."""
    found, ties = _by_rater(listing, rows, task), 0
    if (found["rater"] != "").any():
        splits = found.groupby(KEYS, observed=True)["split"].nunique()
        if len(wrong := splits[splits > 1]):
            video, person, frame = wrong.index[0]
            raise UserError(
                f"raters put frame {frame} of '{folder_name(str(video), str(person))}' into "
                "different splits",
                where=listing.path,
                fix="give a frame the same split in all tables",
            )
        found, ties = consensus(found, task)
    found = found.drop(columns="rater")
    return found.drop_duplicates(KEYS).reset_index(drop=True), ties


def _by_rater(listing: Listing, rows: pd.DataFrame, task: Task) -> pd.DataFrame:
    """A task's rows, one for each frame, person and rater, without repeated labels."""
    values = pd.DataFrame(_labels(rows, task).astype(np.int8), columns=list(task.columns))
    values.insert(0, "frame", rows["frame"].to_numpy(np.int32))
    keys = {"split": "split", "group": "group", "video": "source", "person": "side"}
    names = {name: rows[column].astype(str).to_numpy() for name, column in keys.items()}
    found = label_rows(values, task, names).set_axis(rows["row"].to_numpy())
    found["rater"] = rows["rater"].to_numpy()
    order = [*KEYS, "rater", "annotated"]
    found = found.sort_values(order, ascending=[*[True] * (len(order) - 1), False], kind="stable")
    one = [*KEYS, "rater"]
    twice = found[found["annotated"] & found.duplicated(one)]
    if len(twice):
        second = twice.iloc[0]
        same = found[(found[one] == second[one]).all(axis=1)]
        first = listing.where(int(same.index[0]))
        rows_named = f"{first} and {listing.where(int(second.name))}"
        raise UserError(
            f"frame {second['frame']} of '{second['video']}' has two labels for {task.name}",
            where=rows_named,
            fix="keep one row for each image, or for each frame (and side) of a video; if labels "
            "are closer in time than frames, keep the nearest label; if they are by several "
            "raters, name the column of the rater in data.rater",
        )
    return found.drop_duplicates(one)
