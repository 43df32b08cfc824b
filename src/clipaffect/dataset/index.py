"""Stage ``dataset``: a label-free manifest for each shard, labels for each task, a summary.

Labels stay out of the manifests so that a corrected annotation costs the table and the training,
never a face or an embedding.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from clipaffect.config.data import Data, Subset
from clipaffect.dataset.aff_wild2 import AnnotationFile, Tree, folder_name, scan_tree
from clipaffect.dataset.annotations import read_annotation
from clipaffect.dataset.facts import collect, refuse_hopeless
from clipaffect.dataset.files import folder_state, natural_order
from clipaffect.dataset.multitask import read_multitask
from clipaffect.dataset.test_list import TestList
from clipaffect.digest import file_digest
from clipaffect.errors import UserError, raise_all
from clipaffect.stages import shard_names
from clipaffect.tables import write_frame, write_text
from clipaffect.tasks import NOT_ANNOTATED, TASKS, Task, TaskName

MANIFEST = pa.schema(
    [
        ("video", pa.string()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("persons", pa.list_(pa.string())),
        ("folders", pa.list_(pa.string())),
        ("folder_states", pa.list_(pa.string())),
        ("frame_limit", pa.int32()),
    ]
)
TEST = pa.schema(
    [
        ("location", pa.string()),
        ("video", pa.string()),
        ("person", pa.string()),
        ("frame", pa.int32()),
    ]
)


def shard_of(video: str, shards: int) -> int:
    """The shard of a video: its name's hash, so that one more video touches one shard."""
    return int.from_bytes(hashlib.sha256(video.encode()).digest()[:8]) % shards


def label_schema(task: TaskName) -> pa.Schema:
    """Columns of ``labels/<task>.parquet``."""
    keys = [("split", pa.string()), ("video", pa.string()), ("person", pa.string())]
    labels = [(column, pa.int8()) for column in TASKS[task].columns]
    return pa.schema([*keys, ("frame", pa.int32()), *labels, ("annotated", pa.bool_())])


def _read_rows(annotation: AnnotationFile, task: Task, multitask: bool) -> pd.DataFrame:
    """One person's rows: frame, label columns."""
    if multitask:
        name = folder_name(annotation.video, annotation.person)
        return read_multitask(annotation.path, name, task)
    rows = pd.DataFrame(read_annotation(annotation.path, task), columns=list(task.columns))
    rows.insert(0, "frame", np.arange(1, len(rows) + 1, dtype=np.int32))
    return rows


def read_labels(tree: Tree, task: TaskName, data: Data) -> pd.DataFrame:
    """Every annotation row of a task: split, video, person, frame, labels, annotated.

    Names are categories, in natural order: three million rows take 100 MB.

    Raises:
        UserError: every wrong annotation, or a split or class without a frame.
    """
    problems: list[UserError] = []
    parts: list[pd.DataFrame] = []
    own = [a for a in tree.annotations if a.task == task]
    for annotation in own:
        try:
            rows = _read_rows(annotation, TASKS[task], data.multitask is not None)
        except UserError as problem:
            problems.append(problem)
            continue
        if data.frame_limit:
            rows = rows[rows["frame"] <= data.frame_limit]
        parts.append(rows)
    raise_all(problems)
    labels = pd.concat(parts, ignore_index=True)
    sizes = [len(part) for part in parts]
    for column in ("person", "video", "split"):
        values = [getattr(annotation, column) for annotation in own]
        names = sorted(set(values), key=natural_order)
        codes = np.repeat([names.index(value) for value in values], sizes)
        labels.insert(0, column, pd.Categorical.from_codes(codes, names))
    # A frame counts as annotated if any of its labels is: AU losses mask the others.
    columns = list(TASKS[task].columns)
    labels["annotated"] = (labels[columns] != NOT_ANNOTATED).any(axis=1)
    return labels


def read_dataset(
    data: Data, tasks: tuple[TaskName, ...]
) -> tuple[Tree, dict[TaskName, pd.DataFrame]]:
    """The tree and every task's labels, of the subset if one is asked for.

    Raises:
        UserError: anything wrong with the tree or an annotation.
    """
    tree = scan_tree(data, tasks)
    labels = {task: read_labels(tree, task, data) for task in tasks}
    if data.subset:
        chosen = _choose(labels, data.subset)
        labels = {
            task: rows[[v in chosen[s] for v, s in zip(rows["video"], rows["split"], strict=True)]]
            for task, rows in labels.items()
        }
        tree = _narrow(tree, labels, data.subset)
    for task, rows in labels.items():
        _check_labels(rows, task, bool(data.frame_limit))
    return tree, labels


