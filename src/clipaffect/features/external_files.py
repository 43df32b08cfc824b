"""Read external feature files (HDF5, NumPy, Parquet); pickles are never read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipaffect.config.features import FeatureFile
from clipaffect.core.errors import UserError
from clipaffect.dataset.csv_cells import PARQUET

AT_ONCE = 8192
HDF5, NUMPY = (".h5", ".hdf5"), (".npy",)


@dataclass(frozen=True)
class FeatureSource:
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
def open_features(settings: FeatureFile) -> Iterator[FeatureSource]:
    """Open a feature file; only the requested rows are read.

    Raises:
        UserError: the file does not exist, has another format, or is not a table of numbers.
    """
    path = Path(settings.file)
    suffix = path.suffix.lower()
    if not path.is_file():
        raise UserError(
            "the feature file does not exist",
            where=f"{path}, relative to {Path.cwd()}",
            fix="correct features.import",
        )
    if suffix in NUMPY:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise UserError(
                f"the file is not an array of numbers: {error}",
                where=path,
                fix="save it with numpy.save, as float32",
            ) from None
        yield _source(array, path)
    elif suffix in HDF5:
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise UserError(
                f"the file is not an HDF5 file: {error}", where=path, fix="copy it again"
            ) from None
        with file:
            yield _source(_data_set(file, settings, path), path)
    elif suffix in PARQUET:
        with _parquet(path) as parquet:
            yield _parquet_source(parquet, path)
    else:
        known = ", ".join((*HDF5, *NUMPY, *PARQUET))
        raise UserError(
            f"'{path.suffix}' is not a supported feature format",
            where=path,
            fix=f"use {known}; pickles are never read",
        )


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
        what = f"no data set '{wanted}'" if wanted else f"expected one data set, not {len(found)}"
        raise UserError(
            f"{what}: the file has {', '.join(found) or 'none'}",
            where=path,
            fix="set 'dataset' under features.import to the one with the features",
        )
    if file[wanted].is_virtual or file[wanted].external:
        raise UserError(
            f"the data set '{wanted}' is stored in other files",
            where=path,
            fix="copy the features into this file",
        )
    return file[wanted]


def _source(array: Any, path: Path) -> FeatureSource:
    shape: tuple[int, ...] = getattr(array, "shape", ())  # an .npz has none
    dtype = getattr(array, "dtype", np.dtype(object))
    if len(shape) != 2 or not shape[0] or not shape[1] or not np.issubdtype(dtype, np.floating):
        raise UserError(
            f"the features have shape {tuple(shape)} and type {dtype}",
            where=path,
            fix="use one array of float16, float32 or float64 with a row for each frame",
        )

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, shape[0], AT_ONCE):
            yield np.asarray(array[start : start + AT_ONCE])

    return FeatureSource(shape[0], shape[1], blocks)


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(
            f"the file is not Parquet: {error}", where=path, fix="write it again"
        ) from None


def _parquet_source(file: pq.ParquetFile, path: Path) -> FeatureSource:
    names = file.schema_arrow.names
    kind = file.schema_arrow.field("feature").type if "feature" in names else pa.null()
    is_list = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    if not (is_list or pa.types.is_large_list(kind)) or not pa.types.is_floating(kind.value_type):
        raise UserError(
            "there is no column 'feature' with lists of floating-point numbers; the columns are "
            f"{', '.join(names)}",
            where=path,
            fix="write one list of numbers in each row",
        )
    first = next(file.iter_batches(1, columns=["feature"]), None)
    width = len(first["feature"][0].as_py() or ()) if first is not None and len(first) else 0

    def blocks() -> Iterator[np.ndarray]:
        for batch in file.iter_batches(AT_ONCE, columns=["feature"]):
            values = batch["feature"].flatten().to_numpy(zero_copy_only=False)
            if not width or len(values) != width * len(batch) or batch["feature"].null_count:
                raise UserError(
                    "the lists in the column 'feature' differ in length",
                    where=path,
                    fix="write the same number of values in each row",
                )
            yield values.reshape(len(batch), width)

    return FeatureSource(file.metadata.num_rows, width, blocks)
