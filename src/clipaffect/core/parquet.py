"""Parquet files with fixed settings, reproducible to the byte."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP = 128  # crops: 64 to 256 rows keep random reads near 3,000 a second


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path next to ``path`` to write to; it replaces ``path`` on success.

    The name contains the process number, so that a job whose workflow was killed and its successor
    do not write to the same file. Leftovers of killed attempts are removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        beside.replace(path)
    finally:
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
            left.unlink(missing_ok=True)


def write_batches(
    path: Path, schema: pa.Schema, batches: Iterable[pa.Table], row_group: int = ROW_GROUP
) -> int:
    """Stream tables into one Parquet file, written atomically; returns the number of rows.

    Memory holds at most one batch and one row group. JPEG bytes do not compress, so they are
    stored plain; other columns use zstd.
    """
    codec = {
        field.name: "none" if pa.types.is_large_binary(field.type) else "zstd" for field in schema
    }
    rows = 0
    waiting: list[pa.Table] = []
    with (
        whole_file(path) as beside,
        pq.ParquetWriter(beside, schema, compression=codec, write_statistics=False) as writer,
    ):
        for batch in batches:
            waiting.append(batch.cast(schema))
            rows += batch.num_rows
            held = pa.concat_tables(waiting)
            whole = held.num_rows - held.num_rows % row_group
            if whole:
                writer.write_table(held.slice(0, whole), row_group_size=row_group)
            waiting = [held.slice(whole)] if whole < held.num_rows else []
        if waiting:
            writer.write_table(pa.concat_tables(waiting), row_group_size=row_group)
    return rows


def write_table(path: Path, frame: pd.DataFrame, schema: pa.Schema | None = None) -> None:
    """Write a data frame as one small Parquet file without pandas' own metadata."""
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    table = table.replace_schema_metadata(None)
    write_batches(path, table.schema, [table], row_group=65536)


def read_table(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a Parquet file as a data frame."""
    return pq.read_table(path, columns=columns).to_pandas()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, by renaming a temporary file."""
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def take_rows(file: pq.ParquetFile, rows: np.ndarray, columns: list[str] | None = None) -> pa.Table:
    """Rows (n,) of a file written with ``ROW_GROUP``, reading only the row groups they lie in."""
    groups, group = np.unique(np.asarray(rows, np.int64) // ROW_GROUP, return_inverse=True)
    table = file.read_row_groups(groups.tolist(), columns=columns)
    return table.take(pa.array(group * ROW_GROUP + np.asarray(rows, np.int64) % ROW_GROUP))
