"""The shipped studies on the micro configuration: pages with answers, and nothing made twice."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from browsing import Browser
from conftest import MICRO, ROOT, snakemake

from clipaffect.config import load_config
from clipaffect.config.studies import CARDS, usable_studies
from clipaffect.tables import read_frame

STUDIES, _, _ = usable_studies(load_config(ROOT / "config/config.yaml"), ROOT / "config/studies")


def test_every_study_has_a_page_with_an_answer(micro_copy: Path, browser: Browser) -> None:
    stored = set((micro_copy / "store/heads").glob("*/*"))
    snakemake(micro_copy, "studies", *MICRO)
    folder = micro_copy / "results/micro/studies"
    new = set((micro_copy / "store/heads").glob("*/*")) - stored
    heads, finished = 0, 0
    for name in STUDIES:
        said = json.loads((folder / name / "answer.json").read_text())
        assert said["question"] == STUDIES[name].question
        assert said["answers"].keys() == {"EXPR", "AU"}
        for task in ("EXPR", "AU"):
            own = read_frame(folder / name / "evaluation" / task / "heads.parquet")
            heads += len(own)
            finished += int((own["variant"].eq("") & own["alpha"].isin([0.5, 1.0])).sum())
        browser.problems()
        browser.open(folder / name / "index.html")
        assert browser.problems() == []
        shown = browser.run("return document.body.innerText")
        assert all(answer in shown for answer in said["answers"].values())
    # The run's own heads, and those that two studies share, are trained once.
    assert finished == 4 * 2 * 4
    assert len(new) <= heads - finished
    for name in CARDS:
        said = json.loads((folder / name / "answer.json").read_text())
        assert {"EXPR", "AU"} <= said["answers"].keys()
        browser.open(folder / name / "index.html")
        assert browser.problems() == []
        shown = browser.run("return document.body.innerText")
        assert all(answer in shown for answer in said["answers"].values())
    card = json.loads((folder / "tail-card/answer.json").read_text())
    assert "of the worst 50% of the losses" in card["answers"]["AU"]
    table = pd.read_csv(folder / "tail-card/tables/people_AU.csv")
    assert table["share_of_tail"].sum() == pytest.approx(1, abs=1e-5)
    browser.open(folder / "index.html")
    shown = browser.run("return document.body.innerText")
    assert all(study.question in shown for study in STUDIES.values())
    assert card["question"] in shown
    again = snakemake(micro_copy, "studies", "--dry-run", *MICRO)
    assert "Nothing to be done" in again.stdout + again.stderr
