"""Stage ``imported``: external features in the format of this project's embeddings.

Every annotated frame (and every one that is to be predicted) gets a row, with its feature or the
status ``no_feature``. Rows of the files that match no such frame are counted and left out.
Features are stored as float16, like all others.
"""

from __future__ import annotations

import json
import resource
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clipaffect.config.features import FeatureFile
from clipaffect.config.stage_keys import shard_names
from clipaffect.core.errors import UserError
from clipaffect.core.files import whole_file, write_text
from clipaffect.core.frame_status import KEYS, FrameStatus
from clipaffect.core.hashing import digest, file_digest
from clipaffect.core.parquet import read_table
from clipaffect.core.progress import Progress
from clipaffect.dataset.index_dataset import shard_of
from clipaffect.features.columns import first_not_finite, schema
from clipaffect.features.external_files import FeatureSource, open_features
from clipaffect.features.frame_matching import FrameIndex, frames_of_rows

SPARE_FILES = 128


def import_features(
    files: tuple[FeatureFile, ...],
    labels: list[Path],
    test: list[Path],
    shards: int,
    out: Path,
) -> None:
    """Write ``<shard>.parquet`` and ``import.json`` into the folder ``out``.

    Args:
        files: the files of one import.
        labels: ``dataset/labels/<task>.parquet`` of every task.
        test: ``dataset/test/<task>.parquet``, whose frames are to be predicted.
        shards: the number of shards, as for an encoder.
        out: ``embeddings/<name>``.

    Raises:
        UserError: a list does not match its file, a frame occurs twice, or dimensions differ.
    """
    wanted = _wanted(
        [read_table(path, [*KEYS, "annotated"]) for path in labels],
        [read_table(path, KEYS) for path in test],
    )
    shard = wanted["video"].map({v: shard_of(v, shards) for v in wanted["video"].unique()})
    _allow_files(2 * shards + SPARE_FILES)  # each file, and the lock of its writer
    with ExitStack() as stack:
        sources = [stack.enter_context(open_features(settings)) for settings in files]
        rows, counts = _match(files, sources, wanted)
        layout = schema(sources[0].dimension, digest([file_digest(Path(f.file)) for f in files]))
        paths = [
            stack.enter_context(whole_file(out / f"{name}.parquet")) for name in shard_names(shards)
        ]
        writers = [
            stack.enter_context(pq.ParquetWriter(path, layout, write_page_checksum=True))
            for path in paths
        ]
        progress = stack.enter_context(Progress("features", counts["rows"]))
        for settings, source, own in zip(files, sources, rows, strict=True):
            start = 0
            for block in source.blocks():
                place = own[start : start + len(block)]
                at = np.flatnonzero(place >= 0)
                if len(at):
                    values = _half(block[at], start + at, settings.file)
                    _write(writers, layout, wanted.iloc[place[at]], shard.iloc[place[at]], values)
                start += len(block)
                progress.advance(len(block))
        missing = np.setdiff1d(np.arange(len(wanted)), np.concatenate(rows))
        _write(writers, layout, wanted.iloc[missing], shard.iloc[missing], None)
    write_text(out / "import.json", json.dumps(counts, indent=2) + "\n")


def check_import(
    files: tuple[FeatureFile, ...], labels: list[pd.DataFrame], test: list[pd.DataFrame]
) -> dict[str, int]:
    """Report what an import would find, without reading features: see ``import.json``.

    Raises:
        UserError: as ``import_features``.
    """
    with ExitStack() as stack:
        sources = [stack.enter_context(open_features(settings)) for settings in files]
        return _match(files, sources, _wanted(labels, test))[1]


def _match(
    files: tuple[FeatureFile, ...], sources: list[FeatureSource], wanted: pd.DataFrame
) -> tuple[list[np.ndarray], dict[str, int]]:
    """For each file, the wanted frame of each row by number (-1: none); and the counts."""
    index = FrameIndex(wanted)
    taken = np.zeros(len(wanted), bool)
    rows = []
    for settings, source in zip(files, sources, strict=True):
        if source.dimension != sources[0].dimension:
            raise UserError(
                f"feature length {source.dimension} differs from {sources[0].dimension} elsewhere",
                where=settings.file,
                fix="use a separate name for the features of each encoder",
            )
        own = frames_of_rows(settings, source.rows, index)
        _take(own, settings, taken)
        rows.append(own)
    total = sum(source.rows for source in sources)
    if not taken.any():
        video, _, frame = wanted.iloc[0]
        raise UserError(
            f"none of the {total:,} rows matches an annotated frame (such as '{video}', frame "
            f"{frame})",
            where=", ".join(settings.frames or settings.file for settings in files),
            fix="name frames as video/00001.jpg, with the labels' video names, or images by path",
        )
    used = int(taken.sum())
    counts = {
        "rows": total,
        "used": used,
        "of_no_annotated_frame": total - used,
        "frames_without_feature": len(wanted) - used,
        "dimension": sources[0].dimension,
    }
    return rows, counts


def _allow_files(count: int) -> None:
    """Raise the limit on open files, because all shards are open at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


def _wanted(labels: list[pd.DataFrame], test: list[pd.DataFrame]) -> pd.DataFrame:
    """All frames that have a label or are to be predicted."""
    if any((rows["frame"] == 0).any() for rows in test):
        raise UserError(
            "a list of videos does not say which frames to predict",
            where="data.test",
            fix="use the organisers' sample file with imported features",
        )
    parts = [rows.loc[rows["annotated"], KEYS] for rows in labels] + [rows[KEYS] for rows in test]
    plain = [part.astype({"video": object, "person": object}) for part in parts]
    return pd.concat(plain).drop_duplicates(ignore_index=True)


def _half(values: np.ndarray, rows: np.ndarray, where: str) -> np.ndarray:
    """Convert to float16, or raise an error that names the row."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    damaged = first_not_finite(half)
    if damaged is not None:
        raise UserError(
            "a feature is not a number, or exceeds 65,504, the largest value of float16",
            where=f"{where}, row {rows[damaged] + 1}",
            fix="remove the row, or scale the features",
        )
    return half


def _take(rows: np.ndarray, settings: FeatureFile, taken: np.ndarray) -> None:
    """Record which frames have a feature.

    Raises:
        UserError: a frame already has a feature.
    """
    where = settings.frames or settings.file
    at = np.flatnonzero(rows >= 0)
    _, first = np.unique(rows[at], return_index=True)
    again = np.concatenate([at[taken[rows[at]]], np.delete(at, first)])
    if len(again):
        raise UserError(
            "a frame has two rows of features",
            where=f"{where}, row {again[0] + 1}",
            fix="remove one of them",
        )
    taken[rows[at]] = True


def _write(
    writers: list[pq.ParquetWriter],
    layout: pa.Schema,
    rows: pd.DataFrame,
    shard: pd.Series,
    values: np.ndarray | None,
) -> None:
    """Append rows to their shards; without values their status is ``no_feature``."""
    dimension = layout.field("feature").type.list_size
    for number in np.unique(shard):
        at = np.flatnonzero(shard == number)
        own = rows.iloc[at]
        if values is None:
            feature = pa.nulls(len(at), pa.list_(pa.float16(), dimension))
        else:
            flat = pa.array(np.ascontiguousarray(values[at]).ravel())
            feature = pa.FixedSizeListArray.from_arrays(flat, dimension)
        status = str(FrameStatus.OK if values is not None else FrameStatus.NO_FEATURE)
        columns = [pa.array(own[name], layout.field(name).type) for name in KEYS]
        columns += [pa.array([status] * len(at)), feature]
        writers[number].write_table(pa.table(columns, schema=layout))
