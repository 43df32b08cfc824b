"""Torchvision's MobileNetV2 (Sandler et al. 2018; ImageNet) as weights for a timm tower."""

from __future__ import annotations

from pathlib import Path

import torch


def load_state(path: Path, names: list[str]) -> dict[str, torch.Tensor]:
    """Weights of the network without its classifier, under timm's names.

    Both libraries define the layers in one order, so the tensors are paired by it; a tensor of
    another shape makes the strict load that follows fail. Batch normalisation's counters, which
    inference does not read, come along.

    Args:
        path: torchvision's ``mobilenet_v2-b0353104.pth``.
        names: of the tensors of timm's ``mobilenetv2_100``, in its order.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    tensors = [value for name, value in state.items() if not name.startswith("classifier.")]
    return dict(zip(names, tensors, strict=True))
