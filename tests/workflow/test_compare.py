"""Two real runs side by side: what differs is found, and noise is not called a change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from browsing import Browser
from conftest import MICRO, ROOT, clipaffect, copy_of, snakemake

from clipaffect.core.errors import UserError
from clipaffect.core.parquet import read_table, write_table
from clipaffect.report.compare_runs import alone, differences, flatten, moved, read_run

RESULTS = Path("results/micro")


@pytest.fixture(scope="module")
def hidden(micro_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro run beside one that differs in a single setting, which its file does not show."""
    config = yaml.safe_load((ROOT / "tests/config/micro.yaml").read_text())
    config["run"] = "other"
    config["training"]["weight_decay"] = 0.3  # the other file leaves it at its default
    folder = copy_of(micro_run, tmp_path_factory.mktemp("hidden"))
    (folder / "other.yaml").write_text(yaml.safe_dump(config))
    snakemake(folder, "--configfile", "other.yaml")
    return folder / "results"


def test_one_hidden_setting_is_found(hidden: Path, browser: Browser) -> None:
    first, second = read_run(hidden / "micro"), read_run(hidden / "other")
    rows = differences(first, second)
    assert {row["key"] for row in rows} == {"run", "training.weight_decay"}
    assert rows[1] == {
        "kind": "configuration",
        "key": "training.weight_decay",
        "first": "0.0001",
        "second": "0.3",
    }
    scores = moved(first, second)
    # The references do not know of it: the same to the last digit.
    same = [row for row in scores if "probe" in row["setting"] or "const" in row["setting"]]
    assert len(same) == 5
    assert all(row["difference"] == 0 for row in same)
    # Three people: nothing is called a change.
    assert {row["verdict"] for row in scores} == {
        "not tested: fewer than 20 people or source videos"
    }
    done = clipaffect("compare", "micro", "other", folder=hidden)
    assert done.returncode == 0, done.stderr
    assert "differ in 2 things, 2 of them settings" in done.stdout
    browser.forget()
    browser.open(hidden / "other/beside-micro.html")
    assert browser.problems() == []
    assert "training.weight_decay" in browser.run("return document.body.innerText")


def test_heads_are_scored_on_another_runs_frames(hidden: Path, browser: Browser) -> None:
    place = hidden.parent
    (place / "config").unlink()
    studies = place / "config/studies"
    studies.mkdir(parents=True)
    said = {"question": "Elsewhere?", "answer": "transfer"}
    (studies / "there.yaml").write_text(yaml.safe_dump(said | {"runs": ["other"]}))
    (studies / "nowhere.yaml").write_text(yaml.safe_dump(said | {"runs": ["nothing"]}))
    page = "results/micro/studies/{}/index.html"
    snakemake(place, page.format("there"), *MICRO)
    table = pd.read_csv(hidden / "micro/studies/there/tables/transfer_EXPR.csv")
    # Both runs have the same tables, so heads score there what they score at home.
    for name in ("micro", "other"):
        metrics = read_table(hidden / name / "evaluation/EXPR/metrics.parquet")
        own = (metrics["metric"] == "macro_f1") & (metrics["method"] == "head")
        home = metrics.loc[own & (metrics["alpha"] == 0.5), "value"].mean()
        assert table.set_index("heads_of").loc[name, "macro_f1"] == pytest.approx(home, abs=1e-6)
    assert set(table["known_people"]) == {0}
    answers = json.loads((hidden / "micro/studies/there/answer.json").read_text())["answers"]
    assert "on other these heads score" in answers["AU"]
    browser.forget()
    browser.open(hidden / "micro/studies/there/index.html")
    assert browser.problems() == []
    failed = snakemake(place, page.format("nowhere"), *MICRO, check=False)
    assert failed.returncode
    log = (place / "logs/micro/write_transfer/nowhere.log").read_text()
    assert "the run does not exist or is not finished" in log
    assert "results/nothing" in log
    assert "Traceback" not in log


def many_people(folder: Path, people: int = 30) -> None:
    """Copies of the people of a run: enough of them for a test."""
    path = folder / "evaluation/EXPR/clusters.parquet"
    frame = read_table(path)
    copies = [frame.assign(group=frame["group"] + f" {k:02d}") for k in range(people)]
    write_table(path, pd.concat(copies, ignore_index=True))


