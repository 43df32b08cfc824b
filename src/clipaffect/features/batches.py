"""Run crops through the network in batches of a fixed size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from clipaffect.core.errors import UserError, first_line
from clipaffect.encoders.registry import LoadedEncoder
from clipaffect.faces.crops import decode_image
from clipaffect.features.columns import first_not_finite

Map = Callable[[Callable[..., Any], Iterator[Any]], Iterator[Any]]


class NotFinite(Exception):
    """The feature of crop ``args[0]`` is not finite."""


@dataclass(frozen=True)
class Batch:
    """The network input of some crops: ``inputs``, and ``places`` (n,) of those that were decoded.

    The inputs are None if no crop could be decoded.
    """

    places: np.ndarray
    inputs: torch.Tensor | None


def prepare_batch(crops: list[bytes], start: int, encoder: LoadedEncoder, batch: int) -> Batch:
    """Decode and preprocess the crops from ``start`` on.

    All batches have the same size, padded with zeros. With another size, the matrix products would
    use another code path, and the last bits of a row would depend on the size of its batch.
    """
    places: list[int] = []
    inputs: torch.Tensor | None = None
    for place, crop in enumerate(crops[start : start + batch], start):
        picture = decode_image(crop)
        if picture is None:
            continue
        if inputs is None:
            inputs = encoder.room(batch)
        # Straight into its place: to stack and then to pad would each copy the batch.
        inputs[len(places)] = encoder.prepare(picture)
        places.append(place)
    if inputs is not None:
        inputs[len(places) :] = 0
    return Batch(np.array(places, np.int64), inputs)


def embed_batches(
    batches: Iterator[Batch], count: int, encoder: LoadedEncoder, each: Map = map
) -> np.ndarray:
    """Features (count, dimension) float16; NaN where a crop is damaged.

    ``each`` is a ``map`` in order, such as ``ahead.in_order``, whose threads have a batch each: a
    batch's features do not depend on the others.

    Raises:
        NotFinite: a feature is not finite.
        UserError: the device's memory is too small for the batch.
    """
    features = np.full((count, encoder.dimension), np.nan, np.float16)

    def embedded(batch: Batch) -> tuple[Batch, np.ndarray | None]:
        if batch.inputs is None:
            return batch, None
        return batch, _embed(encoder, batch.inputs)[: len(batch.places)].numpy()

    for batch, result in each(embedded, batches):
        if result is None:
            continue
        values = result.astype(np.float16)
        damaged = first_not_finite(values)
        if damaged is not None:
            raise NotFinite(int(batch.places[damaged]))
        features[batch.places] = values
    return features


def embed_crops(crops: list[bytes], encoder: LoadedEncoder, batch: int) -> np.ndarray:
    """Features (n, dimension) float16 of encoded crops; see ``embed_batches``."""
    batches = (prepare_batch(crops, k, encoder, batch) for k in range(0, len(crops), batch))
    return embed_batches(batches, len(crops), encoder)


def _embed(encoder: LoadedEncoder, inputs: torch.Tensor) -> torch.Tensor:
    try:
        return encoder.embed(inputs)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"out of memory for a batch of {len(inputs)}: {first_line(error)}",
            where="encoders.<name>.batch",
            fix="make it smaller, for example by half; everything is then embedded with the new "
            "size, and existing features stay in the store under the old one",
        ) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of the device or the host is too small for a batch."""
    # The last two are cuBLAS's and cuDNN's words, whose workspaces did not fit.
    said = ("out of memory", "allocate memory", "STATUS_ALLOC_FAILED", "ALLOCATION_FAILED")
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)
