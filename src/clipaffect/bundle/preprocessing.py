"""How a picture becomes a network's input, written down exactly: ``preprocessing.json``.

Whoever runs the ONNX files without this project goes by it; a test does just that.
"""

from __future__ import annotations

from typing import Any

from clipaffect.config.encoders import Encoder
from clipaffect.config.faces import Faces
from clipaffect.encoders.load import input_description
from clipaffect.faces.alignment import TEMPLATE
from clipaffect.faces.landmarks import POINTS


def describe_crop(faces: Faces) -> dict[str, Any]:
    """From a frame to a crop: RGB uint8 (size, size, 3)."""
    size = faces.size
    if faces.crop == "aligned":
        how: dict[str, Any] = {
            "points": list(POINTS),
            "template": (TEMPLATE * size).round(6).tolist(),
            "fit": "least-squares similarity of the five points onto the template: rotation, one "
            "scale, shift, no reflection (Umeyama 1991, eqs. 40 to 43)",
        }
    else:
        how = {
            "box": "square around the middle of the face's box (the landmarks' extent), its side "
            f"the longer one of the box times {1 + 2 * faces.margin:g}",
        }
    return {
        "kind": faces.crop,
        "size": size,
        **how,
        "sampling": "bilinear, black outside (OpenCV warpAffine); where one pixel of the crop is "
        "more than 1.5 of the frame, the frame is blurred before by a Gaussian of 0.4 frame "
        "pixels a crop pixel",
        "encoding": "JPEG, quality 95, chroma 4:4:4, and decoded again (OpenCV): an encoder sees "
        "the decoded crop",
    }


def describe_input(encoder: Encoder) -> dict[str, Any]:
    """From a crop to an encoder's input."""
    if encoder.kind == "pixels":
        return {
            "input": f"(N, {encoder.side**2}) float32",
            "steps": [
                "grey (OpenCV's RGB2GRAY)",
                f"{encoder.side} x {encoder.side} pixels (OpenCV's INTER_AREA)",
                "divided by 255, row by row in one line",
            ],
        }
    found = input_description(encoder)
    height, width = found["size"]
    return {
        "input": f"(N, 3, {height}, {width}) float32, RGB",
        "size": [height, width],
        "interpolation": found["interpolation"],
        "mean": found["mean"],
        "std": found["std"],
        "steps": [
            f"resized to {height} x {width} by Pillow's {found['interpolation']} filter, unless "
            "the crop has that size (crops are square: open_clip's modes of resizing agree)",
            "divided by 255",
            "less the mean, over the deviation, each by channel",
        ],
        "arithmetic": encoder.precision,
    }


def describe(faces: Faces, encoders: dict[str, Encoder]) -> dict[str, Any]:
    """``preprocessing.json``."""
    crops = {
        name: describe_crop(faces.model_copy(update={"crop": entry.crop or faces.crop}))
        for name, entry in encoders.items()
    }
    return {
        "encoders": {
            name: {"crop": crops[name], **describe_input(entry)} for name, entry in encoders.items()
        }
    }
