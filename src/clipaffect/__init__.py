"""Facial affect from video with a frozen image encoder and CVaR + SAM heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipaffect.model import Model as Model
    from clipaffect.model import load_model as load_model

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "load_model"]


def __getattr__(name: str) -> Any:
    """``load_model`` and ``Model``, imported when asked for: the command line needs no torch."""
    if name in ("Model", "load_model"):
        from clipaffect import model  # noqa: PLC0415 - see above

        return getattr(model, name)
    raise AttributeError(f"module 'clipaffect' has no attribute '{name}'")
