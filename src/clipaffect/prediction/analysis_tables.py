"""Tables for an analysis: all frames of all files, and a row for each person in each video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from clipaffect.bundle.format import Bundle
from clipaffect.bundle.prediction_columns import Column, person_columns
from clipaffect.core.files import whole_file
from clipaffect.core.frame_status import FrameStatus
from clipaffect.core.parquet import open_parquet
from clipaffect.core.progress import Progress
from clipaffect.prediction.groups import Groups
from clipaffect.prediction.summaries import GAP

ROWS = 65_536  # of a row group


def plain(schema: pa.Schema) -> pa.Schema:
    """Convert dictionary columns to plain text, because CSV has no dictionaries."""
    return pa.schema(
        [(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in schema]
    )


def write_all_frames(
    tables: list[Path], schema: pa.Schema, groups: Groups | None, parquet: Path, text: Path
) -> None:
    """Write the rows of all files as one Parquet file and one CSV file.

    Args:
        tables: the ``frames.parquet`` of each file.
        schema: their columns.
        groups: further columns by file.
        parquet, text: the files to write.
    """
    added = [] if groups is None else [(name, pa.string()) for name in groups.columns]
    wide = pa.schema([*schema, *(pa.field(*own) for own in added)])
    with (
        whole_file(parquet) as beside,
        whole_file(text) as lines_beside,
        pq.ParquetWriter(beside, wide, compression="zstd", write_page_checksum=True) as table,
        pa.csv.CSVWriter(lines_beside, plain(wide)) as lines,
        Progress("tables", len(tables)) as progress,
    ):
        for path in tables:
            with open_parquet(path) as file:
                for batch in file.iter_batches(ROWS):
                    part = pa.Table.from_batches([batch]).unify_dictionaries().cast(schema)
                    if groups is not None:
                        for name, values in groups.of(part["video"].to_pylist()).items():
                            part = part.append_column(name, pa.array(values, pa.string()))
                    table.write_table(part)
                    lines.write_table(part.cast(plain(wide)))
            progress.advance()


def write_people(tables: list[Path], bundle: Bundle, groups: Groups | None, out: Path) -> None:
    """Write one row for each person in each video: see ``person_columns``."""
    rows = [row for path in tables for row in _people_of(path, bundle)]
    found = pd.DataFrame(rows, columns=[column.name for column in person_columns(bundle)])
    if groups is not None:
        for name, values in groups.of(found["video"].tolist()).items():
            found[name] = values
    with whole_file(out) as beside:
        found.round(6).to_csv(beside, index=False)


def group_columns(groups: Groups | None) -> list[Column]:
    """The columns of the user's own table, as described in the data dictionary."""
    names = [] if groups is None else groups.columns
    return [Column(name, pa.string(), "", f"from {groups}") for name in names]


def _people_of(path: Path, bundle: Bundle) -> Iterator[dict[str, Any]]:
    """The rows of one file's table."""
    names = ["video", "frame", "time", "person", "status"]
    for task, model in bundle.tasks.items():
        names += [f"{task}_{target}" for target in model.targets]
        shown = [f"{task}_{target}_shown" for target in model.targets]
        names += shown if model.multilabel else [task]
    with open_parquet(path) as file:
        frame = file.read(names).to_pandas()
    frame = frame[frame["person"].notna()]
    for (video, person), own in frame.groupby(["video", "person"], sort=True, observed=True):
        known = own[own["status"] == FrameStatus.OK]
        times = own["time"].dropna()
        row: dict[str, Any] = {
            "video": video,
            "person": int(person),
            "frames": len(own),
            "frames_with_face": len(known),
            "first_time": times.min() if len(times) else np.nan,
            "last_time": times.max() if len(times) else np.nan,
        }
        for task, model in bundle.tasks.items():
            if not model.multilabel:
                counts = known[task].astype(str).value_counts(sort=False)
                most = counts.reindex(list(model.targets)).fillna(0)
                row[task] = most.idxmax() if len(known) else None
            for target in model.targets:
                column = f"{task}_{target}"
                values = known[column].to_numpy(float)
                shown = (
                    known[f"{column}_shown"].to_numpy(float)
                    if model.multilabel
                    else (known[task].astype(str) == target).to_numpy(float)
                )
                row |= {
                    f"{column}_share": shown.mean() if len(shown) else np.nan,
                    f"{column}_mean": values.mean() if len(values) else np.nan,
                    f"{column}_peak": values.max() if len(values) else np.nan,
                    f"{column}_change": mean_change(known["time"].to_numpy(float), values),
                }
        yield row


def mean_change(times: np.ndarray, values: np.ndarray) -> float:
    """Mean absolute change per second of values (n,) at times (n,); NaN for fewer than two.

    Neighbouring values that are more than ``GAP`` seconds apart are not compared.
    """
    step = np.diff(times)
    near = (step > 0) & (step <= GAP)
    if not near.any():
        return float("nan")
    return float(np.abs(np.diff(values))[near].sum() / step[near].sum())
