"""Crops as bytes: made by this project, or read from existing image files."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from clipaffect.core.names import path_of
from clipaffect.faces.whole_images import lacks_pixels, may_lack_pixels, whole_image

JPEG = (
    cv2.IMWRITE_JPEG_QUALITY,
    95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)
# Formats that Pillow decodes if OpenCV does not; EPS, for one, would call another program.
FORMATS = ("HEIF", "AVIF", "JPEG", "PNG", "WEBP", "TIFF", "BMP")
DEPTHS = (8, 10, 12, 14, 16)  # bits of a sample that 16 bits hold


def encode_crop(crop: np.ndarray) -> bytes:
    """An RGB crop (H, W, 3) uint8 as JPEG."""
    done, jpeg = cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), list(JPEG))
    if not done:
        raise RuntimeError("OpenCV could not encode a crop")
    return jpeg.tobytes()


def decode_image(data: bytes) -> np.ndarray | None:
    """Decode an image to RGB (H, W, 3) uint8 in its stated orientation; None if it is damaged.

    Samples of 16 bits are scaled by the smallest depth of ``DEPTHS`` that holds them: sensors of
    12 bits are stored in files of 16. OpenCV decodes; Pillow reads what OpenCV cannot, HEIC among
    it where the package pillow-heif is installed.
    """
    whole = whole_image(data, _by_opencv)
    if whole is None:
        return None
    # OpenCV does not turn these as they say.
    decoded = _by_pillow(whole) if whole[4:12] in (b"ftypavif", b"ftypavis") else None
    decoded = _by_opencv(whole) if decoded is None else decoded
    # By Pillow: OpenCV's decoder prints a line for every such picture.
    if decoded is not None and may_lack_pixels(whole, decoded) and lacks_pixels(whole, _by_pillow):
        return None
    return _by_pillow(whole) if decoded is None else decoded


def _by_opencv(data: bytes) -> np.ndarray | None:
    try:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if decoded is not None and decoded.dtype not in (np.uint8, np.uint16):
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # beyond its own limit of 2^30 pixels, for instance
        return None
    if decoded is None:
        return None
    if decoded.dtype == np.uint16:
        depth = min(depth for depth in DEPTHS if decoded.max() < 1 << depth)
        decoded = (decoded >> (depth - 8)).astype(np.uint8)
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def _by_pillow(data: bytes) -> np.ndarray | None:
    with contextlib.suppress(ImportError):
        import pillow_heif  # type: ignore[import-not-found] # noqa: PLC0415 - optional

        pillow_heif.register_heif_opener()
    Image.init()  # an unknown format in the list would fail for every image
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception:  # Pillow's plugins raise errors of many kinds
        return None


def read_crops(rows: pa.Table) -> list[bytes]:
    """The bytes of each row's crop, from the column ``crop`` or from the file in ``image``.

    An unreadable file gives no bytes.
    """
    return [
        crop if image is None else read_bytes(path_of(image))
        for crop, image in zip(rows["crop"].to_pylist(), rows["image"].to_pylist(), strict=True)
    ]


def read_bytes(path: Path) -> bytes:
    """The bytes of a file; empty if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
