"""Stage ``imported``: features from elsewhere, in the form of this project's embeddings.

Every annotated frame (and every one that is to be predicted) gets a row, with its feature or the
status ``no_feature``; rows of the files that belong to no such frame are counted and left out.
Features are kept as float16, as all are.
"""

from __future__ import annotations

import json
import re
import resource
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
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
SPARE_FILES = 128
FRAME = re.compile(r"0*(?P<frame>[1-9]\d{0,8})\.\w+")
# A path, then labels: numbers apart by blanks or commas.
LABELLED = re.compile(r"(?P<path>.*?\.\w+)[\s,]+-?\d[\d\s,.-]*")
HDF5, NUMPY, PARQUET = (".h5", ".hdf5"), (".npy",), (".parquet", ".pq")


@dataclass(frozen=True)
class Source:
    """An open file of features.

    Attributes:
        rows: how many.
        dimension: of a feature.
        blocks: reads them in order, at most ``AT_ONCE`` (n, dimension) at a time.
    """

    rows: int
    dimension: int
    blocks: Callable[[], Iterator[np.ndarray]]


@contextmanager
def open_features(settings: FeatureFile) -> Iterator[Source]:
    """Open a file of features; nothing is read but what is asked for.

    Raises:
        UserError: no such file, another format, or no table of numbers.
    """
    path = Path(settings.file)
    suffix = path.suffix.lower()
    if not path.is_file():
        raise UserError("no such file of features", where=f"{path}, seen from {Path.cwd()}",
                        mend="correct features.import")  # fmt: skip
    if suffix in NUMPY:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
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
        with _parquet(path) as parquet:
            yield _parquet_source(parquet, path)
    else:
        known = ", ".join((*HDF5, *NUMPY, *PARQUET))
        raise UserError(f"'{path.suffix}' is no known format of features", where=path,
                        mend=f"give {known}; pickles are never read")  # fmt: skip


def _data_set(file: h5py.File, settings: FeatureFile, path: Path) -> h5py.Dataset:
    found: list[str] = []

    def note(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found.append(name)

    file.visititems(note)
    wanted = settings.dataset
    if wanted is None and len(found) == 1:
        wanted = found[0]
    if wanted not in found:
        what = f"no data set '{wanted}'" if wanted else f"{len(found)} data sets"
        raise UserError(f"{what}: the file has {', '.join(found) or 'none'}", where=path,
                        mend="name the features' one under features.import: dataset")  # fmt: skip
    if file[wanted].is_virtual or file[wanted].external:
        raise UserError(f"the data set '{wanted}' lies in other files", where=path,
                        mend="copy the features into this one")  # fmt: skip
    return file[wanted]


def _source(array: Any, path: Path) -> Source:
    shape: tuple[int, ...] = getattr(array, "shape", ())  # an .npz has none
    dtype = getattr(array, "dtype", np.dtype(object))
    if len(shape) != 2 or not shape[0] or not shape[1] or not np.issubdtype(dtype, np.floating):
        raise UserError(
            f"features of shape {tuple(shape)} and type {dtype}", where=path,
            mend="give one array with a row for each frame, of float16, float32 or float64",
        )  # fmt: skip

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, shape[0], AT_ONCE):
            yield np.asarray(array[start : start + AT_ONCE])

    return Source(shape[0], shape[1], blocks)


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"the file is not Parquet: {error}", where=path,
                        mend="write it again") from None  # fmt: skip


