"""What an open_clip encoder's features depend on besides the crop, and are computed in."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import torch

from clipaffect.config.encoders import Encoder
from clipaffect.core.assets import known_assets
from clipaffect.encoders.fetch_weights import fetched_weights

PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "pillow")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# The file's sha256 says which it is; the activation is checked against the network; the crop's own
# bytes are in the key.
NOT_IN_FEATURES = {"kind", "side", "file", "activation", "workers", "licence", "crop"}


def record(settings: Encoder, assets: Path, device: str) -> dict[str, Any]:
    """See ``registry.encoder_record``."""
    # A file is known by its sha256, wherever it lies.
    values = settings.model_dump(mode="json", exclude=NOT_IN_FEATURES)
    if not settings.swap_activation:
        del values["swap_activation"]  # as in the keys of features that are older than it
    if settings.tag is not None:
        values["sha256"] = None  # a pin only checks the weights that are recorded below
    kind, _, _ = device.partition(":")
    if kind == "cuda":
        del values["batch"]  # as large as the memory allows
    found: dict[str, Any] = {"settings": values, "device": kind}
    found["versions"] = {name: version(name) for name in PACKAGES}
    found["versions"]["opencv"] = cv2.__version__  # decodes the crops
    if kind == "cuda":
        found["tf32"] = False  # see ``gpu_faults.full_float32``
    if arithmetic(settings, device) != DTYPES[settings.precision]:
        found["arithmetic"] = str(arithmetic(settings, device))
    if settings.tag is not None:
        found["weights"] = fetched_weights(settings, assets).sha256
    if settings.asset is not None:
        members = known_assets()[settings.asset].members
        found["asset"] = {name: member.sha256 for name, member in members.items()}
    return found


def arithmetic(settings: Encoder, device: str) -> torch.dtype:
    """The arithmetic of an encoder on a device (``cpu``, ``cuda`` or ``cuda:N``).

    A CPU multiplies float16 at 3 GFLOP/s, float32 at 100 (measured): there fp16 means weights and
    features of float16, and float32 between them, which is nearer to the exact result. bf16 is
    computed in float16 on a GPU without it (before Ampere), and in float32 on a CPU without it.
    """
    if settings.precision == "fp16" and device == "cpu":
        return torch.float32
    if settings.precision == "bf16" and not has_bf16(device):
        return torch.float32 if device == "cpu" else torch.float16
    return DTYPES[settings.precision]


def has_bf16(device: str) -> bool:
    """Whether a device multiplies bfloat16 without emulating it."""
    if device == "cpu":
        known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
        return known is not None and bool(known())  # builds for macOS lack it
    if not torch.cuda.is_available():
        return True  # asked for another machine
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)
