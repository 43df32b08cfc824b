"""The identity of a trained head or a reference in tables and files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Setting:
    """A method, with everything that distinguishes its scores from others.

    Attributes:
        method: ``head``, or a reference such as ``linear_probe``.
        encoder: whose features it reads.
        variant: of the heads; "" is the run's own recipe.
        alpha: CVaR's level; None for a reference and for losses that have none.
        seed: of initialisation, batches and dropout; -1: none, or all of them together.
        fold: whose validation rows a head is not trained on; 0: no folds, or all together.
    """

    method: str = "head"
    encoder: str = ""
    variant: str = ""
    alpha: float | None = None
    seed: int = -1
    fold: int = 0

    NAMES: ClassVar = ("method", "encoder", "variant", "alpha")

    @property
    def key(self) -> tuple[str, str, str, float | None]:
        """What all its seeds and folds have in common."""
        return self.method, self.encoder, self.variant, self.alpha

    def columns(self, prefix: str = "") -> dict[str, Any]:
        """Columns of the tables whose rows are of all seeds and folds together."""
        values = (*self.key[:3], float("nan") if self.alpha is None else self.alpha)
        return {f"{prefix}{name}": value for name, value in zip(self.NAMES, values, strict=True)}

    @property
    def head_name(self) -> str:
        """Name of a head in its file of weights and in the tables of heads."""
        variant = f"{self.variant}," if self.variant else ""
        alpha = "" if self.alpha is None else f"alpha={self.alpha:g},"
        fold = f",fold={self.fold}" if self.fold else ""
        return f"{variant}{alpha}seed={self.seed}{fold}"


def known_alpha(value: float) -> float | None:
    """The alpha in a table cell: None for NaN."""
    return None if math.isnan(value) else float(value)
