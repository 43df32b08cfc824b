"""``--landmarks``: all points of the face mesh, for every row with a face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clipaffect.core.assets import asset_file
from clipaffect.core.files import whole_file
from clipaffect.core.video import read_frames
from clipaffect.faces.finder import ASSET
from clipaffect.faces.landmarks import REGION_SCALE, Landmarker, Region
from clipaffect.faces.networks import LANDMARKS, MeshNetwork

FRAMES = 256  # of a row group
SCHEMA = pa.schema(
    [
        ("frame", pa.int32()),
        ("time", pa.float64()),
        ("person", pa.int32()),
        ("score", pa.float32()),
        ("x", pa.list_(pa.float32(), LANDMARKS)),
        ("y", pa.list_(pa.float32(), LANDMARKS)),
    ]
)


def write_landmarks(rows: pd.DataFrame, video: Path, assets: Path, out: Path) -> None:
    """Write the 468 points of FaceMesh, in pixels of the video, for each face.

    The network looks once more at a square around each box, so that its five points may differ
    from those in ``frames.parquet`` by a fraction of a pixel's error.

    Args:
        rows: of ``frames.parquet``.
        video: the file.
        assets: folder of fetched assets.
        out: a Parquet file. ``score`` is how sure the network is that there is a face.
    """
    landmarker = Landmarker(MeshNetwork(asset_file(assets, ASSET, "landmarks.tflite")))
    faces = rows[rows["person"].notna() & rows["box_left"].notna()]
    of_frame = {int(str(frame)): own for frame, own in faces.groupby("frame", sort=True)}
    found: list[dict[str, Any]] = []
    with (
        whole_file(out) as beside,
        pq.ParquetWriter(beside, SCHEMA, compression="zstd", write_page_checksum=True) as table,
    ):
        for frame in read_frames(video):
            own, pixels = of_frame.get(frame.number), frame.pixels
            if own is None or pixels is None:
                continue
            for row in own.itertuples():
                points, _, score = landmarker.mesh(pixels, region_of_row(row))
                found.append(
                    {
                        "frame": frame.number,
                        "time": row.time,
                        "person": int(row.person),
                        "score": score,
                        "x": points[:, 0].astype(np.float32),
                        "y": points[:, 1].astype(np.float32),
                    }
                )
            if len(found) >= FRAMES:
                table.write_table(pa.Table.from_pylist(found, SCHEMA))
                found = []
        table.write_table(pa.Table.from_pylist(found, SCHEMA))


def region_of_row(row: Any) -> Region:
    """The square in which the landmarks of a row of ``frames.parquet`` are looked for."""
    size = np.array([row.box_width, row.box_height])
    corner = np.array([row.box_left, row.box_top])
    side = REGION_SCALE * float(size.max())
    return Region(corner + size / 2, side, float(np.radians(row.roll)))
