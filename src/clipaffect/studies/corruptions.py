"""Image corruptions that occur outside a laboratory, each in three degrees of severity."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Crop = np.ndarray  # (H, W, 3) uint8, RGB
SIGMAS = (1.0, 2.0, 4.0)  # of the blur, in pixels of a crop of 112
DEVIATIONS = (10.0, 25.0, 50.0)  # of the noise, in levels of 255
QUALITIES = (40, 15, 5)  # JPEG's
GAINS = (0.5, 0.25, 0.1)  # of the light
# Rows and columns of an aligned face, as shares of the crop.
COVERED = {
    "eyes": (0.25, 0.5, 0.0, 1.0),
    "mouth": (0.6, 0.9, 0.15, 0.85),
    "one side": (0.0, 1.0, 0.0, 0.5),
}
GREY = 128


def blur(crop: Crop, degree: int) -> Crop:
    """Gaussian blur, its width in proportion to the crop."""
    sigma = SIGMAS[degree] * crop.shape[0] / 112
    return np.asarray(cv2.GaussianBlur(crop, (0, 0), sigma), np.uint8)


def noise(crop: Crop, degree: int) -> Crop:
    """Gaussian noise, seeded by the degree: the same for every crop of one size."""
    drawn = np.random.default_rng(degree).normal(0, DEVIATIONS[degree], crop.shape)
    return np.clip(crop + drawn, 0, 255).astype(np.uint8)


def compression(crop: Crop, degree: int) -> Crop:
    """JPEG of low quality."""
    _, data = cv2.imencode(".jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITIES[degree]])
    return np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1])


def darkness(crop: Crop, degree: int) -> Crop:
    """Less light, rounded to 8 bits."""
    return (crop * GAINS[degree]).astype(np.uint8)


def occlusion(crop: Crop, degree: int) -> Crop:
    """A grey box over the eyes, the mouth, or one side."""
    top, bottom, left, right = list(COVERED.values())[degree]
    height, width = crop.shape[:2]
    covered = crop.copy()
    rows = slice(round(top * height), round(bottom * height))
    covered[rows, round(left * width) : round(right * width)] = GREY
    return covered


def _degrees() -> dict[str, tuple[Callable[[Crop, int], Crop], int]]:
    found: dict[str, tuple[Callable[[Crop, int], Crop], int]] = {}
    for kind, values in (
        (blur, SIGMAS),
        (noise, DEVIATIONS),
        (compression, QUALITIES),
        (darkness, GAINS),
        (occlusion, COVERED),
    ):
        for degree, value in enumerate(values):
            name = value if isinstance(value, str) else f"{value:g}"
            found[f"{kind.__name__}, {name}"] = (kind, degree)
    return found


# By what a reader calls it: the kind and its measure.
DISTURBANCES = _degrees()


def disturb(crop: Crop, name: str) -> Crop:
    """A crop under one of ``DISTURBANCES``."""
    kind, degree = DISTURBANCES[name]
    return kind(crop, degree)
