"""Prediction gives evaluation's own scores, in every way that it can be called."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ASSETS, MICRO, ROOT, asset, copy_of, result_files, snakemake
from predicting import answered, file_of, predict

import clipaffect
from clipaffect.bundle.export_model import export_model
from clipaffect.bundle.load import open_bundle
from clipaffect.config import load_config
from clipaffect.core.parquet import read_table
from clipaffect.core.store import Store
from clipaffect.evaluation.fold_data import read_scores
from clipaffect.postprocess import steps
from clipaffect.postprocess.postprocess_scores import postprocess_scores
from clipaffect.postprocess.smoothing import Window
from clipaffect.prediction.batch import wanted_of
from clipaffect.prediction.pipeline import predicted
from clipaffect.prediction.sources import Source, manifest


def validation_videos(results: Path) -> list[str]:
    """Videos of one annotated person that heads were scored on."""
    manifests = sorted((results / "dataset/manifests").glob("*.parquet"))
    listed = pd.concat([read_table(path) for path in manifests])
    alone = set(listed["video"][listed["persons"].map(list).map(lambda names: names == [""])])
    rows = read_table(results / "evaluation/EXPR/rows.parquet", ["video"])
    return sorted(alone & set(rows["video"]))


def test_a_frame_gets_the_very_scores_that_evaluation_gave_it(
    micro_run: Path, micro_bundle: Path, tmp_path: Path
) -> None:
    videos = validation_videos(micro_run / "results/micro")
    assert videos
    out = tmp_path / "out"
    answered(micro_bundle, out, *map(file_of, videos), people="main", heads=True)
    for task in ("EXPR", "AU"):
        evaluated, scores = read_scores(
            micro_run / f"results/micro/evaluation/{task}/scores.parquet",
            method="head",
            variant="",
            alpha=0.5,
        )
        targets = clipaffect.load_model(micro_bundle, assets=ASSETS).tasks[task]
        compared = 0
        for video in videos:
            found = read_table(out / f"{video}/frames.parquet").set_index("frame")
            for seed in (0, 1):
                own = ((evaluated["video"] == video) & (evaluated["seed"] == seed)).to_numpy()
                columns = [f"{task}_{target}_seed{seed}" for target in targets]
                mine = found.loc[evaluated["frame"][own], columns].to_numpy(np.float32)
                assert mine.tobytes() == scores[own].astype(np.float32).tobytes()
                compared += len(mine)
        assert compared > 100


RADIUS = 1  # frames to each side that the smoothing below looks at


@pytest.fixture
def smoothed(micro_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The micro run's results with steps behind the heads that are not left to a near tie.

    Both encoders are averaged, and the mean of three frames is the only window.
    """
    monkeypatch.setattr(steps, "WINDOWS", (Window("mean", 2 * RADIUS + 1),))
    both = (lambda scores, rows: {"with": ["pixels"]}, steps.average_encoders)
    monkeypatch.setitem(steps.STEPS, "average_encoders", both)
    folder = copy_of(micro_run, tmp_path)
    config, results = load_config(ROOT / MICRO[1]), folder / "results/micro"
    for name, task in config.tasks().items():
        table, other = (results / f"tables/{encoder}/{name}" for encoder in ("micro", "pixels"))
        scored, out = results / f"evaluation/{name}", results / f"postprocess/{name}"
        postprocess_scores(
            config.training,
            config.postprocess,
            config.evaluation,
            "micro",
            task,
            table,
            [other],
            scored,
            Store(folder / "store"),
            out,
        )
    return results


def test_behind_the_steps_they_are_the_same_too(smoothed: Path, tmp_path: Path) -> None:
    """But where smoothing reaches a frame that is not annotated, which the evaluation has not."""
    export_model(smoothed, ASSETS, tmp_path / "model")
    opened = open_bundle(tmp_path / "model")
    wanted = wanted_of(opened, ASSETS, people="main")
    videos = validation_videos(smoothed)
    for task in ("EXPR", "AU"):
        folder = smoothed / f"postprocess/{task}"
        chosen = json.loads((folder / "choices.json").read_text())["steps"]
        assert [s.step for s in opened.bundle.tasks[task].steps] == [s["step"] for s in chosen]
        evaluated, scores = read_scores(folder / "scores.parquet")
        compared = 0
        for video in videos:
            path = file_of(video)
            own = (evaluated["video"] == video).to_numpy()
            there = evaluated["frame"][own].to_numpy()
            listed = manifest([Source(path.name, path, "video")], "main")
            with predicted(listed, wanted, Store(tmp_path / "store"), tmp_path / "work") as found:
                frames = found.rows["frame"].to_numpy()[found.at >= 0]
                others = np.setxor1d(frames, there)
                near = np.abs(there[:, None] - others).min(axis=1, initial=10**6)
                kept = near > RADIUS
                final = found.answers[task].final[np.searchsorted(frames, there[kept])]
            expected = scores[own][kept].astype(np.float32)
            assert final.astype(np.float32).tobytes() == expected.tobytes()
            compared += int(kept.sum())
        assert compared > 40


