"""Checkpoints: named tensors and a few strings in one file, written atomically."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from clipaffect.core.parquet import whole_file

CHECKPOINT = "training.safetensors"


def write_checkpoint(path: Path, tensors: dict[str, Tensor], progress: dict[str, str]) -> None:
    """Write to a temporary file and rename it."""
    with whole_file(path) as beside:
        save_file(tensors, beside, metadata=progress)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and texts of a checkpoint."""
    with safe_open(path, "pt") as saved:
        tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
        return tensors, saved.metadata()


def read_under(path: Path, prefix: str) -> dict[str, Tensor]:
    """``under`` for a safetensors file, without reading other tensors."""
    with safe_open(path, "pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names}


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, with the prefix removed."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
