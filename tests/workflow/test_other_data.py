"""Whole runs on data that is not Aff-Wild2: a made-up domain, features from elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest
import yaml
from browsing import Browser
from conftest import ROOT, clipaffect, copy_of, snakemake, workplace
from sklearn.metrics import f1_score

from clipaffect import load_model
from clipaffect.config import parse_config
from clipaffect.core.layout import Layout
from clipaffect.core.parquet import read_table
from clipaffect.dataset.index_dataset import index_dataset
from clipaffect.dataset.tree import folder_name
from clipaffect.evaluation.measure_agreement import measure_agreement
from clipaffect.report.build_report import build_report

CLASSES = ("ripe", "green", "rotten")
LEAF = "leaf {x} $a$ <b> [/i]"  # what braces, dollars and brackets could do
PIXELS = {"encoder": "pixels", "encoders": {"pixels": {"kind": "pixels", "side": 12}}}
TRAINING = {"alphas": [0.5, 1.0], "seeds": [0, 1], "width": 32, "hidden_layers": 1, "epochs": 6}


def write_fruit(folder: Path, trees: int = 9, each: int = 8) -> pd.DataFrame:
    """Pictures of a made-up domain: their colour is the class, a bright bar one of two labels."""
    rng = np.random.default_rng(0)
    rows = []
    for tree in range(trees):
        for number in range(each):
            colour, bar = int(rng.integers(3)), int(rng.integers(2))
            pixels = rng.integers(0, 60, (40, 40, 3)).astype(np.uint8)
            pixels[:, :, colour] += 120
            pixels[25:33] = 255 if bar else pixels[25:33]
            name = f"pictures/{tree}/{number}.png"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name), pixels)
            state = CLASSES[colour] if (tree + number) % 7 else ""
            rows.append(
                {
                    "image": name,
                    "person": f"tree {tree}",
                    "state": state,
                    "bar": bar,
                    LEAF: int(rng.integers(2)),
                }
            )
    frame = pd.DataFrame(rows)
    frame.to_csv(folder / "fruit.csv", index=False)
    return frame


FRUIT = {
    "run": "fruit",
    "data": {
        "format": "table",
        "table": "own/fruit.csv",
        "tasks": {"state": {"classes": list(CLASSES)}, "marks": {"labels": ["bar", LEAF]}},
        "split": {"by": "folds", "folds": 3},
        "shards": 2,
    },
    "training": TRAINING,
    **PIXELS,
}


@pytest.fixture(scope="module")
def fruit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = workplace(tmp_path_factory.mktemp("fruit") / "run")
    write_fruit(folder / "own")
    (folder / "fruit.yaml").write_text(yaml.safe_dump(FRUIT))
    snakemake(folder, "--configfile", "fruit.yaml")
    return folder


def test_another_domain_runs_by_configuration_alone(fruit: Path) -> None:
    results = fruit / "results/fruit"
    metrics = json.loads((results / "report/metrics.json").read_text())["tasks"]
    assert metrics["state"]["references"]["linear probe on pixels"] > 0.9  # colours are easy
    rows = read_table(results / "tables/pixels/state/rows.parquet")
    given = pd.read_csv(fruit / "own/fruit.csv", keep_default_na=False).set_index("image")
    assert len(rows) == (given["state"] != "").sum()
    assert given.loc[rows["video"], "state"].tolist() == [CLASSES[k] for k in rows["label"]]
    assert given.loc[rows["video"], "person"].tolist() == rows["group"].tolist()
    assert rows.groupby("group")["split"].nunique().max() == 1
    folds = metrics["state"]["over_folds"]["folds"]
    assert list(folds) == ["1", "2", "3"]
    # the headline is the pooled out-of-fold score of each seed, recomputed
    scores = read_table(results / "evaluation/state/scores.parquet")
    own = scores.query("method == 'head' and alpha == 0.5")
    truth = rows.set_index("video")["label"]
    values = [
        f1_score(
            truth[part["video"]],
            np.stack(part["scores"].to_list()).argmax(1),
            labels=range(3),
            average="macro",
            zero_division=0,
        )
        for _, part in own.groupby("seed")
    ]
    assert metrics["state"]["headline"]["mean"] == pytest.approx(np.mean(values))
    page = (results / "report/index.html").read_text()
    for words in (
        "trained on the other folds",
        "ripe",
        "Each of the 3 folds separately",
        "3 classes",
    ):
        assert words in page
    assert "action unit" not in page.split("<pre>")[0]
    assert "leaf {x} $a$ &lt;b&gt; [/i]" in page
    assert LEAF in (results / "report/figures/targets_marks.svg").read_text().replace(
        "&lt;", "<"
    ).replace("&gt;", ">")


def test_a_model_of_everybody_carries_the_score_of_the_folds(fruit: Path) -> None:
    snakemake(fruit, "model", "--configfile", "fruit.yaml")
    results = fruit / "results/fruit"
    bundle = json.loads((results / "model/bundle.json").read_text())
    metrics = json.loads((results / "report/metrics.json").read_text())["tasks"]
    given = pd.read_csv(fruit / "own/fruit.csv", keep_default_na=False)
    for name, task in bundle["tasks"].items():
        used = given[given["state"] != ""] if name == "state" else given
        assert task["final_heads"]
        assert task["trained_on"]["frames"] == len(used)
        assert task["trained_on"]["people"] == used["person"].nunique()
        assert task["macro_f1"] == metrics[name]["headline"]["mean"]
        assert "trained on other folds" in task["protocol"]
    readme = (results / "model/README.md").read_text()
    assert "They have not been scored themselves" in " ".join(readme.split())
    assert "Do not quote this score" in readme  # there are fewer than 20 trees
    done = clipaffect("export-model", results, "--out", fruit / "exported", folder=fruit)
    assert done.returncode == 0, done.stderr
    labelled = given[given["state"] != ""]
    pictures = np.stack([cv2.imread(str(fruit / "own" / name)) for name in labelled["image"]])
    answers = load_model(fruit / "exported").predict_faces(pictures[..., ::-1].copy())
    # Six epochs are few, but the classes are three.
    assert (answers["state"].to_numpy() == labelled["state"].to_numpy()).mean() > 0.45


def test_raters_stand_next_to_the_models_score(fruit: Path, tmp_path: Path) -> None:
    """The same labels by three raters, of whom one is often wrong; the scores stay as they are."""
    folder = copy_of(fruit, tmp_path)
    shutil.copytree(fruit / "own", folder / "own")
    table = pd.read_csv(folder / "own/fruit.csv", keep_default_na=False)
    turned = table["state"].replace(dict(zip(CLASSES, (*CLASSES[1:], CLASSES[0]), strict=True)))
    wrong = table.assign(state=turned.where(table.index % 3 == 0, table["state"]))
    raters = {"anna": table, "ben": table, "cem": wrong}
    every = pd.concat([own.assign(who=name) for name, own in raters.items()])
    every.to_csv(folder / "own/fruit.csv", index=False)
    values = FRUIT | {"data": FRUIT["data"] | {"rater": "who", "root": str(folder / "own")}}
    values["data"]["table"] = str(folder / "own/fruit.csv")
    config = parse_config(yaml.safe_load(yaml.safe_dump(values)), "test")  # tasks in its order
    results = Layout(folder / "results/fruit")
    tasks = list(config.tasks().values())
    labels = results.dataset.labels("state").read_bytes()
    index_dataset(config.data, tasks, results.dataset.folder)
    assert results.dataset.labels("state").read_bytes() == labels
    for task in tasks:
        ratings, out = results.dataset.ratings(task.name), results.agreement(task.name)
        measure_agreement(ratings, results.evaluation(task.name).rows, task, out)
    build_report(config, results.folder, results.report.folder)
    found = json.loads(results.report.metrics.read_text())["tasks"]["state"]
    assert found["agreement"]["raters"] == ["anna", "ben", "cem"]
    assert found["agreement"]["raters_f1"]["cem"] < found["agreement"]["raters_f1"]["anna"]
    page = results.report.page.read_text()
    assert "3 raters, each scored against the majority of the others" in page
    chart = (results.report.figures / "alpha_state.svg").read_text()
    assert "a rater, against the other raters" in chart


def test_markup_in_a_name_is_a_name_on_the_page(fruit: Path, browser: Browser) -> None:
    browser.forget()
    browser.open(fruit / "results/fruit/report/index.html")
    assert browser.problems() == []
    words = browser.run("return [...document.querySelectorAll('svg text')].map(t => t.textContent)")
    assert LEAF in words
    assert browser.run("return document.querySelectorAll('svg b, main b').length") == 0
    tex = (fruit / "results/fruit/report/tables/targets.tex").read_text()
    assert r"leaf \{x\} \$a\$ <b> [/i]" in tex


def test_the_check_knows_folds_and_tasks(fruit: Path) -> None:
    done = clipaffect("check", "fruit.yaml", folder=fruit)
    assert done.returncode == 0, done.stderr
    for words in ("12 heads for state", "12 heads for marks", "3 parts, grouped by person", "ripe"):
        assert words in done.stdout


def test_a_label_costs_no_embedding_and_an_image_its_own(fruit: Path, tmp_path: Path) -> None:
    folder = copy_of(fruit, tmp_path)
    shutil.copytree(fruit / "own", folder / "own")
    shutil.copy(fruit / "fruit.yaml", folder)

    def features() -> set[Path]:
        return set((folder / "store/embeddings").glob("*/*"))

    path, before = folder / "own/fruit.csv", features()
    turned = {"ripe": "green", "green": "rotten", "rotten": "ripe"}
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        state = line.split(",")[2]
        if state in turned:
            lines[number] = line.replace(state, turned[state])
            break
    path.write_text("\n".join(lines) + "\n")
    rows = folder / "results/fruit/tables/pixels/state/rows.parquet"
    labels = read_table(rows).set_index("video")["label"]
    snakemake(folder, "embeddings_all", "--configfile", "fruit.yaml")
    found = read_table(rows).set_index("video")["label"]  # the parts may be others now
    assert (found[labels.index] != labels).sum() == 1
    assert features() == before
    picture = folder / "own/pictures/0/new.png"
    picture.write_bytes((folder / "own/pictures/0/1.png").read_bytes() + b"IEND")
    path.write_text("\n".join([*lines, "pictures/0/new.png,tree 0,ripe,0,0"]) + "\n")
    snakemake(folder, "embeddings_all", "--configfile", "fruit.yaml")
    assert len(features() - before) == 1
    assert len(read_table(rows)) == len(labels) + 1


def test_features_of_an_earlier_run_give_its_heads_again(micro_run: Path, tmp_path: Path) -> None:
    folder = workplace(tmp_path / "run")
    shards = sorted((micro_run / "results/micro/embeddings/micro").glob("*.parquet"))
    frame = pd.concat([read_table(shard) for shard in shards])
    frame = frame[frame["status"] == "ok"].sample(frac=1, random_state=0)
    with h5py.File(folder / "theirs.h5", "w") as file:  # as the paper's authors keep them
        file["train_features"] = np.stack(frame["feature"].to_list())
    names = [folder_name(v, p) for v, p in zip(frame["video"], frame["person"], strict=True)]
    lines = [f"crops/{n}/{f:05d}.jpg 0" for n, f in zip(names, frame["frame"], strict=True)]
    (folder / "theirs.txt").write_text("\n".join(lines) + "\n")
    config = yaml.safe_load((ROOT / "tests/config/micro.yaml").read_text())
    config |= {"run": "again", "encoders": {}, "encoder": "theirs", "postprocess": {"folds": 2}}
    config["data"] |= {"annotations": "tests/data/clips/annotations"}
    config["features"] = {"import": {"theirs": {"file": "theirs.h5", "frames": "theirs.txt"}}}
    (folder / "c.yaml").write_text(yaml.safe_dump(config))
    done = snakemake(folder, "--configfile", "c.yaml").stderr
    for rule in ("extract_frames", "align_faces", "embed_faces", "fetch_asset"):
        assert f"rule {rule}:" not in done
    for task in ("EXPR", "AU"):
        for part in ("0", "1"):
            bundle = f"models/{task}/{part}/heads.safetensors"
            expected = (micro_run / "results/micro" / bundle).read_bytes()
            assert (folder / "results/again" / bundle).read_bytes() == expected
    page = (folder / "results/again/report/index.html").read_text()
    assert "theirs: imported features" in page
