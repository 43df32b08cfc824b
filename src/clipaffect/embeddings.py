"""Stage ``embeddings``: one row for every row of a shard's faces, with the crop's feature."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from clipaffect.ahead import in_order
from clipaffect.config.encoders import Encoder
from clipaffect.dataset.manifest import VIDEO, runs_of_images
from clipaffect.devices import one_device
from clipaffect.digest import digest
from clipaffect.encoders.check import check_encoder
from clipaffect.encoders.load import LoadedEncoder, load_encoder
from clipaffect.encoders.record import encoder_record
from clipaffect.errors import UserError, first_line
from clipaffect.faces.crops import decode_image, read_crops
from clipaffect.outcomes import Outcome
from clipaffect.progress import Progress
from clipaffect.stages import VERSIONS
from clipaffect.store import Store
from clipaffect.tables import ROW_GROUP, read_frame, take_rows, write_batches

KEYS = ("video", "person", "frame", "status")
BATCHES_A_PIECE = 4  # so that at most every fourth batch is padded


def schema(dimension: int, encoder: str) -> pa.Schema:
    """Columns of ``embeddings/<encoder>/<shard>.parquet``; no face, no feature (null).

    ``encoder`` is the digest of the encoder's record: features of two encoders are never joined,
    even if they have one length.
    """
    return pa.schema(
        [
            ("video", pa.string()),
            ("person", pa.string()),
            ("frame", pa.int32()),
            ("status", pa.string()),
            ("feature", pa.list_(pa.float16(), dimension)),
        ],
        metadata={"encoder": encoder},
    )


class NotFinite(Exception):
    """The feature of crop ``args[0]`` is not finite."""


@dataclass(frozen=True)
class Batch:
    """Network input of some crops: ``places`` (n,) of those that could be decoded, ``inputs``."""

    places: np.ndarray
    inputs: torch.Tensor | None


def prepare_batch(crops: list[bytes], start: int, encoder: LoadedEncoder, batch: int) -> Batch:
    """Decode and preprocess the crops from ``start`` on.

    Every batch has the same size, padded with zeros: with another size the matrix products take
    another path and the last bits of a row would depend on how many neighbours it has.
    """
    decoded = [decode_image(crop) for crop in crops[start : start + batch]]
    places = np.array([start + k for k, crop in enumerate(decoded) if crop is not None], np.int64)
    if not len(places):
        return Batch(places, None)
    inputs = torch.stack([encoder.prepare(crop) for crop in decoded if crop is not None])
    padding = inputs.new_zeros(batch - len(inputs), *inputs.shape[1:])
    return Batch(places, encoder.ready(torch.cat([inputs, padding])))


def embed_batches(
    batches: Iterator[Batch], count: int, encoder: LoadedEncoder, threads: int = 1
) -> np.ndarray:
    """Features (count, dimension) float16; NaN where a crop is damaged.

    Several threads have a batch each: a batch's features do not depend on how many they are.

    Raises:
        NotFinite: a feature is not finite.
        UserError: the device's memory is too small for the batch.
    """
    features = np.full((count, encoder.dimension), np.nan, np.float16)

    def embedded(batch: Batch) -> tuple[Batch, np.ndarray | None]:
        if batch.inputs is None:
            return batch, None
        return batch, _embed(encoder, batch.inputs)[: len(batch.places)].numpy()

    with in_order(threads if threads > 1 else 0, _one_thread) as each:
        for batch, result in each(embedded, batches):
            if result is None:
                continue
            values = result.astype(np.float16)
            finite = np.isfinite(values).all(axis=1)
            if not finite.all():
                raise NotFinite(int(batch.places[np.flatnonzero(~finite)[0]]))
            features[batch.places] = values
    return features


def _one_thread() -> None:
    torch.set_num_threads(1)  # it holds for the thread that says it


def embed_crops(crops: list[bytes], encoder: LoadedEncoder, batch: int) -> np.ndarray:
    """Features (n, dimension) float16 of encoded crops; see ``embed_batches``."""
    batches = (prepare_batch(crops, k, encoder, batch) for k in range(0, len(crops), batch))
    return embed_batches(batches, len(crops), encoder)


def _embed(encoder: LoadedEncoder, inputs: torch.Tensor) -> torch.Tensor:
    try:
        return encoder.embed(inputs)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        said = ("out of memory", "allocate memory")
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in said):
            raise
        raise UserError(
            f"the memory does not hold a batch of {len(inputs)}: {first_line(error)}",
            where="encoders.<name>.batch",
            mend="make it smaller (half, say); the features of what is done already stay in the "
            "store under the old size, and everything is embedded with one size",
        ) from None


@dataclass
class _Piece:
    """Some rows of a video (or of single images) that are embedded together.

    Attributes:
        rows: of the shard's faces, with their numbers in it as the index.
        found: (n,) numbers of the rows with a face.
        crops: the different crops among them; ``which`` (n,) of these each row has.
        waiting: its batches while they are prepared; none where the store has the piece.
    """

    rows: pd.DataFrame
    found: np.ndarray
    crops: list[bytes]
    which: np.ndarray
    key: dict[str, Any]
    waiting: list[Future[Batch]] = field(default_factory=list)


def embed_faces(
    manifest: Path,
    faces: Path,
    settings: Encoder,
    assets: Path,
    store: Store,
    out: Path,
    load: Callable[[Encoder, Path, str], LoadedEncoder] | None = None,
    threads: int = 1,
) -> None:
    """Write ``out``: the features of every row of ``faces``, in its order.

    Pieces of a video's rows are pieces of the work store, keyed by the bytes of their crops and
    the encoder, wherever they come from; identical crops in a piece are embedded once. The
    network is loaded only if a piece is missing. While it works on one piece, the crops of the
    next are decoded and preprocessed on threads of their own. ``load`` stands in for
    ``load_encoder``, such as one that remembers; on a CPU ``threads`` run the network side by side.
    """
    check_encoder(settings, "<name>")  # also where every feature comes from the store
    torch.set_num_threads(1)  # one job is one thread: its bytes do not depend on the machine's load
    with (
        one_device(settings.kind == "open_clip") as device,
        ThreadPoolExecutor(settings.workers) as pool,
    ):
        record = encoder_record(settings, assets, device)

        @cache
        def encoder() -> LoadedEncoder:
            return (load or load_encoder)(settings, assets, device)

        def write_dimension(folder: Path) -> None:
            (folder / "dimension.json").write_text(json.dumps(encoder().dimension))

        key = {"version": VERSIONS["encoders"], "encoder": record}
        stored = store.get_or_make("encoders", key, write_dimension)
        dimension = json.loads((stored / "dimension.json").read_text())
        rows = read_frame(faces, list(KEYS))
        pieces = _pieces(rows, manifest, faces, settings.batch, record)

        begun = set()

        def begin(piece: _Piece, again: bool = False) -> None:
            missing = not store.has("embeddings", piece.key)
            if again or (missing and piece.key["crops"] not in begun):
                begun.add(piece.key["crops"])
                piece.waiting = [
                    pool.submit(prepare_batch, piece.crops, start, encoder(), settings.batch)
                    for start in range(0, len(piece.crops), settings.batch)
                ]

        def make(piece: _Piece, folder: Path) -> None:
            if not piece.waiting:  # the store had it, and somebody has deleted it since
                begin(piece, again=True)
            batches = _as_they_come(piece)
            side_by_side = threads if device == "cpu" else 1
            try:
                features = embed_batches(batches, len(piece.crops), encoder(), side_by_side)
            except NotFinite as error:
                row = piece.found[np.flatnonzero(piece.which == error.args[0])[0]]
                raise _not_finite(rows.loc[row]) from None
            np.save(folder / "features.npy", features)

        def tables() -> Iterator[pa.Table]:
            with Progress("crops", len(rows)) as progress:
                for piece in _one_ahead(pieces, begin):
                    made = store.get_or_make("embeddings", piece.key, partial(make, piece))
                    features = np.load(made / "features.npy", allow_pickle=False)
                    yield _with_features(piece.rows, features[piece.which])
                    progress.advance(len(piece.rows))

        write_batches(out, schema(dimension, digest(record)), tables())


def _pieces(
    rows: pd.DataFrame, manifest: Path, faces: Path, batch: int, record: dict[str, Any]
) -> Iterator[_Piece]:
    """The rows of a shard in pieces, in order, each with its crops."""
    table = pq.ParquetFile(faces)
    listed = read_frame(manifest, ["video", "kind"])
    single = ~rows["video"].isin(listed["video"][listed["kind"] == VIDEO])
    source = rows["video"].where(~single, runs_of_images(rows["video"][single]))
    length = max(ROW_GROUP, BATCHES_A_PIECE * batch)
    for _, own in rows.groupby(source, sort=False):
        for start in range(0, len(own), length):
            part = own.iloc[start : start + length]
            found = part.index[part["status"] == Outcome.OK].to_numpy()
            crops = read_crops(take_rows(table, found, ["crop", "image"])) if len(found) else []
            hashes = [hashlib.sha256(crop).hexdigest() for crop in crops]
            different = dict(zip(hashes, crops, strict=True))  # in the order of their first rows
            number = {name: k for k, name in enumerate(different)}
            key = {
                "version": VERSIONS["embeddings"],
                "encoder": record,
                "crops": digest(list(different)),
            }
            which = np.array([number[name] for name in hashes], np.int64)
            yield _Piece(part, found, list(different.values()), which, key)


def _as_they_come(piece: _Piece) -> Iterator[Batch]:
    """A piece's batches, each forgotten once it is handed out."""
    while piece.waiting:
        yield piece.waiting.pop(0).result()


