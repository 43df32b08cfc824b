"""Zero-shot predictions, what a model was trained on, and faces that are far from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ASSETS, CLIPS, ROOT
from sklearn.decomposition import PCA
from typer.testing import CliRunner

import clipaffect
from clipaffect.bundle.feature_statistics import (
    EXCEED,
    FEWEST_DIRECTIONS,
    SHARE,
    fit_statistics,
    from_tensors,
)
from clipaffect.bundle.format import TrainedOn, read_bundle
from clipaffect.bundle.trained_on import NOT_TRAINED, UNKNOWN, trained_on
from clipaffect.bundle.zero_shot import zero_shot_model
from clipaffect.cli.main import app
from clipaffect.config import load_config, parse_config
from clipaffect.core.errors import UserError
from clipaffect.core.store import Store
from clipaffect.core.tasks import AU, EXPR
from clipaffect.encoders.prompts import prompt_features
from clipaffect.encoders.registry import load_encoder
from clipaffect.evaluation.references import zero_shot_scores
from clipaffect.features.batches import embed_crops

CONFIG = ROOT / "config/config.yaml"
FIRST = read_bundle(ROOT / "tests/data/bundle-v1/bundle.json")


def crops(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 64, 64, 3), np.uint8)


def assets_in(folder: Path) -> Path:
    """A folder of assets of its own, so that models are made again."""
    folder.mkdir()
    (folder / "face-networks").symlink_to(ASSETS / "face-networks")
    return folder


def test_a_zero_shot_model_gives_the_references_scores(tmp_path: Path, face_networks: Path) -> None:
    import cv2

    config, assets = load_config(CONFIG), assets_in(tmp_path / "assets")
    model = clipaffect.load_model("zero-shot", configuration=CONFIG, assets=assets)
    found = model.predict_faces(crops(5))
    settings = config.encoders["tiny-clip"]
    pngs = [cv2.imencode(".png", one[:, :, ::-1])[1].tobytes() for one in crops(5)]
    features = torch.from_numpy(embed_crops(pngs, load_encoder(settings, assets, "cpu")))
    for task in (EXPR, AU):
        store = Store(tmp_path / "store")
        prompts = prompt_features(settings, task, config.zero_shot, assets, store)
        expected = zero_shot_scores(features, prompts)
        columns = [f"{task.name}_{target}" for target in task.targets]
        assert found[columns].to_numpy() == pytest.approx(expected, abs=1e-5)
    assert model.trained_on == NOT_TRAINED


def test_it_is_made_once_and_again_for_other_prompts(tmp_path: Path) -> None:
    assets = assets_in(tmp_path / "assets")
    config = load_config(CONFIG)
    first = zero_shot_model(config, assets)
    written = first.folder.stat().st_mtime_ns
    again = zero_shot_model(config, assets)
    assert (again.folder, again.folder.stat().st_mtime_ns) == (first.folder, written)
    values = {"zero_shot": {"prompts": {"EXPR": {"Fear": ["a face with lips part"]}}}}
    other = parse_config(config.model_dump(mode="json", by_alias=True) | values, "test")
    assert zero_shot_model(other, assets).folder != first.folder


def test_an_encoder_without_text_features_is_refused_by_name(tmp_path: Path) -> None:
    config = load_config(CONFIG).model_copy(update={"encoder": "pixels"})
    with pytest.raises(UserError) as error:
        zero_shot_model(config, tmp_path)
    assert "cannot use 'pixels'" in error.value.what
    assert "in this configuration: tiny-clip" in error.value.fix


def test_the_command_predicts_without_a_model(tmp_path: Path, face_networks: Path) -> None:
    out = tmp_path / "out"
    video = CLIPS / "videos/38-25-320x240.mp4"
    told = ("--model", "zero-shot", "--configfile", str(CONFIG), "--out", str(out), "--jobs", "1")
    places = ("--assets", str(assets_in(tmp_path / "assets")), "--rate", "2")
    done = CliRunner().invoke(app, ["predict", str(video), *told, *places])
    assert done.exit_code == 0, done.output
    assert f"model: {NOT_TRAINED}" in done.output
    summary = pd.read_csv(out / "summary.csv")
    assert summary["trained_on"].tolist() == [NOT_TRAINED]
    page = (out / video.stem / "timeline.html").read_text()
    assert NOT_TRAINED in page
    frames = pd.read_parquet(out / video.stem / "frames.parquet")
    assert {"EXPR_Fear", "AU_AU12"} <= set(frames.columns)
    assert "far" not in frames.columns  # nothing was trained: there is nothing to be far from
    assert summary["faces_far_from_training"].isna().all()
    assert "rendered heads" in page or "renderer" in page  # the encoder's caution


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (("--model", "zero-shot", "--weights", "clip=file"), "--weights"),
        (("--model", str(ROOT / "tests/data/bundle-v1"), "--configfile", "x.yaml"), "--configfile"),
    ],
)
def test_options_without_a_use_are_refused(arguments: tuple[str, ...], where: str) -> None:
    done = CliRunner().invoke(app, ["predict", "video.mp4", "--out", "out", *arguments])
    assert isinstance(done.exception, UserError)
    assert done.exception.where == where


def stating(**facts: object) -> str:
    tasks = {
        name: model.model_copy(update={"trained_on": TrainedOn(**facts)})  # type: ignore[arg-type]
        for name, model in FIRST.tasks.items()
    }
    return trained_on(FIRST.model_copy(update={"tasks": tasks}))


def test_a_model_says_what_it_was_trained_on() -> None:
    assert trained_on(FIRST) == UNKNOWN  # made before models said so
    own = {"people": 1200, "videos": 3, "frames": 45_000}
    said = stating(source="rendered", **own)
    counted = "1,200 people, 3 videos, 45,000 frames"
    assert said == f"trained on rendered faces ({counted}); not for use on real people"
    assert "Aff-Wild2 (1,200" in stating(source="aff_wild2", **own)
    assert "not for use" not in stating(source="own", **own)


def drawn(people: int, frames: int, seed: int = 0, length: int = 6) -> tuple[np.ndarray, pd.Series]:
    """Features of people: a mean of their own, and correlated noise about it."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(length, length))
    means = rng.normal(size=(people, 1, length)) + rng.normal(size=(people, frames, length))
    features = (means @ mixing).reshape(-1, length)
    return features.astype(np.float16), pd.Series(np.repeat(np.arange(people), frames).astype(str))


