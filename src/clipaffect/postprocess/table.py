"""Columns of ``postprocess/<task>/steps.parquet``."""

from __future__ import annotations

COLUMNS = [
    "step", "seeds", "people", "macro_f1", "low", "high", "calibration_error", "gain", "gain_low",
    "gain_high", "p", "p_adjusted", "inner_macro_f1", "choice",
]  # fmt: skip
