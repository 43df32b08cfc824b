"""Rows of faces: their columns, and how a face found in a picture becomes one."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from clipaffect.assets import known_assets
from clipaffect.config.models import Faces
from clipaffect.faces.alignment import align, crop_box
from clipaffect.faces.crops import encode_crop
from clipaffect.faces.detector import Face
from clipaffect.outcomes import Outcome
from clipaffect.stages import VERSIONS

ASSET = "face-networks"
FRAME_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("frame", pa.int32()),
    ("time", pa.float64()),
    ("status", pa.string()),
    ("score", pa.float32()),
    ("box", pa.list_(pa.float32(), 4)),
    ("points", pa.list_(pa.float32(), 10)),
    ("sharpness", pa.float32()),
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


def detector_key(settings: Faces) -> dict[str, Any]:
    """What detections depend on besides the pictures."""
    # The margin moves only cropped boxes.
    unused = {"margin"} if settings.crop == "aligned" else set()
    return {
        "version": VERSIONS["detections"],
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
    sharpness = cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var()
    return encode_crop(crop), float(sharpness)


def face_row(pixels: np.ndarray, face: Face, settings: Faces) -> dict[str, Any]:
    """Columns of a face that was found: status, score, box, points, sharpness and crop."""
    crop, sharpness = cut_face(pixels, face, settings)
    return {
        "status": str(Outcome.OK),
        "score": face.score,
        "box": face.box.tolist(),
        "points": face.points.ravel().tolist(),
        "sharpness": sharpness,
        "crop": crop,
    }
