"""Numbers of the report, from tables made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from conftest import micro_anywhere

from clipaffect.config import parse_config
from clipaffect.core.tasks import EXPR
from clipaffect.report.build_report import _prompts
from clipaffect.report.headline import answer
from clipaffect.report.results import Results, TaskResults

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


def numbers(**changed: Any) -> dict[str, Any]:
    """A task's headline numbers."""
    planned = {"beside": "linear probe", "difference": 0.1, "p_adjusted": 0.01}
    return {
        "headline": {"mean": 0.5, "seeds": 2},
        "headline_alpha": 0.5,
        "people": 30,
        "interval": [0.4, 0.6],
        "planned": [planned | {"verdict": "better", "resolvable": None}],
    } | changed


def test_an_answer_gives_the_score_and_how_sure_it_is() -> None:
    said = answer("EXPR", numbers(), "people")
    assert "macro F1 0.500" in said
    assert "95 % interval 0.400 to 0.600 over 30 people" in said
    assert "mean of 2 seeds" in said
    assert "Better than linear probe" in said
    assert "no interval" in answer("EXPR", numbers(interval=[None, None]), "people")
    one_seed = numbers(headline={"mean": 0.5, "seeds": 1})
    assert "from one seed" in answer("EXPR", one_seed, "people")
    assert "was finished" in answer("EXPR", numbers(headline=None), "people")


def test_an_answer_says_which_difference_could_have_been_seen() -> None:
    row = {"beside": "alpha = 1 (ERM)", "difference": -0.01, "p_adjusted": 0.4}
    planned = [row | {"verdict": "no difference shown", "resolvable": 0.021}]
    assert "0.021" in answer("EXPR", numbers(planned=planned), "people")


def test_the_prompts_of_zero_shot_clip_are_listed_where_it_was_asked() -> None:
    config = parse_config(micro_anywhere(), "")
    for method, listed in (("zero_shot", ["EXPR"]), ("linear_probe", [])):
        task = replace(results([]), metrics=pd.DataFrame({"method": [method]}))
        found = _prompts(Results(config, {}, {"EXPR": task}))
        assert list(found) == listed
        for target, present, absent in found.get("EXPR", []):
            assert target in EXPR.targets
            assert len(present) > 1
            assert absent == []
