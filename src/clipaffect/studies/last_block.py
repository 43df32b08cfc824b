"""Find the last block of an image tower, and run the tower from there.

The layers before the only trained block are fixed, so they run once for each image, not once for
each epoch and head.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clipaffect.core.errors import UserError

BLOCKS = ("transformer.resblocks", "trunk.blocks", "trunk.stages", "layer4")


def last_block(visual: nn.Module) -> nn.Module:
    """The last of an image tower's blocks.

    Raises:
        UserError: the tower has no known list of blocks.
    """
    for path in BLOCKS:
        try:
            blocks = attrgetter(path)(visual)
        except AttributeError:
            continue
        found: nn.Module = blocks[-1]
        # Of a stage, such as ConvNeXt's or MobileNet's, its own last block.
        while isinstance(inner := getattr(found, "blocks", found), nn.Sequential | nn.ModuleList):
            found = inner[-1]
        return found
    raise UserError(
        f"the last block of {type(visual).__name__} is unknown: it has none of {', '.join(BLOCKS)}",
        where="the card fine-tuning",
        fix="use an encoder of another family for this card",
    )


@contextmanager
def _before(block: nn.Module, hook: Callable[[nn.Module, Any], Any]) -> Iterator[None]:
    handle = block.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def run_keeping(visual: nn.Module, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Features (n, d) of ``pictures`` (n, 3, H, W), and the last block's inputs (n, ...)."""
    kept: list[Tensor] = []
    with _before(last_block(visual), lambda _, inputs: kept.append(inputs[0])):
        features = visual(pictures)
    return features, kept[0]


def run_from(visual: nn.Module, picture: Tensor, inputs: Tensor) -> Tensor:
    """Features (n, d) of the last block's ``inputs`` (n, ...), as ``run_keeping`` gave them.

    Args:
        visual: the tower.
        picture: (1, 3, H, W), any: it runs through what comes before the block, where ``inputs``
            take its place.
        inputs: of the block.
    """
    with _before(last_block(visual), lambda _, own: (inputs, *own[1:])):
        features: Tensor = visual(picture)
    return features


class KeptInputs:
    """Inputs of a block for ``count`` images, in a file that is deleted with the process.

    ViT-L/14 takes 1 MB a picture: more than memory has for some ten thousand.

    Args:
        count: how many.
        folder: on the disk to use.
    """

    def __init__(self, count: int, folder: Path) -> None:
        self.count, self.folder = count, folder
        self.array = np.empty(0, np.float32)  # until the shape is known

    def put(self, rows: np.ndarray, inputs: Tensor) -> None:
        """Keep ``inputs`` (n, ...) float32 as those of pictures ``rows`` (n,).

        Raises:
            UserError: the disk has no room for all.
        """
        if not self.array.size:
            self.array = self._create(tuple(inputs.shape[1:]))
        self.array[rows] = inputs.cpu().numpy()

    def __getitem__(self, rows: np.ndarray) -> Tensor:
        """The inputs (n, ...) of pictures ``rows`` (n,)."""
        return torch.from_numpy(self.array[rows])

    def _create(self, shape: tuple[int, ...]) -> np.ndarray:
        size = 4 * self.count * int(np.prod(shape))
        with tempfile.TemporaryFile(dir=self.folder) as file:
            try:
                # A full disk is an error here; beyond, it would be the end of the process.
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                raise UserError(
                    f"no space for {size / 1e9:.1f} GB of temporary files for the card fine-tuning "
                    f"({error.strerror})",
                    where=self.folder,
                    fix="free this much space",
                ) from None
            return np.memmap(file, np.float32, "r+", shape=(self.count, *shape))
