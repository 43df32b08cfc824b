"""Single pictures: the largest face of each, found, aligned and cut as in a video."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clipaffect.config.faces import Faces
from clipaffect.dataset.manifest import runs_of_images
from clipaffect.errors import UserError
from clipaffect.faces.crops import decode_image, read_bytes
from clipaffect.faces.finder import FaceFinder
from clipaffect.faces.rows import DETECTIONS, SCHEMA, detector_key, face_row, judged
from clipaffect.outcomes import Outcome
from clipaffect.progress import Progress
from clipaffect.store import Store
from clipaffect.tables import ROW_GROUP, write_batches


def of_pictures(
    pictures: pd.DataFrame,
    finder: Callable[[], FaceFinder],
    settings: Faces,
    store: Store,
    progress: Progress,
) -> Iterator[pa.Table]:
    """A row for each picture of a manifest, in its order.

    Runs of pictures are pieces of the work store, keyed by their bytes.

    Raises:
        UserError: a picture is not the one that was indexed.
    """
    runs = runs_of_images(pictures["video"])
    for _, run in pictures.groupby(runs, sort=False):
        for start in range(0, len(run), ROW_GROUP):
            part = run.iloc[start : start + ROW_GROUP]

            def make(folder: Path, part: pd.DataFrame = part) -> None:
                rows = [
                    _largest_face(row.path, row.sha256, finder(), settings)
                    for row in part.itertuples()
                ]
                table = pa.Table.from_pylist(rows, DETECTIONS)
                write_batches(folder / "detections.parquet", DETECTIONS, [table])

            key = detector_key(settings) | {"pictures": part["sha256"].tolist()}
            piece = store.get_or_make("detections", key, make)
            found = pq.read_table(piece / "detections.parquet").drop_columns("track").to_pylist()
            names = part["video"].tolist()
            rows = [row | {"video": n, "person": ""} for n, row in zip(names, found, strict=True)]
            yield judged(pa.Table.from_pylist(rows, SCHEMA), settings)
            progress.advance(len(part))


def _largest_face(path: str, sha256: str, finder: FaceFinder, settings: Faces) -> dict[str, Any]:
    data = read_bytes(Path(path))
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UserError(
            "the picture was changed or removed after it was indexed",
            where=path,
            mend="run the same command again: the index will be made anew",
        )
    row: dict[str, Any] = {"frame": 1, "track": -1, "faces_in_frame": 0}
    pixels = decode_image(data)
    if pixels is None:
        return row | {"status": str(Outcome.IMAGE_UNREADABLE)}
    faces = finder(pixels)
    if not faces:
        return row | {"status": str(Outcome.NO_FACE)}
    own = {"track": 0, "faces_in_frame": len(faces)}
    return row | own | face_row(pixels, faces[0], settings)
