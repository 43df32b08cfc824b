"""Rows of faces: their columns, and the conversion of a detected face to a row."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa

from clipaffect.config.faces import Faces, Quality
from clipaffect.config.stage_keys import VERSIONS
from clipaffect.core.assets import known_assets
from clipaffect.core.frame_status import FrameStatus
from clipaffect.faces.alignment import align, crop_box
from clipaffect.faces.crops import encode_crop
from clipaffect.faces.finder import ASSET
from clipaffect.faces.landmarks import Face


def quality_status(faces: pd.DataFrame, bounds: Quality) -> pd.Series:
    """The status of every row; a face below the minimum quality loses its ``ok``.

    If several bounds are violated, the first counts: cut off, small, turned, blurred.

    Args:
        faces: columns status, eye_distance, sharpness, yaw, pitch, visible.
        bounds: the ``faces.quality`` section.
    """
    turned = (faces["yaw"].abs() > bounds.yaw) | (faces["pitch"].abs() > bounds.pitch)
    short = {
        FrameStatus.FACE_CUT_OFF: faces["visible"] < bounds.visible,
        FrameStatus.FACE_SMALL: faces["eye_distance"] < bounds.eye_distance,
        FrameStatus.FACE_TURNED: turned,
        FrameStatus.FACE_BLURRED: faces["sharpness"] < bounds.sharpness,
    }
    status = faces["status"].copy()
    for outcome, missed in short.items():
        status = status.mask(missed & (status == FrameStatus.OK), str(outcome))
    return status


# What is measured on a face: pixels of the picture, degrees, share of the landmarks, variance.
MEASURES = ("eye_distance", "yaw", "pitch", "roll", "visible", "sharpness")
FRAME_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("frame", pa.int32()),
    ("time", pa.float64()),
    ("status", pa.string()),
    ("score", pa.float32()),
    ("box", pa.list_(pa.float32(), 4)),
    ("points", pa.list_(pa.float32(), 10)),
    *((name, pa.float32()) for name in MEASURES),
    ("faces_in_frame", pa.int16()),
]
DETECTIONS = pa.schema([("track", pa.int32()), *FRAME_COLUMNS, ("crop", pa.large_binary())])
SCHEMA = pa.schema(
    [
        ("video", pa.string()),
        ("person", pa.string()),
        *FRAME_COLUMNS,
        ("image", pa.string()),
        ("crop", pa.large_binary()),
    ]
)
OF_VIDEOS = {"stride", "rate", "detect_every"}


def detector_key(settings: Faces) -> dict[str, Any]:
    """What an image's faces depend on besides the image; those of a video also on ``OF_VIDEOS``.

    The quality bounds are applied later.
    """
    # The margin moves only cropped boxes.
    unused = {"quality", *OF_VIDEOS} | ({"margin"} if settings.crop == "aligned" else set())
    return {
        "version": VERSIONS["detections"],
        "litert": version("ai-edge-litert"),
        "opencv": cv2.__version__,
        "networks": [member.sha256 for member in known_assets()[ASSET].members.values()],
        "settings": settings.model_dump(mode="json", exclude=unused),
    }


def cut_face(frame: np.ndarray, face: Face, settings: Faces) -> tuple[bytes, float]:
    """The crop as JPEG, and its sharpness (variance of the Laplacian)."""
    if settings.crop == "aligned":
        crop = align(frame, face.points, settings.size)
    else:
        crop = crop_box(frame, face.box, settings.margin, settings.size)
    edges = cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_16S)
    return encode_crop(crop), float(cv2.meanStdDev(edges)[1][0, 0] ** 2)


def face_row(pixels: np.ndarray, face: Face, settings: Faces) -> dict[str, Any]:
    """Columns of a detected face: status, score, box, points, measurements and crop."""
    crop, sharpness = cut_face(pixels, face, settings)
    yaw, pitch, roll = face.pose.tolist()
    return {
        "status": str(FrameStatus.OK),
        "score": face.score,
        "box": face.box.tolist(),
        "points": face.points.ravel().tolist(),
        "eye_distance": face.eye_distance,
        "yaw": yaw,
        "pitch": pitch,
        "roll": roll,
        "visible": face.visible,
        "sharpness": sharpness,
        "crop": crop,
    }


def with_quality_status(rows: pa.Table, settings: Faces) -> pa.Table:
    """Rows of ``SCHEMA`` with the status that their quality gives; only ``ok`` keeps its crop."""
    frame = rows.select(["status", *MEASURES]).to_pandas()
    status = quality_status(frame, settings.quality)
    if status.equals(frame["status"]):
        return rows
    crops = pa.array(
        [
            crop if kept else None
            for crop, kept in zip(rows["crop"].to_pylist(), status == FrameStatus.OK, strict=True)
        ],
        pa.large_binary(),
    )
    columns = {"status": pa.array(pd.array(status), pa.string()), "crop": crops}
    for name, column in columns.items():
        rows = rows.set_column(rows.column_names.index(name), name, column)
    return rows
