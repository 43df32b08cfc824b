"""Stage ``embeddings``: one row for every row of a shard's faces, with the crop's feature."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from clipaffect.config.models import Encoder, Faces
from clipaffect.dataset.manifest import VIDEO, runs_of_images
from clipaffect.digest import digest
from clipaffect.encoders.load import LoadedEncoder, check_encoder, encoder_record, load_encoder
from clipaffect.errors import UserError
from clipaffect.faces.crops import decode_image, read_crops
from clipaffect.faces.stage import detection_key
from clipaffect.outcomes import Outcome
from clipaffect.progress import Progress
from clipaffect.stages import VERSIONS
from clipaffect.store import Store
from clipaffect.tables import ROW_GROUP, read_frame, take_rows, write_batches

KEYS = ("video", "person", "frame", "status")


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


def embed_crops(crops: list[bytes], encoder: LoadedEncoder, batch: int) -> np.ndarray:
    """Features (n, dimension) float16 of encoded crops; NaN where one is damaged.

    Every batch has the same size, padded with zeros: with another size the matrix products take
    another path and the last bits of a row would depend on how many neighbours it has.

    Raises:
        UserError: a feature is not finite, by the crop's number.
    """
    features = np.full((len(crops), encoder.dimension), np.nan, np.float16)
    for start in range(0, len(crops), batch):
        decoded = [decode_image(crop) for crop in crops[start : start + batch]]
        whole = [place for place, crop in enumerate(decoded) if crop is not None]
        if not whole:
            continue
        inputs = torch.stack([encoder.prepare(crop) for crop in decoded if crop is not None])
        padding = torch.zeros(batch - len(inputs), *inputs.shape[1:])
        result = encoder.embed(torch.cat([inputs, padding]))[: len(inputs)]
        values = result.numpy().astype(np.float16)
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            raise NotFinite(start + whole[int(np.flatnonzero(~finite)[0])])
        features[[start + place for place in whole]] = values
    return features


class NotFinite(Exception):
    """The feature of crop ``args[0]`` is not finite."""


def embed_faces(
    manifest: Path,
    faces: Path,
    face_settings: Faces,
    settings: Encoder,
    assets: Path,
    store: Store,
    out: Path,
) -> None:
    """Write ``out``: the features of every row of ``faces``, in its order.

    The features of each ``ROW_GROUP`` rows of a video are a piece of the work store, keyed by
    what its crops and the encoder are functions of; the network is loaded only if one is missing.
    """
    device = "cuda" if torch.cuda.is_available() and settings.kind == "open_clip" else "cpu"
    check_encoder(settings, "<name>")  # also where every feature comes from the store
    torch.set_num_threads(1)  # one job is one thread: its bytes do not depend on the machine's load
    record = encoder_record(settings, device)
    listed = read_frame(manifest)
    videos = {v["video"]: v for v in listed[listed["kind"] == VIDEO].to_dict("records")}
    table = pq.ParquetFile(faces)
    rows = read_frame(faces, list(KEYS))
    with_crops = {
        (name, person)
        for name, video in videos.items()
        for person, folder in zip(video["persons"], video["folders"], strict=True)
        if folder
    }
    single = ~rows["video"].isin(videos)
    owners = zip(rows["video"], rows["person"], strict=True)
    rows["from_files"] = single | pd.Series([owner in with_crops for owner in owners])
    rows["source"] = rows["video"].where(~single, runs_of_images(rows["video"][single]))

    @cache
    def encoder() -> LoadedEncoder:
        return load_encoder(settings, assets, device)

    def write_dimension(folder: Path) -> None:
        (folder / "dimension.json").write_text(json.dumps(encoder().dimension))

    def chunk(source: str, number: int, part: pd.DataFrame, from_files: bool) -> pa.Table:
        found = part.index[part["status"] == Outcome.OK].to_numpy()

        @cache
        def crops() -> list[bytes]:
            return read_crops(take_rows(table, found, ["crop", "image"])) if len(found) else []

        def make(folder: Path) -> None:
            try:
                features = embed_crops(crops(), encoder(), settings.batch)
            except NotFinite as error:
                video, frame = part.loc[found[error.args[0]], ["video", "frame"]]
                raise UserError(
                    f"the feature of '{video}', frame {frame} is not finite",
                    where="encoders.<name>.precision, or the weights",
                    mend="set precision: fp32, or check the encoder's weights",
                ) from None
            np.save(folder / "features.npy", features)

        key: dict[str, Any] = {"version": VERSIONS["embeddings"], "encoder": record}
        if from_files:  # an image is its bytes, wherever it lies
            key["images"] = [hashlib.sha256(crop).hexdigest() for crop in crops()]
        else:
            key |= {
                "faces": detection_key(videos[source], face_settings),
                "persons": sorted(videos[source]["persons"]),
                "chunk": number,
            }
        piece = store.get_or_make("embeddings", key, make)
        features = np.load(piece / "features.npy", allow_pickle=False)
        return _with_features(part, features)

    key = {"version": VERSIONS["encoders"], "encoder": record}
    piece = store.get_or_make("encoders", key, write_dimension)
    dimension = json.loads((piece / "dimension.json").read_text())

    def tables() -> Iterator[pa.Table]:
        with Progress("crops", len(rows)) as progress:
            # A video's people who have crops follow those who were looked for in it.
            for (source, from_files), own in rows.groupby(["source", "from_files"], sort=False):
                for start in range(0, len(own), ROW_GROUP):
                    part = own.iloc[start : start + ROW_GROUP]
                    yield chunk(source, start // ROW_GROUP, part, from_files)
                    progress.advance(len(part))

    write_batches(out, schema(dimension, digest(record)), tables())


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
