"""Run crops through the network in batches."""

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

    The inputs are what ``LoadedEncoder.gather`` returned; None if no crop could be decoded.
    """

    places: np.ndarray
    inputs: Any


def prepare_batch(crops: list[bytes], start: int, encoder: LoadedEncoder) -> Batch:
    """Decode a batch of crops from ``start`` on, and prepare them as far as the host does.

    On a CPU all batches have the same size, padded with zeros. With another size, the matrix
    products would use another code path, and the last bits of a row would depend on the size of
    its batch.
    """
    decoded = [decode_image(crop) for crop in crops[start : start + encoder.batch]]
    places = [place for place, picture in enumerate(decoded, start) if picture is not None]
    pictures = [picture for picture in decoded if picture is not None]
    inputs = encoder.gather(pictures, encoder.batch) if pictures else None
    return Batch(np.array(places, np.int64), inputs)


def embed_batches(
    batches: Iterator[Batch], count: int, encoder: LoadedEncoder, each: Map = map
) -> np.ndarray:
    """Features (count, dimension) float16; NaN where a crop is damaged.

    ``each`` is a ``map`` in order, such as ``ahead.in_order``, whose threads have a batch each: a
    batch's features do not depend on the others.

    Raises:
        NotFinite: a feature is not finite.
        UserError: the host's memory is too small for the batch.
    """
    features = np.full((count, encoder.dimension), np.nan, np.float16)

    def embedded(batch: Batch) -> tuple[np.ndarray, torch.Tensor | None]:
        return batch.places, None if batch.inputs is None else _embed(encoder, batch.inputs)

    # A GPU has all its work before the host waits for its first result.
    for places, result in list(each(embedded, batches)):
        if result is None:
            continue
        values = result[: len(places)].cpu().numpy().astype(np.float16)
        damaged = first_not_finite(values)
        if damaged is not None:
            raise NotFinite(int(places[damaged]))
        features[places] = values
    return features


def embed_crops(crops: list[bytes], encoder: LoadedEncoder) -> np.ndarray:
    """Features (n, dimension) float16 of encoded crops; see ``embed_batches``."""
    batches = (prepare_batch(crops, k, encoder) for k in range(0, len(crops), encoder.batch))
    return embed_batches(batches, len(crops), encoder)


def _embed(encoder: LoadedEncoder, inputs: Any) -> torch.Tensor:
    try:
        return encoder.embed(inputs)
    except (MemoryError, RuntimeError) as error:
        # A GPU's memory is the matter of ``core.gpu``.
        if not isinstance(error, MemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise UserError(
            f"out of memory for a batch of {encoder.batch}: {first_line(error)}",
            where="encoders.<name>.batch",
            fix="make it smaller, for example by half; everything is then embedded with the new "
            "size, and existing features stay in the store under the old one",
        ) from None