def _parquet_source(file: pq.ParquetFile, path: Path) -> Source:
    names = file.schema_arrow.names
    kind = file.schema_arrow.field("feature").type if "feature" in names else pa.null()
    is_list = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    if not (is_list or pa.types.is_large_list(kind)) or not pa.types.is_floating(kind.value_type):
        raise UserError(
            f"no column 'feature' with lists of floating-point numbers among {', '.join(names)}",
            where=path, mend="write one list of numbers a row",
        )  # fmt: skip
    first = next(file.iter_batches(1, columns=["feature"]), None)
    width = len(first["feature"][0].as_py() or ()) if first is not None and len(first) else 0

    def blocks() -> Iterator[np.ndarray]:
        for batch in file.iter_batches(AT_ONCE, columns=["feature"]):
            values = batch["feature"].flatten().to_numpy(zero_copy_only=False)
            if not width or len(values) != width * len(batch) or batch["feature"].null_count:
                raise UserError("the lists in the column 'feature' differ in length", where=path,
                                mend="write as many numbers in each row")  # fmt: skip
            yield values.reshape(len(batch), width)

    return Source(file.metadata.num_rows, width, blocks)


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
        shards: as many files as an encoder's.
        out: ``embeddings/<name>``.

    Raises:
        UserError: a list and its file that do not fit, a frame twice, another dimension.
    """
    wanted = _wanted(
        [read_frame(path, [*KEYS, "annotated"]) for path in labels],
        [read_frame(path, KEYS) for path in test],
    )
    shard = wanted["video"].map({v: shard_of(v, shards) for v in wanted["video"].unique()})
    _allow_files(shards + SPARE_FILES)
    with ExitStack() as stack:
        sources = [stack.enter_context(open_features(settings)) for settings in files]
        rows, counts = _match(files, sources, wanted)
        layout = schema(sources[0].dimension, digest([file_digest(Path(f.file)) for f in files]))
        paths = [
            stack.enter_context(whole_file(out / f"{name}.parquet")) for name in shard_names(shards)
        ]
        writers = [stack.enter_context(pq.ParquetWriter(path, layout)) for path in paths]
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
    """What an import would find, without reading a feature: see ``import.json``.

    Raises:
        UserError: as ``import_features``.
    """
    with ExitStack() as stack:
        sources = [stack.enter_context(open_features(settings)) for settings in files]
        return _match(files, sources, _wanted(labels, test))[1]


def _match(
    files: tuple[FeatureFile, ...], sources: list[Source], wanted: pd.DataFrame
) -> tuple[list[np.ndarray], dict[str, int]]:
    """For each file the wanted frame of each row, by number (-1: none); and the counts."""
    keys = zip(*(wanted[name].astype(object) for name in KEYS), strict=True)
    place = {key: number for number, key in enumerate(keys)}
    names = _names(wanted)
    taken = np.zeros(len(wanted), bool)
    rows = []
    for settings, source in zip(files, sources, strict=True):
        if source.dimension != sources[0].dimension:
            raise UserError(
                f"features of length {source.dimension}, those before of {sources[0].dimension}",
                where=settings.file, mend="import features of one encoder under one name",
            )  # fmt: skip
        own = _rows_of(settings, source, place, names)
        _take(own, settings, taken)
        rows.append(own)
    total = sum(source.rows for source in sources)
    if not taken.any():
        video, _, frame = next(iter(place))
        raise UserError(
            f"none of the {total:,} rows belongs to an annotated frame (such as '{video}', frame "
            f"{frame})",
            where=", ".join(settings.frames or settings.file for settings in files),
            mend="name each as video/00001.jpg, the video as in the labels, or an image by its "
            "path",
        )
    used = int(taken.sum())
    counts = {"rows": total, "used": used, "of_no_annotated_frame": total - used,
              "frames_without_feature": len(wanted) - used,
              "dimension": sources[0].dimension}  # fmt: skip
    return rows, counts


def _allow_files(count: int) -> None:
    """Every shard is open at once: ask for as many files, within the machine's limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


def _wanted(labels: list[pd.DataFrame], test: list[pd.DataFrame]) -> pd.DataFrame:
    """Every frame that has a label or is to be predicted."""
    if any((rows["frame"] == 0).any() for rows in test):
        raise UserError(
            "a list of videos does not say which frames to predict", where="data.test",
            mend="with imported features give the organisers' sample file",
        )  # fmt: skip
    parts = [rows.loc[rows["annotated"], KEYS] for rows in labels] + [rows[KEYS] for rows in test]
    plain = [part.astype({"video": object, "person": object}) for part in parts]
    return pd.concat(plain).drop_duplicates(ignore_index=True)


