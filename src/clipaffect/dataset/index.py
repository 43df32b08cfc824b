"""Stage ``dataset``: a label-free manifest for each shard, labels for each task, a summary.

Labels stay out of the manifests so that a corrected annotation costs the table and the training,
never a face or an embedding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from clipaffect.config.models import Data
from clipaffect.dataset.aff_wild2 import Tree, natural_order, scan_tree
from clipaffect.dataset.annotations import read_annotation
from clipaffect.digest import file_digest
from clipaffect.errors import UserError, raise_all
from clipaffect.stages import shard_names
from clipaffect.tables import write_frame, write_text
from clipaffect.tasks import NOT_ANNOTATED, TASKS, TaskName

MANIFEST = pa.schema(
    [
        ("video", pa.string()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("persons", pa.list_(pa.string())),
        ("frame_limit", pa.int32()),
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


def read_labels(tree: Tree, task: TaskName, frame_limit: int | None) -> pd.DataFrame:
    """Every annotation row of a task: split, video, person, frame, labels, annotated.

    Raises:
        UserError: every wrong annotation, or a split or class without a frame.
    """
    problems: list[UserError] = []
    parts = []
    for annotation in (a for a in tree.annotations if a.task == task):
        try:
            rows = read_annotation(annotation.path, TASKS[task])[:frame_limit]
        except UserError as problem:
            problems.append(problem)
            continue
        part = pd.DataFrame(rows, columns=list(TASKS[task].columns))
        part.insert(0, "frame", np.arange(1, len(rows) + 1, dtype=np.int32))
        part.insert(0, "person", annotation.person)
        part.insert(0, "video", annotation.video)
        part.insert(0, "split", annotation.split)
        # A frame counts as annotated if any of its labels is: AU losses mask the others.
        part["annotated"] = (rows != NOT_ANNOTATED).any(axis=1)
        parts.append(part)
    raise_all(problems)
    labels = pd.concat(parts, ignore_index=True)
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
        raise UserError(
            f"no training frame is annotated {', '.join(absent)}",
            where=f"the {task} annotations",
            mend="add videos that show it: a head cannot learn what it never sees",
        )
    return labels


def summarise(tree: Tree, labels: dict[TaskName, pd.DataFrame]) -> dict[str, Any]:
    """What the data set holds: ``summary.json``."""
    annotated = {a.video for a in tree.annotations}
    tasks = {}
    for task, frame in labels.items():
        splits = {}
        for split, rows in frame.groupby("split"):
            kept = rows[rows["annotated"]]
            splits[split] = {
                "videos": int(rows["video"].nunique()),
                "people": int(rows[["video", "person"]].drop_duplicates().shape[0]),
                "rows": len(rows),
                "annotated": len(kept),
                "counts": TASKS[task].frames_showing(kept),
            }
        tasks[task] = splits
    return {
        "videos_found": len(tree.videos),
        "videos_annotated": len(annotated & tree.videos.keys()),
        "videos_not_annotated": len(tree.videos.keys() - annotated),
        "videos_missing": sorted(annotated - tree.videos.keys(), key=natural_order),
        "tasks": tasks,
    }


def describe(tree: Tree, labels: dict[TaskName, pd.DataFrame]) -> Iterator[str]:
    """What was found, a line each: splits, classes that validation lacks, files in want."""
    summary = summarise(tree, labels)
    for task, splits in summary["tasks"].items():
        for split, found in splits.items():
            yield (
                f"{task} {split}: {found['videos']} videos, {found['people']} people, "
                f"{found['annotated']} annotated frames"
            )
        shown = splits["validation"]["counts"]
        if absent := [name for name, count in shown.items() if not count]:
            yield f"  not in {task} validation: {', '.join(absent)} (their F1 counts as 0)"
    if missing := summary["videos_missing"]:
        yield f"{len(missing)} annotated videos have no file: {', '.join(missing[:5])}"
    annotated = {a.video for a in tree.annotations}
    empty = [v for v in sorted(annotated & tree.videos.keys()) if not tree.videos[v].stat().st_size]
    if empty:
        yield f"{len(empty)} video files are empty: {', '.join(empty[:5])}"


def index_dataset(data: Data, tasks: tuple[TaskName, ...], out: Path) -> None:
    """Write ``manifests/<shard>.parquet``, ``labels/<task>.parquet`` and ``summary.json``.

    Raises:
        UserError: anything wrong with the tree, before any work is done on it.
    """
    tree = scan_tree(data, tasks)
    limit = data.subset.frames if data.subset else None
    labels = {task: read_labels(tree, task, limit) for task in tasks}
    persons: dict[str, set[str]] = {}
    for annotation in tree.annotations:
        persons.setdefault(annotation.video, set()).add(annotation.person)
    videos = sorted(persons, key=natural_order)
    manifest = pd.DataFrame(
        {
            "video": videos,
            "path": [str(tree.videos.get(video, "")) for video in videos],
            "sha256": [
                file_digest(tree.videos[video]) if video in tree.videos else "" for video in videos
            ],
            "persons": [sorted(persons[video]) for video in videos],
            "frame_limit": limit or 0,
        }
    )
    shard = manifest["video"].map(lambda video: shard_of(video, data.shards))
    for number, name in enumerate(shard_names(data.shards)):
        path = out / "manifests" / f"{name}.parquet"
        write_frame(path, manifest[shard == number], MANIFEST)
    for task, frame in labels.items():
        write_frame(out / "labels" / f"{task}.parquet", frame, label_schema(task))
    write_text(out / "summary.json", json.dumps(summarise(tree, labels), indent=2) + "\n")
