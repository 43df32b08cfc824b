"""Stage ``imported``: features from elsewhere, in the form of this project's embeddings.

Every annotated frame gets a row, with its feature or the status ``no_feature``; rows of the files
that belong to no annotated frame are counted and left out. Features are kept as float16, as all
are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clipaffect.config.features import FeatureFile
from clipaffect.dataset.files import read_lines
from clipaffect.dataset.index import shard_of
from clipaffect.dataset.tree import folder_name
from clipaffect.digest import digest, file_digest
from clipaffect.embeddings import schema
from clipaffect.errors import UserError
from clipaffect.outcomes import Outcome
from clipaffect.progress import Progress
from clipaffect.stages import shard_names
from clipaffect.tables import read_frame, whole_file, write_text

KEYS = ["video", "person", "frame"]
AT_ONCE = 8192
FRAME = re.compile(r"(?:.*/)?(?P<name>[^/]+)/0*(?P<frame>[1-9]\d*)\.\w+")
HDF5, NUMPY, PARQUET = (".h5", ".hdf5"), (".npy",), (".parquet", ".pq")


@dataclass(frozen=True)
class Source:
    """An open file of features.

    Attributes:
        rows: how many.
        dimension: of a feature.
        block: from a first and a last row to their features (n, dimension).
    """

    rows: int
    dimension: int
    block: Any


@contextmanager
def open_features(settings: FeatureFile) -> Iterator[Source]:
    """Open a file of features; nothing is read but what is asked for.

    Raises:
        UserError: no such file, another format, or no table of numbers.
    """
    path = Path(settings.file)
    if not path.is_file():
        raise UserError("no such file of features", where=f"{path}, seen from {Path.cwd()}",
                        mend="correct features.import")  # fmt: skip
    suffix = path.suffix.lower()
    if suffix in NUMPY:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise UserError(f"the file is no array of numbers: {error}", where=path,
                            mend="save it with numpy.save, as float32") from None  # fmt: skip
        yield _source(array, path)
    elif suffix in HDF5:
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise UserError(f"the file is not HDF5: {error}", where=path,
                            mend="copy it again") from None  # fmt: skip
        with file:
            yield _source(_data_set(file, settings, path), path)
    elif suffix in PARQUET:
        column = pq.read_table(path, columns=["feature"])["feature"].combine_chunks()
        width = len(column[0]) if len(column) else 0
        values = column.flatten().to_numpy(zero_copy_only=False)
        if not len(column) or len(values) != width * len(column):
            raise UserError("the column 'feature' is empty, or its lists differ in length",
                            where=path, mend="write one list of numbers a row")  # fmt: skip
        yield _source(values.reshape(len(column), width), path)
    else:
        known = ", ".join((*HDF5, *NUMPY, *PARQUET))
        raise UserError(f"'{path.suffix}' is no known format of features", where=path,
                        mend=f"give {known}; pickles are never read")  # fmt: skip


def _data_set(file: h5py.File, settings: FeatureFile, path: Path) -> h5py.Dataset:
    found: list[str] = []
    file.visititems(
        lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None
    )
    wanted = settings.dataset
    if wanted is None and len(found) == 1:
        wanted = found[0]
    if wanted not in found:
        what = f"no data set '{wanted}'" if wanted else f"{len(found)} data sets"
        raise UserError(f"{what}: the file has {', '.join(found) or 'none'}", where=path,
                        mend="name the features' one under features.import: dataset")  # fmt: skip
    return file[wanted]


def _source(array: Any, path: Path) -> Source:
    if array.ndim != 2 or not array.shape[1] or not np.issubdtype(array.dtype, np.floating):
        raise UserError(
            f"features of shape {tuple(array.shape)} and type {array.dtype}", where=path,
            mend="give a row for each frame, of float16, float32 or float64",
        )  # fmt: skip
    return Source(array.shape[0], array.shape[1], lambda a, b: np.asarray(array[a:b]))


def import_features(
    files: tuple[FeatureFile, ...], labels: list[Path], shards: int, out: Path
) -> None:
    """Write ``<shard>.parquet`` and ``import.json`` into the folder ``out``.

    Args:
        files: the files of one import.
        labels: ``dataset/labels/<task>.parquet`` of every task.
        shards: as many files as an encoder's.
        out: ``embeddings/<name>``.

    Raises:
        UserError: a list and its file that do not fit, a frame twice, another dimension.
    """
    wanted = _annotated(labels)
    place = {key: number for number, key in enumerate(map(tuple, wanted[KEYS].to_numpy()))}
    names = {folder_name(video, person): (video, person) for video, person, _ in place}
    taken = np.full(len(wanted), -1, np.int64)  # the row, counted over all files
    unknown = 0
    shard = wanted["video"].map({v: shard_of(v, shards) for v in wanted["video"].unique()})
    total, dimension = 0, 0
    with ExitStack() as stack:
        sources = [stack.enter_context(open_features(settings)) for settings in files]
        dimension = sources[0].dimension
        record = digest([file_digest(Path(settings.file)) for settings in files])
        layout = schema(dimension, record)
        paths = [
            stack.enter_context(whole_file(out / f"{name}.parquet")) for name in shard_names(shards)
        ]
        writers = [stack.enter_context(pq.ParquetWriter(path, layout)) for path in paths]
        progress = stack.enter_context(Progress("features", sum(s.rows for s in sources)))
        for settings, source in zip(files, sources, strict=True):
            if source.dimension != dimension:
                raise UserError(
                    f"features of length {source.dimension}, those before of {dimension}",
                    where=settings.file, mend="import features of one encoder under one name",
                )  # fmt: skip
            rows = _rows_of(settings, source, place, names)
            unknown += int((rows < 0).sum())
            _take(rows, total, settings, taken)
            total += source.rows
            for start in range(0, source.rows, AT_ONCE):
                own = rows[start : start + AT_ONCE]
                at = np.flatnonzero(own >= 0)
                if len(at):
                    with np.errstate(over="ignore"):  # said by name when the table is built
                        values = source.block(start, start + len(own))[at].astype(np.float16)
                    _write(writers, layout, wanted.iloc[own[at]], shard.iloc[own[at]], values)
                progress.advance(len(own))
        missing = np.flatnonzero(taken < 0)
        _write(writers, layout, wanted.iloc[missing], shard.iloc[missing], None)
    counts = {"rows": total, "used": int((taken >= 0).sum()), "of_no_annotated_frame": unknown,
              "frames_without_feature": len(missing), "dimension": dimension}  # fmt: skip
    write_text(out / "import.json", json.dumps(counts, indent=2) + "\n")
    if len(missing) == len(wanted):
        example = next(iter(place))
        raise UserError(
            f"none of the {total:,} rows belongs to an annotated frame (such as video "
            f"'{example[0]}', frame {example[2]})",
            where=", ".join(settings.frames or settings.file for settings in files),
            mend="name the frames as video/00001.jpg, with the videos' names of the annotations",
        )


def _annotated(labels: list[Path]) -> pd.DataFrame:
    parts = []
    for path in labels:
        rows = read_frame(path, [*KEYS, "annotated"])
        parts.append(rows.loc[rows["annotated"], KEYS])
    return pd.concat(parts).drop_duplicates(ignore_index=True)


def _rows_of(
    settings: FeatureFile,
    source: Source,
    place: dict[tuple[str, str, int], int],
    names: dict[str, tuple[str, str]],
) -> np.ndarray:
    """(rows,) the annotated frame of each row of a file, by number; -1 for none."""
    if settings.frames is None:
        keys = _own_keys(settings)
    else:
        path = Path(settings.frames)
        if not path.is_file():
            raise UserError("no such list of frames", where=f"{path}, seen from {Path.cwd()}",
                            mend="correct features.import")  # fmt: skip
        lines = [line for line in read_lines(path, "give a text file") if line.strip()]
        keys = [_key(line.strip(), place, names) for line in lines]
    if len(keys) != source.rows:
        raise UserError(
            f"{len(keys):,} frames are listed, but {settings.file} has {source.rows:,} rows",
            where=settings.frames or settings.file,
            mend="give the list that the features were made from, a line for each row",
        )
    return np.array([place.get(key, -1) for key in keys], np.int64)


def _key(
    line: str, place: dict[tuple[str, str, int], int], names: dict[str, tuple[str, str]]
) -> tuple[str, str, int]:
    """The frame that a line names, with a label behind it or not."""
    for text in (line, re.split(r"[\s,]", line)[0]):
        if (text, "", 1) in place:  # an image by its path
            return text, "", 1
    match = FRAME.match(line)
    if match and match["name"] in names:
        return (*names[match["name"]], int(match["frame"]))
    return line, "", 0


def _own_keys(settings: FeatureFile) -> list[tuple[str, str, int]]:
    """The frames of a Parquet file that names them itself."""
    path = Path(settings.file)
    columns = pq.read_schema(path).names if path.suffix.lower() in PARQUET else []
    if "image" in columns:
        images = pq.read_table(path, columns=["image"])["image"].to_pylist()
        return [(str(image), "", 1) for image in images]
    if {"video", "frame"} <= set(columns):
        table = pq.read_table(path, columns=[n for n in KEYS if n in columns]).to_pandas()
        person = table["person"] if "person" in table else [""] * len(table)
        keys = zip(table["video"].astype(str), person, table["frame"].astype(int), strict=True)
        return [(video, who or "", frame) for video, who, frame in keys]
    raise UserError(
        "which frame a row belongs to is not said", where=path,
        mend="give features.import 'frames', a text file with a frame in each line (a Parquet "
        "file may have the columns image, or video and frame)",
    )  # fmt: skip


def _take(rows: np.ndarray, before: int, settings: FeatureFile, taken: np.ndarray) -> None:
    """Note which row each frame has its feature from.

    Raises:
        UserError: a frame has one already.
    """
    where = settings.frames or settings.file
    at = np.flatnonzero(rows >= 0)
    _, first = np.unique(rows[at], return_index=True)
    again = np.concatenate([at[taken[rows[at]] >= 0], np.delete(at, first)])
    if len(again):
        raise UserError("a frame has two rows of features", where=f"{where}, row {again[0] + 1}",
                        mend="remove one of them")  # fmt: skip
    taken[rows[at]] = before + at


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
        status = str(Outcome.OK if values is not None else Outcome.NO_FEATURE)
        columns = [pa.array(own[name], layout.field(name).type) for name in KEYS]
        columns += [pa.array([status] * len(at)), feature]
        writers[number].write_table(pa.table(columns, schema=layout))
