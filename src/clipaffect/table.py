"""Stage ``table``: labels and features of one task and encoder, joined for training.

A table is a folder: ``rows.parquet`` has every annotated frame with its status, ``features.npy``
the features of those with a face, memory-mappable; ``feature_row`` links the two (-1: none).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

from clipaffect.errors import UserError
from clipaffect.outcomes import VIDEO_OUTCOMES, Outcome
from clipaffect.tables import read_frame, whole_file, write_frame
from clipaffect.tasks import Task

KEYS = ["video", "person", "frame"]


@dataclass(frozen=True)
class Split:
    """One split of a table.

    Attributes:
        rows: its frames with a face: video, person, frame, labels.
        features: (n, d) float32.
        labels: (n, 1) or (n, 12) int64; -1 is not annotated.
    """

    rows: pd.DataFrame
    features: torch.Tensor
    labels: torch.Tensor


def build_table(labels: Path, embeddings: list[Path], out: Path) -> None:
    """Join ``labels`` with the shards of ``embeddings`` into the folder ``out``.

    Raises:
        UserError: a shard was embedded by another encoder (its features have another length), or
            a feature is not finite.
    """
    dimensions = {shard: _dimension(shard) for shard in embeddings}
    if len(set(dimensions.values())) > 1:
        raise UserError(
            f"the shards have features of different lengths: {sorted(set(dimensions.values()))}",
            where=", ".join(map(str, embeddings)),
            mend="remove these files and run again: they come from two encoders",
        )
    rows = read_frame(labels)
    rows = rows[rows["annotated"]].drop(columns="annotated")
    found = pd.concat([read_frame(shard, [*KEYS, "status"]) for shard in embeddings])
    # A video that cannot be read at all has one row, frame 0, for each person.
    whole = found[(found["frame"] == 0) & found["status"].isin(VIDEO_OUTCOMES)]
    rows = rows.merge(found, on=KEYS, how="left", validate="one_to_one")
    rows = rows.merge(
        whole[["video", "person", "status"]],
        on=["video", "person"],
        how="left",
        suffixes=("", "_of_video"),
        validate="many_to_one",
    )
    rows["status"] = (
        rows["status"].fillna(rows.pop("status_of_video")).fillna(str(Outcome.BEYOND_VIDEO))
    )
    rows = rows.sort_values(["split", "video", "person", "frame"], ignore_index=True)
    usable = (rows["status"] == Outcome.OK).to_numpy()
    rows["feature_row"] = np.where(usable, np.cumsum(usable) - 1, -1).astype(np.int64)
    write_frame(out / "rows.parquet", rows)
    with whole_file(out / "features.npy") as beside:
        _write_features(beside, rows[usable], embeddings)


def _write_features(path: Path, rows: pd.DataFrame, embeddings: list[Path]) -> None:
    dimension = _dimension(embeddings[0])
    features = np.lib.format.open_memmap(path, "w+", np.float16, (len(rows), dimension))
    place = rows.set_index(KEYS)["feature_row"]
    for shard in embeddings:
        table = pq.read_table(shard, columns=[*KEYS, "feature"])
        keys = pd.MultiIndex.from_frame(table.select(KEYS).to_pandas())
        at = place.reindex(keys).to_numpy(float)
        wanted = np.flatnonzero(~np.isnan(at))
        column = table["feature"].combine_chunks().take(wanted)
        values = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension)
        if not np.isfinite(values).all():
            first = wanted[np.flatnonzero(~np.isfinite(values).all(axis=1))[0]]
            raise UserError(
                f"the feature of {_shown(keys[first])} is not finite",
                where=shard,
                mend="check the encoder's weights and precision, then remove this file",
            )
        features[at[wanted].astype(np.int64)] = values
    features.flush()


def _shown(key: tuple[str, str, int]) -> str:
    video, person, frame = key
    return f"video '{video}'{f', person {person}' if person else ''}, frame {frame}"


def _dimension(shard: Path) -> int:
    return int(pq.read_schema(shard).field("feature").type.list_size)


def read_split(table: Path, task: Task, split: str) -> Split:
    """Load the usable rows of one split of a table."""
    rows = read_frame(table / "rows.parquet")
    rows = rows[(rows["split"] == split) & (rows["feature_row"] >= 0)].reset_index(drop=True)
    features = np.load(table / "features.npy", mmap_mode="r", allow_pickle=False)
    chosen = features[rows["feature_row"].to_numpy()].astype(np.float32)
    labels = np.array(rows[list(task.columns)], dtype=np.int64, order="C")
    return Split(rows, torch.from_numpy(chosen), torch.from_numpy(labels))