def _one_ahead(pieces: Iterator[_Piece], begin: Callable[[_Piece], None]) -> Iterator[_Piece]:
    """The pieces, each begun before the one in front of it is handed out."""
    before = None
    for piece in pieces:
        begin(piece)
        if before is not None:
            yield before
        before = piece
    if before is not None:
        yield before


def _not_finite(row: pd.Series) -> UserError:
    return UserError(
        f"the feature of '{row['video']}', frame {row['frame']} is not finite",
        where="encoders.<name>.precision, or the weights",
        mend="set precision: fp32, or check the encoder's weights",
    )


def _with_features(part: pd.DataFrame, features: np.ndarray) -> pa.Table:
    """The key columns of ``part`` and the features of its rows with a face; null elsewhere."""
    has_face = (part["status"] == Outcome.OK).to_numpy(copy=True)
    values = np.zeros((len(part), features.shape[1]), np.float16)
    values[has_face] = features
    damaged = np.isnan(values[:, 0])
    values[damaged], has_face[damaged] = 0, False
    part = part.assign(status=part["status"].mask(damaged, str(Outcome.IMAGE_UNREADABLE)))
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(values.ravel()), features.shape[1], mask=pa.array(~has_face)
    )
    keys = pa.Table.from_pandas(part[list(KEYS)], preserve_index=False)
    return keys.append_column("feature", column)
