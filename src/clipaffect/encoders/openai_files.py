"""OpenAI's own CLIP files, and what is wrong with a file of weights that does not fit a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from clipaffect.core.errors import UserError
from clipaffect.encoders.torchscript_archive import is_torchscript, read_torchscript
from clipaffect.encoders.untrained import open_clip

FEW = 3
# Numbers that OpenAI keeps among the weights.
EXTRA_KEYS = ("input_resolution", "context_length", "vocab_size")


def openai_state(path: Path, model: Any, fix: str) -> dict[str, torch.Tensor] | None:
    """The weights in one of OpenAI's files, or None for any other file.

    These are TorchScript archives, and state dicts with ``EXTRA_KEYS``. The numbers under these
    keys are compared with the model and left out.

    Raises:
        UserError: such a number differs from the model's, or the archive cannot be read.
    """
    state = read_torchscript(path) if is_torchscript(path) else _state_dict(path)
    if state is None:
        return None
    size = model.visual.image_size
    stated = {
        "input_resolution": size if isinstance(size, int) else size[0],
        "context_length": model.context_length,
        "vocab_size": model.vocab_size,
    }
    for key in EXTRA_KEYS:
        if key in state and int(state[key]) != stated[key]:
            raise UserError(
                f"the weights have {key} {int(state[key])}, but the model has {stated[key]}",
                where=path,
                fix=fix,
            )
    return {key: value for key, value in state.items() if key not in EXTRA_KEYS}


def _state_dict(path: Path) -> dict[str, torch.Tensor] | None:
    """A plain state dict with OpenAI's keys, its numbers still on disk; None for any other file."""
    if path.suffix == ".safetensors":
        return None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:
        return None
    ours = isinstance(found, Mapping) and set(EXTRA_KEYS) <= found.keys()
    return dict(found) if ours else None


def difference(path: Path, model: Any, state: Mapping[str, torch.Tensor] | None) -> str:
    """How the tensors in a file differ from a model's; '' if the file cannot be read at all.

    Args:
        path: of the file.
        model: an open_clip model.
        state: what was read from the file, if it was.
    """
    if state is None:
        try:
            state = open_clip().factory.load_state_dict(str(path), weights_only=True)
        except Exception:
            return ""
    if not isinstance(state, Mapping):
        return ""
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: tuple(getattr(value, "shape", ())) for key, value in state.items()}
    other = [
        f"{key} is {found[key]}, not {shape}"
        for key, shape in wanted.items()
        if key in found and found[key] != shape
    ]
    kinds = {
        "missing": [key for key in wanted if key not in found],
        "unexpected": [key for key in found if key not in wanted],
        "of another shape": other,
    }
    return "; ".join(
        f"{len(keys)} tensors are {kind} ({', '.join(keys[:FEW])}"
        + (f" and {len(keys) - FEW} more)" if len(keys) > FEW else ")")
        for kind, keys in kinds.items()
        if keys
    )
