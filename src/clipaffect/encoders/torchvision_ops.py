"""Make torchvision importable with a torch build that it was not compiled for.

open_clip needs only torchvision's pure-Python transforms, but a CUDA build of torchvision next
to a CPU-only torch fails at import because its compiled operators are not registered. Declaring
the two operator schemas that its Python code refers to is enough. Where torchvision imports by
itself this module does nothing.
"""

from __future__ import annotations

import importlib
import sys

import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: torch.library.Library | None = None  # operators live as long as this object


def ensure_torchvision() -> None:
    """Import torchvision, declaring the missing operators first if it needs them."""
    global _library  # noqa: PLW0603
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in SCHEMAS:
            _library.define(schema)
        importlib.import_module("torchvision")
