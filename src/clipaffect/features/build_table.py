"""Stage ``table``: labels and features of one task and encoder, joined for training.

A table is a folder: ``rows.parquet`` has every annotated frame with its status, ``features.npy``
the features of those with a face, memory-mappable; ``feature_row`` links the two (-1: none).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from clipaffect.core.errors import UserError
from clipaffect.core.files import Damaged, reading, whole_file
from clipaffect.core.frame_status import KEYS, VIDEO_STATUSES, FrameStatus
from clipaffect.core.hashing import file_digest
from clipaffect.core.layout import Table
from clipaffect.core.parquet import read_arrow, read_schema, read_table, write_table
from clipaffect.core.split_names import folds_among, in_split
from clipaffect.core.tasks import Task
from clipaffect.features.columns import first_not_finite, not_finite

SHA256 = "features_sha256"  # metadata of the rows


def build_table(labels: Path, embeddings: list[Path], out: Path) -> None:
    """Join ``labels`` with the shards of ``embeddings`` into the folder ``out``.

    Raises:
        UserError: a shard was embedded by another encoder, or a feature is not finite.
    """
    encoders: dict[tuple[bytes, int], Path] = {}
    for shard in embeddings:
        metadata = read_schema(shard).metadata or {}
        encoders.setdefault((metadata.get(b"encoder", b""), embedding_dimension(shard)), shard)
    if len(encoders) > 1:
        raise UserError(
            f"the shards come from {len(encoders)} encoders (or versions of one), with feature "
            f"lengths {', '.join(str(dimension) for _, dimension in encoders)}",
            where=", ".join(map(str, encoders.values())),
            fix="remove these files and run again",
        )
    rows = read_table(labels)
    rows = rows[rows["annotated"]].drop(columns="annotated")
    found = pd.concat([read_table(shard, [*KEYS, "status"]) for shard in embeddings])
    # A video that cannot be read at all has one row, frame 0, for each person.
    whole = found[(found["frame"] == 0) & found["status"].isin(VIDEO_STATUSES)]
    rows = rows.merge(found, on=KEYS, how="left", validate="one_to_one")
    rows = rows.merge(
        whole[["video", "person", "status"]],
        on=["video", "person"],
        how="left",
        suffixes=("", "_of_video"),
        validate="many_to_one",
    )
    rows["status"] = (
        rows["status"].fillna(rows.pop("status_of_video")).fillna(str(FrameStatus.BEYOND_VIDEO))
    )
    rows = rows.sort_values(["split", *KEYS], ignore_index=True)
    usable = (rows["status"] == FrameStatus.OK).to_numpy()
    rows["feature_row"] = np.where(usable, np.cumsum(usable) - 1, -1).astype(np.int64)
    with whole_file(Table(out).features) as beside:
        _write_features(beside, rows[usable], embeddings)
    write_table(Table(out).rows, rows, metadata={SHA256: file_digest(Table(out).features)})


def _write_features(path: Path, rows: pd.DataFrame, embeddings: list[Path]) -> None:
    dimension = embedding_dimension(embeddings[0])
    features = np.lib.format.open_memmap(path, "w+", np.float16, (len(rows), dimension))
    place = rows.set_index(KEYS)["feature_row"]
    for shard in embeddings:
        table = read_arrow(shard, [*KEYS, "feature"])
        keys = pd.MultiIndex.from_frame(table.select(KEYS).to_pandas())
        at = place.reindex(keys).to_numpy(float)
        wanted = np.flatnonzero(~np.isnan(at))
        column = table["feature"].combine_chunks().take(wanted)
        values = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension)
        damaged = first_not_finite(values)
        if damaged is not None:
            row = pd.Series(dict(zip(KEYS, keys[wanted[damaged]], strict=True)))
            fix = "check the encoder's weights and precision, then remove this file"
            raise not_finite(row, shard, fix)
        features[at[wanted].astype(np.int64)] = values
    features.flush()


def embedding_dimension(shard: Path) -> int:
    """Length of the features of a shard."""
    return int(read_schema(shard).field("feature").type.list_size)


def table_features(table: Path) -> np.ndarray:
    """The features (n, d) float16 of a table, memory-mapped; what is written to them is not saved.

    Raises:
        Damaged: the file is not the one that was written with the rows.
    """
    path = Table(table).features
    stated = (read_schema(Table(table).rows).metadata or {}).get(SHA256.encode())
    if stated is not None and file_digest(path) != stated.decode():
        raise Damaged(path, "its sha256 is another")
    features: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
    return features


def folds_of(table: Path) -> list[int]:
    """The folds of a table, from 1; ``[0]`` where it has a training and a validation split."""
    splits = read_arrow(Table(table).rows, ["split"], read_dictionary=["split"])
    return folds_among(pc.unique(splits["split"]).to_pylist())


def feature_dimension(table: Path) -> int:
    """Length of a table's features."""
    path = Table(table).features
    with reading(path):
        return int(np.load(path, mmap_mode="r", allow_pickle=False).shape[1])


def rows_of(table: Path, columns: list[str], split: str, fold: int) -> pa.Table:
    """Read some columns of a split of a table (or of one of its folds), in row order."""
    # Names repeat a million times: as categories they cost a byte or two a row.
    names = ["split", *(name for name in ("group", "video", "person") if name in columns)]
    found = read_arrow(Table(table).rows, ["split", *columns], read_dictionary=names)
    own = [s for s in pc.unique(found["split"]).to_pylist() if in_split(s, split, fold)]
    return found.filter(pc.is_in(found["split"].cast(pa.string()), pa.array(own, pa.string())))


def label_array(rows: pa.Table, task: Task) -> np.ndarray:
    """(n, 1) class numbers or (n, labels) bits, int8."""
    return np.stack([rows[name].to_numpy().astype(np.int8) for name in task.columns], axis=1)


def read_annotated(
    table: Path, task: Task, split: str, fold: int = 0
) -> tuple[pd.DataFrame, np.ndarray]:
    """All annotated frames of a split, with or without a face, in the order of the usable ones.

    Returns:
        Columns group, video, person, frame, status; labels (n, 1) or (n, 12) int8.
    """
    found = rows_of(table, ["status", "group", *KEYS, *task.columns], split, fold)
    return found.select(["group", *KEYS, "status"]).to_pandas(), label_array(found, task)
