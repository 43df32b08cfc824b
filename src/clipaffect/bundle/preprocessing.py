"""The exact steps from an image to a network's input: ``preprocessing.json``.

It specifies the preprocessing for users who run the ONNX files without this project. A test
follows it in the same way.
"""

from __future__ import annotations

from typing import Any

from clipaffect.config.encoders import Encoder
from clipaffect.config.faces import Faces
from clipaffect.encoders.registry import describe_input
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
