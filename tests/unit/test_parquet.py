"""Parquet: same rows, same bytes; rows come back where they were."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipaffect.core.files import Damaged
from clipaffect.core.parquet import ROW_GROUP, RowReader, read_arrow, read_batches, write_batches

SCHEMA = pa.schema([("n", pa.int32()), ("data", pa.large_binary())])


def table(start: int, stop: int) -> pa.Table:
    data = [str(n).encode() * 5 for n in range(start, stop)]
    return pa.table({"n": pa.array(range(start, stop), pa.int32()), "data": data}).cast(SCHEMA)


def test_bytes_do_not_depend_on_how_rows_arrive(tmp_path: Path) -> None:
    whole, split = tmp_path / "whole", tmp_path / "split"
    assert write_batches(whole, SCHEMA, [table(0, 1000)]) == 1000
    cuts = [0, 1, 5, 400, 401, 900, 1000]
    write_batches(split, SCHEMA, (table(a, b) for a, b in itertools.pairwise(cuts)))
    assert whole.read_bytes() == split.read_bytes()
    sizes = [pq.ParquetFile(whole).metadata.row_group(k).num_rows for k in range(8)]
    assert sizes == [ROW_GROUP] * 7 + [1000 - 7 * ROW_GROUP]


def test_an_empty_table_is_a_table(tmp_path: Path) -> None:
    assert write_batches(tmp_path / "empty", SCHEMA, []) == 0
    assert pq.read_table(tmp_path / "empty").num_rows == 0


def test_take_rows_reads_the_rows_asked_for(tmp_path: Path) -> None:
    write_batches(tmp_path / "t", SCHEMA, [table(0, 1000)])
    rows = np.random.default_rng(0).integers(0, 1000, 50)
    taken = RowReader(tmp_path / "t").take(rows)
    assert taken["n"].to_pylist() == rows.tolist()


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "t"
    write_batches(path, SCHEMA, [table(0, 10)])
    before = path.read_bytes()

    def broken():
        yield table(0, 5)
        raise RuntimeError("the disk is full, say")

    try:
        write_batches(path, SCHEMA, broken())
    except RuntimeError:
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["t"]
    else:
        raise AssertionError("the error was swallowed")


READERS = {
    "table": read_arrow,
    "batches": lambda path: list(read_batches(path, 100)),
    "rows": lambda path: RowReader(path).take(np.arange(1000)),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_flipped_byte_is_found_and_the_file_named(tmp_path: Path, reader: str) -> None:
    """In every tenth of the file up to the footer, which has no checksum."""
    path = tmp_path / "t"
    write_batches(path, SCHEMA, [table(0, 1000)])
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    data = [i for i in range(4, footer, footer // 10) if whole[i]]
    for place in data:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(Damaged) as raised:
            READERS[reader](path)
        assert raised.value.where == str(path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("size", [0, 3, 200, -1])
def test_a_truncated_file_is_named(tmp_path: Path, reader: str, size: int) -> None:
    path = tmp_path / "t"
    write_batches(path, SCHEMA, [table(0, 1000)])
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(Damaged, match="damaged") as raised:
        READERS[reader](path)
    assert raised.value.where == str(path)