def _names(wanted: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Who is meant by the name of a folder of frames, with or without a video's ending."""
    people = wanted[["video", "person"]].drop_duplicates().itertuples(index=False)
    found: dict[str, tuple[str, str]] = {}
    shorter: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for video, person in people:
        found[folder_name(video, person)] = (video, person)
        stem = str(PurePosixPath(video).with_suffix(""))
        shorter[folder_name(stem, person)].append((video, person))
    return {name: own[0] for name, own in shorter.items() if len(own) == 1} | found


def _half(values: np.ndarray, rows: np.ndarray, where: str) -> np.ndarray:
    """As float16, or an error that names the row."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    finite = np.isfinite(half).all(axis=1)
    if not finite.all():
        raise UserError(
            "a feature is not a number, or beyond 65,504, float16's largest",
            where=f"{where}, row {rows[~finite][0] + 1}",
            mend="remove the row, or scale the features",
        )
    return half


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
    """The frame that a line names, with labels behind it or not, in whatever folder."""
    match = LABELLED.fullmatch(line)
    for text in dict.fromkeys((line, match["path"] if match else line)):
        parts = PurePosixPath(text).parts
        for start in range(len(parts)):
            image = "/".join(parts[start:])
            if (image, "", 1) in place:
                return image, "", 1
            number = FRAME.fullmatch(parts[-1])
            folder = "/".join(parts[start:-1])
            if number and folder in names:
                return (*names[folder], int(number["frame"]))
    return line, "", 0


def _own_keys(settings: FeatureFile) -> list[tuple[str, str, int]]:
    """The frames of a Parquet file that names them itself."""
    path = Path(settings.file)
    columns = pq.read_schema(path).names if path.suffix.lower() in PARQUET else []
    if "image" in columns:
        images = pq.read_table(path, columns=["image"])["image"].to_pylist()
        return [(str(PurePosixPath(str(image))), "", 1) for image in images]
    if {"video", "frame"} <= set(columns):
        who = "side" if "side" in columns else "person"  # as this project's own tables call it
        table = pq.read_table(path, columns=[n for n in ("video", who, "frame") if n in columns])
        sides = table[who].to_pylist() if who in columns else [""] * len(table)
        keys = zip(table["video"].to_pylist(), sides, table["frame"].to_pylist(), strict=True)
        return [_own_key(path, row, *key) for row, key in enumerate(keys, start=1)]
    raise UserError(
        "which frame a row belongs to is not said", where=path,
        mend="give features.import 'frames', a text file with a frame in each line (a Parquet "
        "file may have the columns image, or video, frame and side)",
    )  # fmt: skip


def _own_key(path: Path, row: int, video: Any, side: Any, frame: Any) -> tuple[str, str, int]:
    whole = isinstance(frame, int) or (isinstance(frame, float) and frame.is_integer())
    if not whole or side not in (None, "", "left", "right"):
        raise UserError(
            f"frame {frame!r} and side {side!r}", where=f"{path}, row {row}",
            mend="give a whole number from 1, and left, right or nothing",
        )  # fmt: skip
    return str(video), side or "", int(frame)


def _take(rows: np.ndarray, settings: FeatureFile, taken: np.ndarray) -> None:
    """Note which frames have their feature.

    Raises:
        UserError: a frame has one already.
    """
    where = settings.frames or settings.file
    at = np.flatnonzero(rows >= 0)
    _, first = np.unique(rows[at], return_index=True)
    again = np.concatenate([at[taken[rows[at]]], np.delete(at, first)])
    if len(again):
        raise UserError("a frame has two rows of features", where=f"{where}, row {again[0] + 1}",
                        mend="remove one of them")  # fmt: skip
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
        status = str(Outcome.OK if values is not None else Outcome.NO_FEATURE)
        columns = [pa.array(own[name], layout.field(name).type) for name in KEYS]
        columns += [pa.array([status] * len(at)), feature]
        writers[number].write_table(pa.table(columns, schema=layout))
