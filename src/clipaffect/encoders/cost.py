"""What an encoder costs: operations, parameters, and the length of its features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from clipaffect.config.encoders import Encoder
from clipaffect.encoders.load import bare_tower


@dataclass(frozen=True)
class EncoderCost:
    """Of one image: floating-point operations, parameters of the image tower, feature length."""

    flop: float
    parameters: int
    dimension: int


def encoder_cost(settings: Encoder) -> EncoderCost:
    """Counted by torch on a model without memory: no weights are needed; pixels cost nothing."""
    if settings.kind == "pixels":
        return EncoderCost(0.0, 0, settings.side**2)
    visual = bare_tower(settings)
    size = visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        features = visual(torch.zeros(1, 3, height, width, device="meta"))
    parameters = sum(weight.numel() for weight in visual.parameters())
    return EncoderCost(float(counter.get_total_flops()), parameters, int(features.shape[1]))
