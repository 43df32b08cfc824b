"""Image files as phones, cameras and interrupted copies leave them."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from clipaffect.faces.crops import decode_image


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """(90, 120, 3) smooth colours with some noise."""
    rng = np.random.default_rng(0)
    coarse = cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (120, 90))
    return np.clip(coarse + rng.normal(0, 6, coarse.shape), 0, 255).astype(np.uint8)


def encoded(picture: np.ndarray, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()


KINDS = {
    "jpeg": ("JPEG", {"quality": 95}),
    "progressive jpeg": ("JPEG", {"quality": 95, "progressive": True}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {"lossless": True}),
    "tiff": ("TIFF", {"compression": "tiff_lzw"}),
    "avif": ("AVIF", {"quality": 95}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_a_picture_does_not_matter(picture: np.ndarray, kind: str) -> None:
    name, options = KINDS[kind]
    data = encoded(picture, name, **options)
    plain = decode_image(data)
    assert np.abs(plain.astype(int) - picture).mean() < 5
    trailer = b"SEFH" + bytes(range(256)) * 4 + b"\xff\xd8\xff\xd9" + bytes(900) + b"SEFT"
    for following in (bytes(4096), trailer):
        np.testing.assert_array_equal(decode_image(data + following), plain)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_truncated_picture_is_damaged(picture: np.ndarray, kind: str, share: float) -> None:
    name, options = KINDS[kind]
    data = encoded(picture, name, **options)
    assert decode_image(data[: int(len(data) * share)]) is None


@pytest.mark.parametrize("kind", ["jpeg", "progressive jpeg"])
def test_what_is_put_behind_a_truncated_jpeg_does_not_complete_it(
    picture: np.ndarray, kind: str
) -> None:
    name, options = KINDS[kind]
    for turned in (1, 3, 6, 8):  # EXIF's orientations put the lost part at any side
        exif = Image.Exif()
        exif[0x0112] = turned
        data = encoded(picture, name, exif=exif, **options)
        assert decode_image(data) is not None
        for share in (0.3, 0.7, 0.95):
            cut = data[: int(len(data) * share)]
            assert decode_image(cut + b"\xff\xd9") is None
            assert decode_image(cut + bytes(len(data) - len(cut))) is None
    grey = encoded(np.full_like(picture, 128), name, **options)
    assert decode_image(grey).min() == 128


def test_a_lost_end_marker_alone_does_no_harm(picture: np.ndarray) -> None:
    for kind in ("jpeg", "progressive jpeg"):
        name, options = KINDS[kind]
        data = encoded(picture, name, **options)
        for lost in (1, 2):
            np.testing.assert_array_equal(decode_image(data[:-lost]), decode_image(data))
        # With bytes of the pixels lost as well, it is truncated.
        assert [decode_image(data[:-lost]) for lost in range(4, 40)] == [None] * 36
    data = encoded(picture, "PNG")
    for lost in range(1, 14):  # the end chunk, and the check sum of the pixels
        np.testing.assert_array_equal(decode_image(data[:-lost]), picture)


def test_an_avif_is_turned_as_it_says(picture: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn to the right
    decoded = decode_image(encoded(picture, "AVIF", quality=95, exif=exif))
    assert np.abs(decoded.astype(int) - np.rot90(picture, -1)).mean() < 5


@pytest.mark.parametrize("depth", [10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_deep_samples_are_scaled_by_their_range(
    picture: np.ndarray, depth: int, suffix: str
) -> None:
    deep = picture[:, :, ::-1].astype(np.uint16) << (depth - 8)
    deep[0, 0] = (1 << depth) - 1
    decoded = decode_image(cv2.imencode(suffix, deep)[1].tobytes())
    np.testing.assert_array_equal(decoded[1:], picture[1:])
