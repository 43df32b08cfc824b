"""Kind ``pixels``: the crop itself, shrunk and grey. What any encoder should be better than."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from clipaffect.config.encoders import Encoder
from clipaffect.encoders.registry import EncoderCost, LoadedEncoder

IS_NETWORK = False


def check(settings: Encoder, name: str) -> None:
    """Nothing can be wrong that the configuration has not refused."""


def record(settings: Encoder, assets: Path, device: str) -> dict[str, Any]:
    """The side, and the library that shrinks."""
    return {"pixels": settings.side, "opencv": cv2.__version__}


def load(settings: Encoder, assets: Path, device: str) -> LoadedEncoder:
    """Grey pixels, row by row, between 0 and 1."""
    side = settings.side

    def prepare(crop: np.ndarray) -> torch.Tensor:
        grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(small.reshape(-1).astype(np.float32) / 255)

    def gather(crops: Sequence[np.ndarray], batch: int) -> torch.Tensor:
        return torch.stack([prepare(crop) for crop in crops])

    return LoadedEncoder(prepare, gather, torch.Tensor.float, side * side, settings.batch)


def stand_in(settings: Encoder, device: str) -> LoadedEncoder:
    """The same: there are no weights."""
    return load(settings, Path(), device)


def cost(settings: Encoder) -> EncoderCost:
    """Nothing is multiplied."""
    return EncoderCost(0.0, 0, settings.side**2)


def describe_input(settings: Encoder) -> dict[str, Any]:
    """From a crop to the feature."""
    side = settings.side
    return {
        "input": f"(N, {side**2}) float32",
        "steps": [
            "grey (OpenCV's RGB2GRAY)",
            f"{side} x {side} pixels (OpenCV's INTER_AREA)",
            "divided by 255, row by row in one line",
        ],
    }
