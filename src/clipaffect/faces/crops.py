"""Crops as bytes: made by this project, or read from existing image files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

JPEG = (
    cv2.IMWRITE_JPEG_QUALITY,
    95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)
# Starts and ends of a whole JPEG and PNG; a few bytes may follow.
ENDS = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND"}
TAIL = 256


def encode_crop(crop: np.ndarray) -> bytes:
    """An RGB crop (H, W, 3) uint8 as JPEG."""
    done, jpeg = cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), list(JPEG))
    if not done:
        raise RuntimeError("OpenCV could not encode a crop")
    return jpeg.tobytes()


def decode_image(data: bytes) -> np.ndarray | None:
    """Decode an image to RGB (H, W, 3) uint8 in its stated orientation; None if it is damaged.

    OpenCV decodes what there is of a truncated JPEG or PNG and greys the rest: its end is looked
    for.
    """
    end = ENDS.get(data[:2], b"")
    if not data or end not in data[-TAIL:]:
        return None
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # beyond its own limit of 2^30 pixels, for instance
        return None
    return None if decoded is None else cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def read_crops(rows: pa.Table) -> list[bytes]:
    """The bytes of each row's crop, from the column ``crop`` or from the file in ``image``.

    An unreadable file gives no bytes.
    """
    return [
        crop if image is None else read_bytes(Path(image))
        for crop, image in zip(rows["crop"].to_pylist(), rows["image"].to_pylist(), strict=True)
    ]


def read_bytes(path: Path) -> bytes:
    """The bytes of a file; empty if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
