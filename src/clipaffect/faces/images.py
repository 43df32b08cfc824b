"""Single images: find, align and crop the largest face, or all faces, as in a video."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from clipaffect.config.faces import Faces
from clipaffect.core.errors import UserError
from clipaffect.core.frame_status import FrameStatus
from clipaffect.core.names import path_of
from clipaffect.core.parquet import ROW_GROUP, read_arrow, write_batches
from clipaffect.core.progress import Progress
from clipaffect.core.store import Store
from clipaffect.dataset.manifest import runs_of_images
from clipaffect.faces.crops import decode_image, read_bytes
from clipaffect.faces.face_rows import (
    DETECTIONS,
    SCHEMA,
    detector_key,
    face_row,
    with_quality_status,
)
from clipaffect.faces.finder import FaceFinder
from clipaffect.faces.person_tracks import EVERYBODY, person_of

MOST_PIXELS = 150_000_000  # of a picture: 450 MB once decoded


def of_pictures(
    pictures: pd.DataFrame,
    finder: Callable[[], FaceFinder],
    settings: Faces,
    store: Store,
    progress: Progress,
) -> Iterator[pa.Table]:
    """One row for each image of a manifest, in order; or one for each face, if all are wanted.

    Runs of images are cached in the store, keyed by their bytes.

    Raises:
        UserError: an image has changed since it was indexed.
    """
    runs = runs_of_images(pictures["video"])
    everybody = any(list(persons) == [EVERYBODY] for persons in pictures["persons"])
    for _, run in pictures.groupby(runs, sort=False):
        for start in range(0, len(run), ROW_GROUP):
            part = run.iloc[start : start + ROW_GROUP]

            def make(folder: Path, part: pd.DataFrame = part) -> None:
                rows = [
                    found
                    for row in part.itertuples()
                    for found in _faces(row.path, row.sha256, finder(), settings, everybody)
                ]
                table = pa.Table.from_pylist(rows, DETECTIONS)
                write_batches(folder / "detections.parquet", DETECTIONS, [table])

            key = detector_key(settings) | {"pictures": part["sha256"].tolist()}
            if everybody:
                key["everybody"] = True
            entry = store.get_or_make("detections", key, make)
            detections = read_arrow(entry / "detections.parquet")
            track = detections["track"].to_numpy()
            which = np.cumsum(track <= 0) - 1  # a picture's first face, or none, begins its rows
            found = detections.drop_columns("track").to_pylist()
            rows = [
                row
                | {
                    "video": part["video"].iloc[k],
                    "person": person_of(t) if everybody and t >= 0 else "",
                }
                for row, k, t in zip(found, which, track, strict=True)
            ]
            yield with_quality_status(pa.Table.from_pylist(rows, SCHEMA), settings)
            progress.advance(len(part))


def _is_huge(data: bytes) -> bool:
    """Whether an image is too large for a job's memory, judged by its header."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of half as many pixels
        try:
            width, height = Image.open(io.BytesIO(data)).size
        except Image.DecompressionBombError:
            return True
        except Exception:  # what Pillow cannot read, OpenCV may
            return False
    return width * height > MOST_PIXELS


def _faces(
    path: str, sha256: str, finder: FaceFinder, settings: Faces, everybody: bool
) -> list[dict[str, Any]]:
    """Rows of an image's faces, largest first: only that one, or all; one row if there are none."""
    data = read_bytes(path_of(path))
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(
            "the image was changed or removed after it was indexed",
            where=path,
            fix="run the same command again: the index will be rebuilt",
        )
    row: dict[str, Any] = {"frame": 1, "track": -1, "faces_in_frame": 0}
    pixels = None if _is_huge(data) else decode_image(data)
    if pixels is None:
        return [row | {"status": str(FrameStatus.IMAGE_UNREADABLE)}]
    faces = finder(pixels)
    if not faces:
        return [row | {"status": str(FrameStatus.NO_FACE)}]
    return [
        row | {"track": number, "faces_in_frame": len(faces)} | face_row(pixels, face, settings)
        for number, face in enumerate(faces if everybody else faces[:1])
    ]
