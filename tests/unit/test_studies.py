"""Studies: what a file may say, and answers that follow their tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import ROOT

from clipaffect.config import load_config, parse_config
from clipaffect.config.models import Config
from clipaffect.config.studies import Study, plan_study, read_study, usable_studies
from clipaffect.core.errors import UserError
from clipaffect.core.tasks import EXPR
from clipaffect.report.results import TaskResults
from clipaffect.studies.answers import study_answer

NAN = float("nan")
SHIPPED = {path.stem for path in (ROOT / "config/studies").glob("*.yaml")}


def results(rows: list[tuple[str, float, float, float]], **curve: Any) -> TaskResults:
    """Results with some comparisons (variant, alpha, difference, adjusted p)."""
    second = {"second_method": "head", "second_encoder": "x", "second_variant": ""}
    comparisons = pd.DataFrame(
        [
            {
                "method": "head",
                "encoder": "x",
                "variant": variant,
                "alpha": alpha,
                "family": "exploratory",
                "target": "",
                "difference": difference,
                "p_adjusted": p,
                "p": p,
            }
            | second
            for variant, alpha, difference, p in rows
        ]
    )
    curve = curve or {"alpha": [0.5, 1.0], "estimate": [0.6, 0.6], "collapsed": [False, False]}
    heads = pd.DataFrame(curve).assign(variant="", status="ok")
    intervals = pd.DataFrame(curve).assign(method="head", encoder="x", variant="", target="")
    nothing = pd.DataFrame()
    return TaskResults(EXPR, nothing, heads, nothing, {}, intervals, comparisons, {}, nothing, {})


ROWS = [
    ("deep", 0.5, 0.031, 0.01),
    ("wide", 0.5, -0.02, 0.03),
    ("flat", 0.5, 0.004, 0.7),
    ("thin", 0.5, -0.006, 0.4),
]


def flipped(task: TaskResults) -> TaskResults:
    table = task.comparisons
    return replace(task, comparisons=table.assign(difference=-table["difference"]))


def test_the_answer_follows_the_table() -> None:
    task = results(ROWS)
    said = study_answer("EXPR", task, "variants", 0.5)
    assert said == (
        "EXPR: deep (+0.031, p = 0.01) is better than the run's own head and wide (-0.020, "
        "p = 0.03) is worse than the run's own head; no difference to the run's own head is shown "
        "for the 2 other variants (the largest difference is that of thin (-0.006, p = 0.4))."
    )
    turned = study_answer("EXPR", flipped(task), "variants", 0.5)
    assert "wide (+0.020, p = 0.03) is better" in turned
    assert "deep (-0.031, p = 0.01) is worse" in turned


def test_a_large_difference_without_evidence_is_not_an_answer() -> None:
    task = results([("deep", 0.5, 0.2, 0.06), ("wide", 0.5, -0.1, 0.9)])
    said = study_answer("EXPR", task, "variants", 0.5)
    assert "better" not in said
    assert "no difference to the run's own head is shown for the 2 variants" in said
    sure = results([("deep", 0.5, 0.2, 0.04), ("wide", 0.5, -0.1, 0.9)])
    assert "deep (+0.200, p = 0.04) is better" in study_answer("EXPR", sure, "variants", 0.5)


def test_too_few_people_are_said_so() -> None:
    task = results([("deep", 0.5, 0.2, NAN), ("wide", 0.5, -0.1, NAN)])
    said = study_answer("EXPR", task, "variants", 0.5)
    assert said == (
        "EXPR: the sample is too small to test 2 variants; "
        "the largest difference is that of deep (+0.200)."
    )


def test_variants_are_read_at_the_headlines_alpha() -> None:
    task = results([("deep", 0.5, 0.0, 0.9), ("deep", 1.0, 0.3, 0.001), ("focal", NAN, 0.1, 0.01)])
    said = study_answer("EXPR", task, "variants", 0.5)
    assert "focal (+0.100" in said
    assert "0.300" not in said


def test_the_course_over_alpha() -> None:
    curve = {
        "alpha": [0.01, 0.5, 1.0],
        "estimate": [0.2, 0.61, 0.6],
        "collapsed": [True, False, False],
    }
    rows = [("", 0.01, -0.4, 0.001), ("", 0.5, 0.01, 0.6)]
    said = study_answer("EXPR", results(rows, **curve), "alpha", 0.5)
    assert said == (
        "EXPR: macro F1 is between 0.200 (alpha = 0.01) and 0.610 (alpha = 0.5); worse than ERM at "
        "alpha = 0.01; heads collapsed at alpha = 0.01."
    )
    turned = study_answer("EXPR", flipped(results(rows, **curve)), "alpha", 0.5)
    assert "better than ERM at alpha = 0.01" in turned
    nothing = results([("", 0.01, -0.4, 0.2), ("", 0.5, 0.01, 0.6)], **curve)
    assert "no alpha is shown to differ from ERM" in study_answer("EXPR", nothing, "alpha", 0.5)


def test_one_comparison_with_the_published_recipe() -> None:
    task = results([("own", 0.5, 0.03, 0.01), ("own", 1.0, 0.5, 0.001)])
    said = study_answer("EXPR", task, "beat", 0.5)
    assert said == "EXPR: your head beats the published recipe (+0.030, p = 0.01)."
    said = study_answer("EXPR", flipped(task), "beat", 0.5)
    assert said == "EXPR: your head is worse than the published recipe (-0.030, p = 0.01)."
    unsure = results([("own", NAN, 0.03, 0.2)])
    assert "it is not shown that your head differs" in study_answer("EXPR", unsure, "beat", 0.5)
    few = results([("own", 0.5, 0.03, NAN)])
    assert "too small for a test" in study_answer("EXPR", few, "beat", 0.5)


@pytest.mark.parametrize("name", ["config", "aff-wild2", "dinov2"])
def test_the_shipped_studies_fit_the_shipped_configurations(name: str) -> None:
    config = load_config(ROOT / f"config/{name}.yaml")
    studies, wrong = usable_studies(config, ROOT / "config/studies")
    assert len(studies) >= 7
    assert wrong == {}
    for own in studies.values():
        training = own.config.training
        assert len(training.heads()) > 2
        assert training.headline_alpha == config.training.headline_alpha
        assert own.config.data == config.data
        # The run's own heads are among the study's: they come from the work store.
        assert ("", training.headline_alpha, training.seeds[0]) in training.heads()


def test_a_study_that_does_not_fit_is_named_and_stops_nobody() -> None:
    config = parse_config(
        {"training": {"loss_over": "samples", "headline_alpha": 0.4, "alphas": [0.4, 1.0]}}, "test"
    )
    studies, wrong = usable_studies(config, ROOT / "config/studies")
    assert list(wrong) == ["losses"]
    assert "class_balanced weights single units" in wrong["losses"]
    assert studies.keys() == SHIPPED - {"losses"}
    assert 0.4 in studies["alpha"].config.training.alphas


def test_heads_that_failed_or_collapsed_are_told() -> None:
    task = results(ROWS)
    heads = pd.DataFrame(
        {
            "variant": ["", "deep", "deep", "wide"],
            "status": ["ok", "failed", "ok", "ok"],
            "collapsed": [False, False, False, True],
            "alpha": 0.5,
        }
    )
    said = study_answer("EXPR", replace(task, heads=heads), "variants", 0.5)
    assert said.endswith("Heads that failed: 1 of deep. Heads that collapsed: 1 of wide.")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("question: [", "invalid YAML"),
        ("asks: why", "question"),
        ("question: why\nalphas: [2]", "alphas"),
        ("[]", "Study"),
        ("question: why", "answer: alpha"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_study(path)
    assert words in error.value.what
    assert str(path) in str(error.value.where)


def test_a_wrong_variant_names_the_study_and_the_key() -> None:
    study = Study(question="why", variants={"deep": {"hidden_layer": 4}})
    with pytest.raises(UserError, match="did you mean 'hidden_layers'") as error:
        plan_study(Config(), "mine", study)
    assert "mine.yaml" in str(error.value.where)
