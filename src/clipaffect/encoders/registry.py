"""What an encoder offers, and where each kind of encoder is.

A new kind is one module in ``encoders/kinds`` with the functions of ``Kind``, and its name in
``config.encoders.EncoderKind``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch

from clipaffect.config.encoders import Encoder


@dataclass(frozen=True)
class LoadedEncoder:
    """A ready encoder.

    Attributes:
        prepare: one RGB crop (H, W, 3) uint8 to the network's input, float32: the reference.
        gather: RGB crops, and the size of a batch they are padded to, to what ``embed`` takes, in
            the host's memory. Several threads may call it.
        embed: what is gathered to features (n or more, dimension) float32, the padding's last; on
            the device, where the work may not be finished.
        dimension: of a feature.
        batch: the number of crops to gather at once.
    """

    prepare: Callable[[np.ndarray], torch.Tensor]
    gather: Callable[[Sequence[np.ndarray], int], Any]
    embed: Callable[[Any], torch.Tensor]
    dimension: int
    batch: int


@dataclass(frozen=True)
class EncoderCost:
    """Of one image: floating-point operations, parameters of the image tower, feature length."""

    flop: float
    parameters: int
    dimension: int


class Kind(Protocol):
    """The functions of a kind's module."""

    IS_NETWORK: bool  # a GPU is of use, and it can be written as ONNX

    @staticmethod
    def check(settings: Encoder, name: str) -> None:
        """See ``check_encoder``."""

    @staticmethod
    def record(settings: Encoder, assets: Path, device: str) -> dict[str, Any]:
        """See ``encoder_record``."""
        ...

    @staticmethod
    def load(settings: Encoder, assets: Path, device: str) -> LoadedEncoder:
        """See ``load_encoder``."""
        ...

    @staticmethod
    def stand_in(settings: Encoder, device: str) -> LoadedEncoder:
        """See ``stand_in``."""
        ...

    @staticmethod
    def cost(settings: Encoder) -> EncoderCost:
        """See ``encoder_cost``."""
        ...

    @staticmethod
    def describe_input(settings: Encoder) -> dict[str, Any]:
        """See ``describe_input``."""
        ...


def kind_of(settings: Encoder) -> Kind:
    """The module of an encoder's kind."""
    return cast(Kind, import_module(f"clipaffect.encoders.kinds.{settings.kind}"))


def check_encoder(settings: Encoder, name: str) -> None:
    """Check everything that can be checked without loading weights.

    Raises:
        UserError: unknown model or tag, an activation that is not the one the model runs or the
            tag was trained with, or a file that is missing or another one.
    """
    kind_of(settings).check(settings, name)


def encoder_record(settings: Encoder, assets: Path, device: str) -> dict[str, Any]:
    """What a feature depends on besides the crop: part of the key of every store entry.

    ``assets`` is the folder of fetched assets. The device enters as its class (``cpu``, ``cuda``).
    """
    return kind_of(settings).record(settings, assets, device)


def load_encoder(settings: Encoder, assets: Path, device: str) -> LoadedEncoder:
    """Load an encoder for inference.

    Args:
        settings: its configuration.
        assets: folder of fetched assets.
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UserError: unknown model or tag, a wrong file, or an activation that is not the stated one.
    """
    return kind_of(settings).load(settings, assets, device)


def stand_in(settings: Encoder, device: str) -> LoadedEncoder:
    """An encoder of the same shape without its weights, to measure the cost of the real one.

    Nothing is read or fetched. Its features are meaningless.
    """
    return kind_of(settings).stand_in(settings, device)


def encoder_cost(settings: Encoder) -> EncoderCost:
    """Operations and parameters, counted without weights."""
    return kind_of(settings).cost(settings)


def describe_input(settings: Encoder) -> dict[str, Any]:
    """From a crop to the encoder's input, step by step: for ``preprocessing.json``."""
    return kind_of(settings).describe_input(settings)
