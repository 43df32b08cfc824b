"""How many GPUs a machine has, without asking torch: importing it takes 2 s."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

from clipaffect.core.errors import UserError

NONE = ("", "-1", "NoDevFiles")  # how CUDA_VISIBLE_DEVICES hides every GPU
VARIABLE = "CLIPAFFECT_GPUS"
DEVICES = Path("/dev")
WINDOWS = Path("/usr/lib/wsl/lib/nvidia-smi")  # of its Linux, which has no device files


def local_gpus(own_torch: bool = True) -> int:
    """NVIDIA GPUs of this machine that ``CUDA_VISIBLE_DEVICES`` leaves visible (on Linux).

    ``CLIPAFFECT_GPUS`` states another number, such as 0 on a login node whose GPUs are not for
    jobs.

    Args:
        own_torch: whether jobs use the torch of this environment, whose CPU build has no use for
            any.

    Raises:
        UserError: ``CLIPAFFECT_GPUS`` is not a number.
    """
    stated = os.environ.get(VARIABLE)
    if stated:
        if not stated.isdecimal():
            raise UserError(f"not a number of GPUs: {stated!r}", where=VARIABLE, fix="such as 1")
        return int(stated)
    if own_torch and version("torch").endswith("+cpu"):
        return 0
    present = len(list(DEVICES.glob("nvidia[0-9]*"))) or int(WINDOWS.exists())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    named = [name for name in visible.split(",") if name.strip() not in NONE]
    return min(present, len(named))
