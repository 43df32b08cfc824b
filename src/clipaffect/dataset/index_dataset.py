"""Stage ``dataset``: a label-free manifest for each shard, labels for each task, a summary.

Manifests contain no labels, so that correcting an annotation repeats the table and the training,
but not the faces and embeddings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from clipaffect.config.data import Data
from clipaffect.config.stage_keys import shard_names
from clipaffect.core.files import write_text
from clipaffect.core.hashing import file_digest
from clipaffect.core.layout import Dataset
from clipaffect.core.names import path_text
from clipaffect.core.parquet import write_table
from clipaffect.core.tasks import Task
from clipaffect.dataset.files import folder_state
from clipaffect.dataset.label_rows import label_schema, rating_schema
from clipaffect.dataset.manifest import IMAGE, MANIFEST, PICTURE, VIDEO
from clipaffect.dataset.readers.registry import read_dataset
from clipaffect.dataset.readers.table import read_ratings
from clipaffect.dataset.summary import collect, refuse_hopeless
from clipaffect.dataset.tree import Tree

TEST = pa.schema(
    [
        ("location", pa.string()),
        ("video", pa.string()),
        ("person", pa.string()),
        ("frame", pa.int32()),
    ]
)


def shard_of(video: str, shards: int) -> int:
    """The shard of a video, by a hash of its name: an added video affects only one shard."""
    return int.from_bytes(hashlib.sha256(video.encode()).digest()[:8]) % shards


def index_dataset(data: Data, tasks: Sequence[Task], out: Path, needs_images: bool = True) -> None:
    """Write manifests, labels and lists of test frames by task, and ``summary.json``.

    Raises:
        UserError: there is a problem with the data; nothing has been processed yet.
    """
    files = Dataset(out)
    tree, labels = read_dataset(data, tasks)
    facts = collect(data, tasks, tree, labels, needs_images)
    refuse_hopeless(facts)
    rows = [_manifest_row(tree, video, persons, data) for video, persons in tree.people().items()]
    manifest = pd.DataFrame(rows, columns=MANIFEST.names)
    shard = manifest["video"].map(lambda video: shard_of(video, data.shards))
    for number, name in enumerate(shard_names(data.shards)):
        write_table(files.manifest(name), manifest[shard == number], MANIFEST)
    for task in tasks:
        write_table(files.labels(task.name), labels[task.name], label_schema(task))
    if data.has_raters:
        for name, rated in read_ratings(data, tasks).items():
            write_table(files.ratings(name), rated, rating_schema(data.known_tasks()[name]))
    for name, listed in tree.test.items():
        write_table(files.test_frames(name), listed.rows, TEST)
    write_text(files.summary, json.dumps(facts, indent=2) + "\n")


def _manifest_row(tree: Tree, video: str, persons: list[str], data: Data) -> dict[str, Any]:
    limit = data.frame_limit
    single = PICTURE if data.faces == "search" else IMAGE
    folders = [tree.crop_folder(video, person) for person in persons]
    # A video is decoded only for people without crops.
    path = tree.images.get(video) or (tree.videos.get(video) if None in folders else None)
    return {
        "video": video,
        "kind": single if video in tree.images else VIDEO,
        "path": path_text(path) if path else "",
        "sha256": file_digest(path) if path else "",
        "persons": persons,
        "folders": [path_text(folder) if folder else "" for folder in folders],
        # Snakemake goes by a manifest's content: it must tell which images there are.
        "folder_states": [folder_state(folder, limit) if folder else "" for folder in folders],
        "frame_limit": limit,
    }