def test_probabilities_decisions_and_thresholds_agree(
    micro_bundle: Path, mixed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    answered(micro_bundle, out, mixed / "a.mp4")
    rows = read_table(out / "a/frames.parquet")
    stated = json.loads((micro_bundle / "bundle.json").read_text())["tasks"]
    classes = [f"EXPR_{target}" for target in stated["EXPR"]["targets"]]
    assert rows[classes].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    prior = stated["EXPR"]["steps"][-1]["choice"]
    shifted = np.log(rows[classes].to_numpy()) - prior["tau"] * np.log(prior["prior"])
    best = np.array(stated["EXPR"]["targets"])[shifted.argmax(axis=1)]
    assert (rows["EXPR"].astype(str) == best).mean() > 0.99  # float32 decides ties otherwise
    for target, limit in zip(
        stated["AU"]["targets"], stated["AU"]["steps"][-1]["choice"]["thresholds"], strict=True
    ):
        column = f"AU_{target}"
        assert rows[f"{column}_threshold"].to_numpy() == pytest.approx(limit, abs=1e-6)
        clear = (rows[column] - limit).abs() > 1e-5
        shown = rows[f"{column}_shown"].astype(bool)
        assert shown[clear].equals((rows[column] >= limit)[clear])


def test_processes_and_a_second_call_change_nothing(
    micro_bundle: Path, mixed: Path, tmp_path: Path
) -> None:
    files = [mixed / "a.mp4", mixed / "nobody.mp4", mixed / "group.jpg"]
    predict(*files, "--model", micro_bundle, "--out", tmp_path / "two", "--jobs", "2")
    answered(micro_bundle, tmp_path / "one", *files)
    first = result_files(tmp_path / "one")
    assert first == result_files(tmp_path / "two")
    page = tmp_path / "one/a/frames.csv"
    before = page.stat().st_mtime_ns
    answered(micro_bundle, tmp_path / "one", *files)
    assert page.stat().st_mtime_ns == before
    assert result_files(tmp_path / "one") == first
    answered(micro_bundle, tmp_path / "one", *files, people="main")  # another question
    assert page.stat().st_mtime_ns > before


def test_the_workflow_predicts_the_same(
    micro_run: Path, micro_bundle: Path, mixed: Path, tmp_path: Path
) -> None:
    folder = copy_of(micro_run, tmp_path)
    (mixed / "pipe.mp4").unlink()
    asked = f"prediction={{videos: [{mixed}], shards: 1}}"
    snakemake(folder, "predict", *MICRO, "--config", asked)
    made = folder / "results/micro/prediction"
    answered(micro_bundle, tmp_path / "out", mixed)
    theirs, mine = (pd.read_csv(path / "summary.csv") for path in (made, tmp_path / "out"))
    pd.testing.assert_frame_equal(theirs, mine)
    assert (folder / "results/micro/model/bundle.json").read_bytes() == (
        micro_bundle / "bundle.json"
    ).read_bytes()
    for name in ("a", "deep/Face & <b>"):
        (there,) = made.glob(f"*/{name}/frames.csv")
        assert there.read_bytes() == (tmp_path / "out" / name / "frames.csv").read_bytes()
    again = snakemake(folder, "--dry-run", "predict", *MICRO, "--config", asked)
    assert "Nothing to be done" in again.stdout


def test_python_gives_the_same_frame(micro_bundle: Path, mixed: Path, tmp_path: Path) -> None:
    asset("face-networks")
    model = clipaffect.load_model(micro_bundle, assets=ASSETS)
    found = model.predict(mixed / "a.mp4")
    answered(micro_bundle, tmp_path / "out", mixed / "a.mp4")
    pd.testing.assert_frame_equal(found, read_table(tmp_path / "out/a/frames.parquet"))
    group = model.predict_image(mixed / "group.jpg")
    assert group["person"].tolist() == [1, 2, 3, 4, 5]
    widths = group["box_width"].to_numpy()
    assert widths.argmax() == 0
