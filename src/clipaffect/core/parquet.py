"""Parquet files with fixed settings, reproducible to the byte."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clipaffect.core.files import reading, whole_file

ROW_GROUP = 128  # crops: 64 to 256 rows keep random reads near 3,000 a second


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
        pq.ParquetWriter(
            beside,
            schema,
            compression=codec,
            write_statistics=False,
            write_page_checksum=True,
        ) as writer,
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


def write_table(
    path: Path,
    frame: pd.DataFrame,
    schema: pa.Schema | None = None,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write a data frame as one small Parquet file, with this metadata instead of pandas' own."""
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
    table = table.replace_schema_metadata(metadata)
    write_batches(path, table.schema, [table], row_group=65536)


def read_arrow(path: Path, columns: list[str] | None = None, **options: Any) -> pa.Table:
    """Read a Parquet file; ``options`` are those of ``pyarrow.parquet.read_table``.

    Raises:
        Damaged: the file is truncated, or the checksum of a page is wrong.
    """
    with reading(path):
        return pq.read_table(path, columns=columns, page_checksum_verification=True, **options)


def read_table(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a Parquet file as a data frame; see ``read_arrow``."""
    return read_arrow(path, columns).to_pandas()


def read_schema(path: Path) -> pa.Schema:
    """Columns and metadata of a Parquet file."""
    with reading(path):
        return pq.read_schema(path)


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file; its pages are checked as they are read."""
    with reading(path):
        return pq.ParquetFile(path, page_checksum_verification=True)


def read_batches(path: Path, rows: int) -> Iterator[pa.RecordBatch]:
    """Read a Parquet file in batches of at most ``rows`` rows."""
    with reading(path), open_parquet(path) as file:
        yield from file.iter_batches(rows)


class RowReader:
    """Reads any rows of a file written with ``ROW_GROUP``, and only the row groups they lie in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_parquet(path)

    def take(self, rows: np.ndarray, columns: list[str] | None = None) -> pa.Table:
        """Rows (n,) by their numbers in the file, in this order."""
        groups, group = np.unique(np.asarray(rows, np.int64) // ROW_GROUP, return_inverse=True)
        with reading(self.path):
            table = self._file.read_row_groups(groups.tolist(), columns=columns)
        return table.take(pa.array(group * ROW_GROUP + np.asarray(rows, np.int64) % ROW_GROUP))
