"""Stage ``embeddings``: one row for every row of a shard's faces, with the crop's feature."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from clipaffect.config.models import Encoder, Faces
from clipaffect.digest import digest
from clipaffect.encoders.load import LoadedEncoder, check_encoder, encoder_record, load_encoder
from clipaffect.errors import UserError
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
    """Features (n, dimension) float16 of JPEG crops.

    Every batch has the same size, padded with zeros: with another size the matrix products take
    another path and the last bits of a row would depend on how many neighbours it has.
    """
    features = np.empty((len(crops), encoder.dimension), np.float16)
    for start in range(0, len(crops), batch):
        decoded = [
            cv2.cvtColor(
                cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB
            )
            for jpeg in crops[start : start + batch]
        ]
        inputs = torch.stack([encoder.prepare(crop) for crop in decoded])
        padding = torch.zeros(batch - len(inputs), *inputs.shape[1:])
        result = encoder.embed(torch.cat([inputs, padding]))[: len(inputs)]
        features[start : start + len(inputs)] = result.numpy().astype(np.float16)
    return features


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
    videos = {video["video"]: video for video in read_frame(manifest).to_dict("records")}
    table = pq.ParquetFile(faces)
    rows = read_frame(faces, list(KEYS))

    @cache
    def encoder() -> LoadedEncoder:
        return load_encoder(settings, assets, device)

    def write_dimension(folder: Path) -> None:
        (folder / "dimension.json").write_text(json.dumps(encoder().dimension))

    def chunk(video: dict[str, Any], number: int, part: pd.DataFrame) -> pa.Table:
        found = part.index[part["status"] == Outcome.OK].to_numpy()

        def make(folder: Path) -> None:
            crops = take_rows(table, found, ["crop"])["crop"].to_pylist()
            features = embed_crops(crops, encoder(), settings.batch)
            finite = np.isfinite(features).all(axis=1)
            if not finite.all():
                frame = part.loc[found[~finite][0], "frame"]
                raise UserError(
                    f"the feature of video '{video['video']}', frame {frame} is not finite",
                    where="encoders.<name>.precision, or the weights",
                    mend="set precision: fp32, or check the encoder's weights",
                )
            np.save(folder / "features.npy", features)

        key = {
            "version": VERSIONS["embeddings"],
            "encoder": record,
            "faces": detection_key(video, face_settings),
            "persons": sorted(video["persons"]),
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
            for name, own in rows.groupby("video", sort=False):
                for start in range(0, len(own), ROW_GROUP):
                    part = own.iloc[start : start + ROW_GROUP]
                    yield chunk(videos[str(name)], start // ROW_GROUP, part)
                    progress.advance(len(part))

    write_batches(out, schema(dimension, digest(record)), tables())


def _with_features(part: pd.DataFrame, features: np.ndarray) -> pa.Table:
    """The key columns of ``part`` and the features of its rows with a face; null elsewhere."""
    has_face = (part["status"] == Outcome.OK).to_numpy()
    values = np.zeros((len(part), features.shape[1]), np.float16)
    values[has_face] = features
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(values.ravel()), features.shape[1], mask=pa.array(~has_face)
    )
    keys = pa.Table.from_pandas(part[list(KEYS)], preserve_index=False)
    return keys.append_column("feature", column)
