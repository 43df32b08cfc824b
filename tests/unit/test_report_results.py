"""Numbers of the report, from tables made by hand."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from clipaffect.core.tasks import EXPR
from clipaffect.report.results import TaskResults

EMPTY = pd.DataFrame()


def results(heads: list[dict[str, Any]]) -> TaskResults:
    frames = {"missing": "leave_out", "folds": 0}
    table = pd.DataFrame([{"variant": "", "status": "ok"} | head for head in heads])
    return TaskResults(EXPR, EMPTY, table, EMPTY, frames, EMPTY, EMPTY, {}, EMPTY, {})


def test_the_chosen_alpha_has_the_best_mean_not_the_best_head() -> None:
    found = results(
        [
            {"alpha": 0.1, "inner_macro_f1": 0.9},
            {"alpha": 0.1, "inner_macro_f1": 0.1},
            {"alpha": 0.5, "inner_macro_f1": 0.6},
            {"alpha": 0.5, "inner_macro_f1": 0.6},
            {"alpha": 1.0, "inner_macro_f1": 0.99, "status": "non_finite"},
            {"alpha": 1.0, "inner_macro_f1": 0.99, "variant": "focal"},
        ]
    )
    assert found.chosen_alpha() == 0.5


def test_the_best_epoch_is_the_mean_over_heads_that_finished() -> None:
    found = results(
        [
            {"alpha": 0.5, "best_validation_macro_f1": 0.4},
            {"alpha": 0.5, "best_validation_macro_f1": 0.6},
            {"alpha": 0.5, "best_validation_macro_f1": 0.1, "status": "non_finite"},
            {"alpha": 1.0, "best_validation_macro_f1": 0.9},
        ]
    )
    assert found.best_validation_epoch(0.5) == pytest.approx(0.5)
