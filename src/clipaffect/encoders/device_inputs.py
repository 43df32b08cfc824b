"""From decoded crops to a network's input on the device: open_clip's preprocessing, in batches.

Pillow resizes one crop of 112 px in a millisecond of a core, so that a GPU would wait for dozens of
cores. Here the host only decodes; the device resizes to the same grey levels, and normalises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipaffect.encoders.pillow_resize import PillowResize

MULTIPLE = 32  # a last batch is padded to a multiple of this: GPUs are fastest there
AT_ONCE = 64  # crops that are resized together
Groups = list[tuple[Tensor, Tensor]]


class DeviceInputs:
    """The preprocessing of one image tower.

    Args:
        stated: open_clip's preprocessing of the tower: size, mean, std, interpolation.
        picture_steps: open_clip's resizing and cropping of one PIL image.
        device: where the network runs.
        dtype: its arithmetic.
    """

    def __init__(
        self,
        stated: dict[str, Any],
        picture_steps: Callable[[Image.Image], Image.Image],
        device: str,
        dtype: torch.dtype,
    ) -> None:
        size = stated["size"]
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.interpolation = stated["interpolation"]
        self.picture_steps, self.device, self.dtype = picture_steps, device, dtype
        mean, std = (torch.tensor(stated[name]).to(device) for name in ("mean", "std"))
        # A tensor: CUDA would multiply by the reciprocal of a number.
        self.white = torch.tensor(255.0).to(device)
        self.mean, self.std = mean[:, None, None], std[:, None, None]
        how = (self.size[0], self.interpolation, device)
        self.resize = cache(lambda side: PillowResize(side, *how))

    def gather(self, pictures: Sequence[np.ndarray], batch: int) -> Groups:
        """RGB crops (H, W, 3) uint8 by size: their places (n,), and (n, H, W, 3) uint8.

        Both lie where the device can fetch them while it works: the host waits for neither.

        A crop that is not square is resized here by Pillow, because open_clip's ways of resizing
        then differ; so is a huge one. ``batch`` is not needed: nothing is padded yet.
        """
        ready, places = [], dict[tuple[int, ...], list[int]]()
        for place, picture in enumerate(pictures):
            alike = self._is_for_device(*picture.shape[:2])
            ready.append(
                picture if alike else np.asarray(self.picture_steps(Image.fromarray(picture)))
            )
            places.setdefault(ready[-1].shape, []).append(place)
        groups, pinned = [], self.device != "cpu"
        for shape, own in places.items():
            pixels = torch.empty((len(own), *shape), dtype=torch.uint8, pin_memory=pinned)
            np.stack([ready[place] for place in own], out=pixels.numpy())
            groups.append((torch.tensor(own, pin_memory=pinned), pixels))
        return groups

    def _is_for_device(self, height: int, width: int) -> bool:
        square = height == width and self.size[0] == self.size[1]
        return square and PillowResize.is_exact(height, self.size[0], self.interpolation)

    def on_device(self, groups: Groups) -> Tensor:
        """(m, 3, height, width), padded with zeros to a multiple of ``MULTIPLE``."""
        count = sum(len(places) for places, _ in groups)
        rows = -(-count // MULTIPLE) * MULTIPLE
        inputs = torch.zeros(rows, 3, *self.size, dtype=self.dtype, device=self.device)
        for places, pixels in groups:
            sent = pixels.to(self.device, non_blocking=True)
            at = places.to(self.device, non_blocking=True)
            # Some at a time: resizing takes five times the memory of its result.
            for some, own in zip(sent.split(AT_ONCE), at.split(AT_ONCE), strict=True):
                levels = some.permute(0, 3, 1, 2).float()
                if levels.shape[2:] != self.size:
                    levels = self.resize(len(levels[0, 0]))(levels)
                # As torchvision's ToTensor and Normalize.
                prepared = levels.div_(self.white).sub_(self.mean).div_(self.std)
                inputs[own] = prepared.to(self.dtype)
        return inputs