def test_distances_are_mahalanobis_among_the_leading_components() -> None:
    features, people = drawn(400, 20, length=16)
    features[:, 3] *= np.float16(0.001)  # a direction that holds next to nothing
    fitted = fit_statistics(features, people)
    values = features.astype(np.float64)
    whole = PCA(svd_solver="full").fit(values)
    assert whole.explained_variance_ratio_[:15].sum() > SHARE
    count = int(np.searchsorted(np.cumsum(whole.explained_variance_ratio_), SHARE)) + 1
    assert count > FEWEST_DIRECTIONS
    scores = PCA(count, svd_solver="full", whiten=True).fit_transform(values)
    scores *= np.sqrt(len(values) / (len(values) - 1))  # it divides by n - 1
    expected = np.sqrt(np.square(scores[:50]).sum(axis=1) / 16)
    found = fitted.distance(torch.from_numpy(features[:50])) * fitted.limit
    assert found == pytest.approx(expected, rel=1e-4)
    again = from_tensors(fitted.tensors())
    same = (one.distance(torch.from_numpy(features)) for one in (fitted, again))
    assert np.array_equal(*same)


def test_one_large_direction_does_not_hide_the_others() -> None:
    features, people = drawn(400, 20)
    features[:, 0] *= np.float16(100)
    fitted = fit_statistics(features, people)
    odd = fitted.mean.clone()
    odd[3] += 50
    assert fitted.distance(odd[None]) > 1
    few, names = drawn(8, 1, length=64)  # more directions than rows
    noise = np.random.default_rng(2).normal(scale=40, size=(200, 64)).astype(np.float32)
    assert (fit_statistics(few, names).distance(torch.from_numpy(noise)) > 1).mean() > 0.5
    alike = np.ones((40, 6), np.float16)
    same = fit_statistics(alike, people[:800:20])
    assert np.isfinite(same.distance(torch.ones(2, 6))).all()


@pytest.mark.parametrize(("people", "frames", "length"), [(400, 20, 6), (60, 40, 128)])
def test_one_in_a_hundred_faces_of_new_people_is_beyond_the_limit(
    people: int, frames: int, length: int
) -> None:
    features, names = drawn(people, frames, length=length)
    fitted = fit_statistics(features, names)
    others, _ = drawn(400, 20, seed=1, length=length)
    share = (fitted.distance(torch.from_numpy(others)) > 1).mean()
    assert share == pytest.approx(EXCEED, abs=0.012)
    assert (fitted.distance(torch.from_numpy(others) * 4) > 1).mean() > 0.9


def test_a_person_who_was_recorded_for_long_counts_as_one() -> None:
    features, people = drawn(40, 30)
    long = np.repeat(features[:30], 100, axis=0)
    uneven = np.concatenate([features, long])
    names = pd.concat([people, pd.Series(["0"] * len(long))], ignore_index=True)
    others, _ = drawn(400, 20, seed=1)
    shares = [
        (fit_statistics(*data).distance(torch.from_numpy(others)) > 1).mean()
        for data in ((features, people), (uneven, names))
    ]
    assert shares[1] == pytest.approx(shares[0], abs=0.02)


@pytest.mark.parametrize("people", [1, 3])
def test_few_people_still_give_a_limit(people: int) -> None:
    fitted = fit_statistics(*drawn(people, 30))
    assert np.isfinite(fitted.limit)
    assert fitted.limit > 0


def test_an_exported_model_flags_faces_that_it_does_not_know(micro_bundle: Path) -> None:
    stated = json.loads((micro_bundle / "bundle.json").read_text())
    assert stated["feature_statistics"] in stated["files"]
    facts = stated["tasks"]["EXPR"]["trained_on"]
    assert facts["source"] == "unknown"
    assert facts["people"] is None  # the micro configuration has no table of people
    assert facts["videos"] == 8
    assert facts["frame_rate"] == pytest.approx(25)
    model = clipaffect.load_model(micro_bundle, assets=ASSETS)
    found = model.predict(CLIPS / "videos/2-25-426x240.mp4", rate=4).dropna(subset=["distance"])
    assert len(found) > 10
    assert found["far"].mean() < 0.5  # somebody of the training data
    assert (found["far"] == (found["distance"] > 1)).all()
