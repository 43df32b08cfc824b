"""Concatenate the features of several encoders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from clipaffect.core.errors import UserError
from clipaffect.core.frame_status import KEYS, FrameStatus
from clipaffect.core.hashing import digest
from clipaffect.core.parquet import ROW_GROUP, open_parquet, read_batches, write_batches
from clipaffect.features.columns import schema

READ_AT_ONCE = 32 * ROW_GROUP


def join_features(parts: list[Path], out: Path) -> None:
    """Write the concatenated features of several encoders for the rows of a shard to ``out``.

    Each encoder's feature is divided by its root mean square, so that none dominates. A row has a
    feature only if every encoder has one.

    Args:
        parts: ``embeddings/<encoder>/<shard>.parquet`` of each encoder, in the order of the join.
        out: the same form, with all of their values in a row.

    Raises:
        UserError: the files do not have the same rows.
    """
    files = [open_parquet(path) for path in parts]
    if len({file.metadata.num_rows for file in files}) > 1:
        raise _other_rows(parts)
    lengths = [file.schema_arrow.field("feature").type.list_size for file in files]
    known = [file.schema_arrow.metadata[b"encoder"].decode() for file in files]

    def tables() -> Iterator[pa.Table]:
        readers = [read_batches(path, READ_AT_ONCE) for path in parts]
        for batches in zip(*readers, strict=True):
            keys = batches[0].select([*KEYS, "status"][:3])
            if not all(batch.select([*KEYS, "status"][:3]).equals(keys) for batch in batches[1:]):
                raise _other_rows(parts)
            yield _side_by_side([pa.Table.from_batches([batch]) for batch in batches], lengths)

    write_batches(out, schema(sum(lengths), digest({"joined": known})), tables())


def side_by_side(parts: list[np.ndarray]) -> np.ndarray:
    """Features (n, sum of d) float16 of several (n, d), each over its root mean square."""
    scaled = []
    for part in parts:
        values = part.astype(np.float32)
        size = np.sqrt((values**2).mean(1, keepdims=True))
        scaled.append(values / np.where(size > 0, size, 1))
    return np.concatenate(scaled, axis=1).astype(np.float16)


def _side_by_side(batches: list[pa.Table], lengths: list[int]) -> pa.Table:
    rows = batches[0].num_rows
    statuses = [np.array(batch["status"].to_pylist(), object) for batch in batches]
    whole = np.all([status == FrameStatus.OK for status in statuses], axis=0)
    status = statuses[0]
    for other in statuses[1:]:
        status = np.where(status == FrameStatus.OK, other, status)
    parts = []
    for batch, length in zip(batches, lengths, strict=True):
        column = batch["feature"].combine_chunks()
        values = np.zeros((rows, length), np.float32)
        present = np.asarray(column.is_valid())
        values[present] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, length)
        parts.append(values)
    joined = side_by_side(parts)
    joined[~whole] = 0
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(joined.ravel()), sum(lengths), mask=pa.array(~whole)
    )
    table = batches[0].select(list([*KEYS, "status"][:3]))
    return table.append_column("status", pa.array(status.tolist(), pa.string())).append_column(
        "feature", column
    )


def _other_rows(parts: list[Path]) -> UserError:
    return UserError(
        "the files of the encoders do not have the same rows",
        where=", ".join(map(str, parts)),
        fix="delete them and run the same command again",
    )