def _check_labels(labels: pd.DataFrame, task: TaskName, cut: bool) -> None:
    annotated = labels["annotated"]
    for split in ("train", "validation"):
        if not annotated[labels["split"] == split].any():
            raise UserError(
                f"no frame of the {split} split of {task} has a label: every row is -1",
                where=f"the {task} annotations",
                mend=f"give annotated files, or remove {task} from training.tasks",
            )
    train = labels[(labels["split"] == "train") & annotated]
    shown = TASKS[task].frames_showing(train)
    if absent := [name for name, count in shown.items() if not count]:
        if cut:
            raise UserError(
                f"no video is annotated {', '.join(absent)} in its first frames",
                where="data.subset.frames",
                mend="raise it, or leave it out: a head cannot learn what it never sees",
            )
        raise UserError(
            f"no training frame is annotated {', '.join(absent)}",
            where=f"the {task} annotations",
            mend="add videos that show it: a head cannot learn what it never sees",
        )


def _choose(labels: dict[TaskName, pd.DataFrame], subset: Subset) -> dict[str, set[str]]:
    """By split, the names of a few videos.

    First the fewest videos (greedily) that together show every class of every task, since a head
    needs each (for validation as many of them as were asked for, but one of each task); then the
    first others by name, up to the number that was asked for.
    """
    chosen: dict[str, set[str]] = {}
    for split, count in (("train", subset.train), ("validation", subset.validation)):
        shows: dict[str, set[tuple[str, str]]] = {}
        for name, rows in labels.items():
            for video, part in rows[rows["split"] == split].groupby("video", observed=True):
                found = TASKS[name].frames_showing(part) | {"": int(part["annotated"].sum())}
                shows.setdefault(str(video), set()).update((name, c) for c, n in found.items() if n)
        order = sorted(shows, key=natural_order)
        names: list[str] = []
        missing = set().union(*shows.values())
        # Beyond the number that was asked for, only what a run cannot do without.
        needed = missing if split == "train" else {(name, "") for name in labels} & missing
        while needed or (missing and len(names) < count):
            best = max(order, key=lambda v: (len(shows[v] & needed), len(shows[v] & missing)))
            names.append(best)
            missing, needed = missing - shows[best], needed - shows[best]
        others = [video for video in order if video not in names]
        chosen[split] = {*names, *others[: max(0, count - len(names))]}
    return chosen


def _narrow(tree: Tree, labels: dict[TaskName, pd.DataFrame], subset: Subset) -> Tree:
    """The tree of a subset: annotations that have rows, the first videos to be predicted."""
    kept = {
        (task, video, person)
        for task, rows in labels.items()
        for video, person in rows[["video", "person"]].drop_duplicates().itertuples(index=False)
    }
    annotations = [a for a in tree.annotations if (a.task, a.video, a.person) in kept]
    test = {}
    for task, listed in tree.test.items():
        names = sorted(listed.rows["video"].unique(), key=natural_order)[: subset.validation]
        rows = listed.rows[listed.rows["video"].isin(names)]
        rows = rows[rows["frame"] <= (subset.frames or rows["frame"].max())]
        test[task] = TestList(listed.path, rows.reset_index(drop=True))
    return Tree(tree.videos, tree.crops, annotations, test)


def index_dataset(data: Data, tasks: tuple[TaskName, ...], out: Path) -> None:
    """Write manifests, labels and lists of test frames by task, and ``summary.json``.

    Raises:
        UserError: anything wrong with the tree, before any work is done on it.
    """
    tree, labels = read_dataset(data, tasks)
    facts = collect(data, tree, labels)
    refuse_hopeless(facts)
    people = tree.people()
    rows = []
    for video, persons in people.items():
        folders = [tree.crop_folder(video, person) for person in persons]
        # A video is decoded only for people without crops.
        path = tree.videos.get(video) if None in folders else None
        rows.append(
            (video, str(path or ""), file_digest(path) if path else "", persons,
             [str(folder or "") for folder in folders],
             # Snakemake goes by a manifest's content: it must tell which images there are.
             [folder_state(folder, data.frame_limit) if folder else "" for folder in folders],
             data.frame_limit)
        )  # fmt: skip
    manifest = pd.DataFrame(rows, columns=MANIFEST.names)
    shard = manifest["video"].map(lambda video: shard_of(video, data.shards))
    for number, name in enumerate(shard_names(data.shards)):
        path = out / "manifests" / f"{name}.parquet"
        write_frame(path, manifest[shard == number], MANIFEST)
    for task, frame in labels.items():
        write_frame(out / "labels" / f"{task}.parquet", frame, label_schema(task))
    for task, listed in tree.test.items():
        write_frame(out / "test" / f"{task}.parquet", listed.rows, TEST)
    write_text(out / "summary.json", json.dumps(facts, indent=2) + "\n")
