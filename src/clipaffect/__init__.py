"""Facial affect from video with a frozen image encoder and CVaR + SAM heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clipaffect._version import __version__

if TYPE_CHECKING:
    from clipaffect.api import Model as Model
    from clipaffect.api import load_model as load_model

__all__ = ["Model", "__version__", "load_model"]


def __getattr__(name: str) -> Any:
    """Import ``load_model`` and ``Model`` on first use: the command line needs no torch."""
    if name in ("Model", "load_model"):
        from clipaffect import api  # noqa: PLC0415 - see above

        return getattr(api, name)
    raise AttributeError(f"module 'clipaffect' has no attribute '{name}'")