def test_a_run_beside_itself_is_the_same(micro_run: Path, tmp_path: Path) -> None:
    shutil.copytree(micro_run / RESULTS, tmp_path / "a")
    many_people(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first, second = read_run(tmp_path / "a"), read_run(tmp_path / "b")
    assert differences(first, second) == []
    rows = [row for row in moved(first, second) if row["task"] == "EXPR"]
    assert {row["verdict"] for row in rows} == {"no difference shown"}
    assert all(abs(row["difference"]) < 1e-12 and row["p"] == 1 for row in rows)


def test_fewer_right_answers_are_found_to_be_worse(micro_run: Path, tmp_path: Path) -> None:
    shutil.copytree(micro_run / RESULTS, tmp_path / "a")
    many_people(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    path = tmp_path / "b/evaluation/EXPR/clusters.parquet"
    frame = read_table(path)
    worse = (frame["method"] == "linear_probe") & (frame["encoder"] == "pixels")
    frame.loc[worse, "misses"] += frame.loc[worse, "hits"]
    frame.loc[worse, "hits"] = 0
    write_table(path, frame)
    rows = moved(read_run(tmp_path / "a"), read_run(tmp_path / "b"))
    said = {row["setting"]: row["verdict"] for row in rows if row["task"] == "EXPR"}
    assert said.pop("linear probe on pixels") == "worse"
    assert set(said.values()) == {"no difference shown"}


def test_other_frames_are_not_compared(micro_run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(micro_run / RESULTS, tmp_path / name)
    path = tmp_path / "b/evaluation/AU/clusters.parquet"
    frame = read_table(path)
    frame["annotated"] += 1
    write_table(path, frame)
    rows = moved(read_run(tmp_path / "a"), read_run(tmp_path / "b"))
    said = {row["verdict"] for row in rows if row["task"] == "AU"}
    assert said == {"other frames or seeds: not tested"}


def test_heads_on_two_encoders_are_compared(micro_run: Path, tmp_path: Path) -> None:
    shutil.copytree(micro_run / RESULTS, tmp_path / "a")
    many_people(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    record = tmp_path / "b/report/run.json"
    values = json.loads(record.read_text())
    values["config"]["encoder"] = "other"
    record.write_text(json.dumps(values))
    for path in (tmp_path / "b/evaluation").glob("*/clusters.parquet"):
        frame = read_table(path)
        head = frame["method"] == "head"
        frame.loc[frame["encoder"] == "micro", "encoder"] = "other"
        frame.loc[head, "misses"] += frame.loc[head, "hits"]
        frame.loc[head, "hits"] = 0
        write_table(path, frame)
    first, second = read_run(tmp_path / "a"), read_run(tmp_path / "b")
    rows = [row for row in moved(first, second) if row["task"] == "EXPR"]
    said = {row["setting"]: row["verdict"] for row in rows}
    assert said["alpha = 0.5"] == said["alpha = 1 (ERM)"] == "worse"
    assert said["linear probe on micro / linear probe on other"] == "no difference shown"
    assert alone(first, second) == []
    frame = read_table(path)
    write_table(path, frame[frame["alpha"] != 0.5])
    single = alone(first, read_run(tmp_path / "b"))
    assert len(single) == 1
    assert "alpha = 0.5 (in a)" in single[0]


def test_a_folder_without_a_run_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not finished"):
        read_run(tmp_path)


def test_a_tree_becomes_dotted_keys() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}
    assert json.dumps(flatten({})) == "{}"


def test_scores_of_another_run_are_refused(micro_copy: Path) -> None:
    # As if the folder of scores had been copied from a run with other settings.
    source = micro_copy / RESULTS / "evaluation/EXPR/source.json"
    values = json.loads(source.read_text())
    source.write_text(json.dumps(values | {"settings": "0" * 64}))
    done = snakemake(
        micro_copy,
        *MICRO,
        "--allowed-rules",
        "build_report",
        "--forcerun",
        "build_report",
        "--",
        f"{RESULTS}/report/index.html",
        check=False,
    )
    assert done.returncode
    log = (micro_copy / "logs/micro/build_report.log").read_text()
    assert "belong to another run" in log
    assert f"their settings have the fingerprint {'0' * 16}" in " ".join(
        log.replace("│", " ").split()
    )
