"""Every study and card on the micro configuration: pages with answers, and nothing made twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from browsing import Browser
from conftest import MICRO, ROOT, snakemake

from clipaffect.config import load_config
from clipaffect.config.studies import CARDS, usable_studies
from clipaffect.core.frame_status import KEYS
from clipaffect.core.parquet import read_table
from clipaffect.core.split_names import VALIDATION
from clipaffect.core.tasks import AU, EXPR
from clipaffect.encoders.registry import load_encoder
from clipaffect.features.batches import embed_crops
from clipaffect.studies.disturb_crops import find_crops
from clipaffect.training.data import read_split

CONFIG = ROOT / "tests/config/micro.yaml"


@pytest.fixture(params=["short", pytest.param("whole", marks=pytest.mark.slow)])
def small(micro_copy: Path, request: pytest.FixtureRequest) -> Path:
    """The shipped studies, cut to what a minute can hold: fewer factors, encoders and seeds."""
    (micro_copy / "config").unlink()
    shutil.copytree(ROOT / "config", micro_copy / "config")
    folder = micro_copy / "config/studies"

    def change(name: str, **values: object) -> None:
        path = folder / f"{name}.yaml"
        changed = yaml.safe_load(path.read_text()) | values  # levels have an order
        path.write_text(yaml.safe_dump(changed, sort_keys=False))

    factors = yaml.safe_load((folder / "points.yaml").read_text())["factors"]
    change(
        "points", factors={k: factors[k] for k in ("crop", "flatness", "threshold", "smoothing")}
    )
    levels = yaml.safe_load((folder / "encoders.yaml").read_text())["factors"]["encoder"]
    encoders = {k: levels[k] for k in ("own", "pixels")} | factors["activation"]
    change("encoders", factors={"encoder": encoders})
    change("beat-it", seeds=[0])
    (folder / "published.yaml").unlink()  # variants like any others, but large
    if request.param == "short":  # the published heads are wide and train for 32 epochs
        (folder / "beat-it.yaml").unlink()
    return micro_copy


def test_every_study_has_a_page_with_an_answer(small: Path, browser: Browser) -> None:
    studies, wrong = usable_studies(load_config(CONFIG), small / "config/studies")
    assert wrong == {}
    grids = {name: own for name, own in studies.items() if not own.combinations.every}
    stored = set((small / "store/heads").glob("*/*"))
    snakemake(small, "studies", *MICRO)
    folder = small / "results/micro/studies"
    new = set((small / "store/heads").glob("*/*")) - stored
    heads, finished = 0, 0
    for name in (*studies, *CARDS):
        said = json.loads((folder / name / "answer.json").read_text())
        assert {"EXPR", "AU"} <= said["answers"].keys()
        browser.forget()
        browser.open(folder / name / "index.html")
        assert browser.problems() == []
        shown = browser.run("return document.body.innerText")
        assert all(answer in shown for answer in said["answers"].values())
    # The run's own heads, and those that two studies share, are trained once.
    for path in folder.glob("*/**/heads.parquet"):
        if "evaluation" in path.parts:
            own = read_table(path)
            heads += len(own)
            grid = path.relative_to(folder).parts[0] in grids.keys() - {"beat-it"}
            same = own["variant"].eq("") & own["alpha"].isin([0.5, 1.0])
            finished += int(same.sum()) if grid else 0
    assert finished == len(grids.keys() - {"beat-it"}) * 2 * 4
    assert len(new) <= heads - finished
    browser.open(folder / "index.html")
    shown = browser.run("return document.body.innerText")
    assert all(own.study.question in shown for own in studies.values())
    check_tables(folder)
    check_disturbed(small)
    again = snakemake(small, "studies", "--dry-run", *MICRO)
    assert "Nothing to be done" in again.stdout + again.stderr


def check_tables(folder: Path) -> None:
    table = pd.read_csv(folder / "tail-card/tables/people_AU.csv")
    assert table["share_of_tail"].sum() == pytest.approx(1, abs=1e-5)
    # What the factors bring adds up from the first corner to the last, which is the run's own.
    combinations = pd.read_csv(folder / "points/tables/universes_EXPR.csv", keep_default_na=False)
    brought = pd.read_csv(folder / "points/tables/contributions_EXPR.csv")
    levels = list(brought["factor"])
    first = combinations[(combinations[levels] == list(brought["from"])).all(axis=1)]
    last = combinations[(combinations[levels] == list(brought["to"].fillna("none"))).all(axis=1)]
    change = float(last["macro_f1"].iloc[0]) - float(first["macro_f1"].iloc[0])
    assert brought["difference"].sum() == pytest.approx(change, abs=1e-5)
    metrics = read_table(folder.parent / "evaluation/EXPR/metrics.parquet")
    own = metrics[(metrics["metric"] == "macro_f1") & (metrics["method"] == "head")]
    headline = own.loc[own["alpha"] == 0.5, "value"].mean()
    assert float(last["macro_f1"].iloc[0]) == pytest.approx(headline, abs=1e-5)


def check_disturbed(small: Path) -> None:
    """A crop that was not disturbed has the very feature that the table has."""
    config, results = load_config(CONFIG), small / "results/micro"
    faces = sorted((results / "faces").glob("*.parquet"))
    encoder = load_encoder(config.encoders["micro"], ROOT / "assets", "cpu")
    for task in (EXPR, AU):
        split = read_split(results / "tables/micro" / task.name, task, VALIDATION)
        rows = np.arange(0, len(split.rows), 17)
        crops = find_crops(split.rows.iloc[rows][KEYS].astype({"video": str, "person": str}), faces)
        found = embed_crops(crops, encoder)
        assert (found == split.features.numpy()[rows]).all()
