"""Bundles: the first version is read for good, a tampered one never, and nothing of one is run."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from safetensors.numpy import load_file, save_file

import clipaffect
from clipaffect.bundle.load import open_bundle
from clipaffect.config.stage_keys import VERSIONS
from clipaffect.core.errors import UserError
from clipaffect.core.hashing import file_digest

FIRST = ROOT / "tests/data/bundle-v1"
GREY = np.add.outer(np.arange(64) * 3, np.arange(64)).astype(np.uint8)
FACES = np.stack(
    [
        np.stack([GREY, GREY, GREY], axis=-1),
        np.full((64, 64, 3), 200, np.uint8),
        np.stack([GREY.T, 255 - GREY, GREY], axis=-1),
    ]
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return shutil.copytree(FIRST, tmp_path / "bundle")


def change(bundle: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((bundle / "bundle.json").read_text())
    edit(values)
    (bundle / "bundle.json").write_text(json.dumps(values))


def rehash(bundle: Path, name: str) -> None:
    """As one would who alters a file and wants it to fit."""
    path = bundle / name
    stated = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    change(bundle, lambda values: values["files"].update({name: stated}))


def by_hand(task: str) -> np.ndarray:
    """The answers of the first bundle for ``FACES``, from its files by numpy alone."""
    stated = json.loads((FIRST / "bundle.json").read_text())["tasks"][task]
    weights = load_file(FIRST / stated["file"])
    grey = FACES @ np.array([0.299, 0.587, 0.114])
    small = np.round(np.round(grey).reshape(3, 8, 8, 8, 8).mean(axis=(2, 4))) / 255
    scores = []
    for seed in (0, 3):
        w = {
            k.rpartition("seed=")[2].partition("/")[2]: v
            for k, v in weights.items()
            if f"seed={seed}/" in k
        }
        x = small.reshape(3, 64) @ w["linears.0.weight"].T + w["linears.0.bias"]
        x = (x - w["norms.0.running_mean"]) / np.sqrt(w["norms.0.running_var"] + 1e-5)
        x = np.maximum(x * w["norms.0.weight"] + w["norms.0.bias"], 0)
        x = x @ w["output.weight"].T + w["output.bias"]
        scores.append(1 / (1 + np.exp(-x)) if task == "AU" else softmax(x))
    mean = np.mean(scores, axis=0)
    logits = (np.log(mean / (1 - mean)) if task == "AU" else np.log(mean)) / 1.5
    return 1 / (1 + np.exp(-logits)) if task == "AU" else softmax(logits)


def softmax(x: np.ndarray) -> np.ndarray:
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def test_a_bundle_of_the_first_version_gives_what_it_gave() -> None:
    model = clipaffect.load_model(FIRST)
    found = model.predict_faces(FACES)
    # Written down when the format was made.
    assert found["EXPR_Happiness"].tolist() == pytest.approx([0.10574, 0.08136, 0.11729], abs=2e-4)
    assert found["AU_AU12"].tolist() == pytest.approx([0.5465, 0.39811, 0.52682], abs=2e-4)
    for task, targets in model.tasks.items():
        columns = [f"{task}_{target}" for target in targets]
        # Rounding of OpenCV's grey values is not numpy's.
        assert found[columns].to_numpy() == pytest.approx(by_hand(task), abs=3e-3)
    limits = json.loads((FIRST / "bundle.json").read_text())["tasks"]["AU"]["steps"][-1]["choice"]
    for target, limit in zip(model.tasks["AU"], limits["thresholds"], strict=True):
        shown = found[f"AU_{target}_shown"].astype(bool)
        assert shown.equals(found[f"AU_{target}"] >= limit)
    assert found.columns.tolist() == [
        name for name in model.columns["column"] if name in found.columns and "seed" not in name
    ]


def test_an_earlier_face_does_not_change_a_later_one() -> None:
    model = clipaffect.load_model(FIRST)
    together, alone = model.predict_faces(FACES, heads=True), model.predict_faces(FACES[2:])
    kept = alone.columns.tolist()
    assert together[kept].iloc[2:].reset_index(drop=True).equals(alone)


def test_a_missing_or_altered_file_is_named(bundle: Path) -> None:
    (bundle / "README.md").write_text("other")
    with pytest.raises(UserError, match="altered") as raised:
        open_bundle(bundle)
    assert raised.value.where.endswith("README.md")
    heads = bundle / "heads/AU.safetensors"
    shutil.copy(FIRST / "README.md", bundle)
    data = bytearray(heads.read_bytes())
    data[-1] ^= 1
    heads.write_bytes(bytes(data))
    with pytest.raises(UserError, match="altered"):
        open_bundle(bundle)
    heads.unlink()
    with pytest.raises(UserError, match="missing"):
        open_bundle(bundle)


class Runs:
    """A pickle that would leave a trace."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("/tmp/clipaffect-ran"),)


def test_a_pickle_in_place_of_heads_is_never_run(bundle: Path) -> None:
    Path("/tmp/clipaffect-ran").unlink(missing_ok=True)
    (bundle / "heads/AU.safetensors").write_bytes(pickle.dumps(Runs()))
    rehash(bundle, "heads/AU.safetensors")
    with pytest.raises(UserError, match="bad safetensors"):
        open_bundle(bundle)
    assert not Path("/tmp/clipaffect-ran").exists()


@pytest.mark.parametrize("kind", ["shape", "name", "type", "extra", "missing"])
def test_heads_that_do_not_fit_their_description_are_refused(bundle: Path, kind: str) -> None:
    path = bundle / "heads/EXPR.safetensors"
    weights = load_file(path)
    key = "pixels/seed=0/output.weight"
    if kind == "shape":
        weights[key] = np.zeros((9, 8), np.float32)
    elif kind == "name":
        weights["pixels/seed=1/output.weight"] = weights.pop(key)
    elif kind == "type":
        weights[key] = weights[key].astype(np.float64)
    elif kind == "extra":
        weights["more"] = np.zeros(10**6, np.float32)
    else:
        del weights[key]
    save_file(weights, path)
    rehash(bundle, "heads/EXPR.safetensors")
    with pytest.raises(UserError, match=r"do not match their description in bundle\.json"):
        open_bundle(bundle)


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "leaves the folder": lambda v: v["files"].update({"../x": v["files"].pop("README.md")}),
    "absolute": lambda v: v["files"].update({"/etc/passwd": v["files"].pop("README.md")}),
    "unknown key": lambda v: v.update({"run_this": "rm"}),
    "a head of code": lambda v: v["tasks"]["AU"].update({"head": "x.py:Head"}),
    "no such file": lambda v: v["tasks"]["AU"].update({"file": "heads/other.safetensors"}),
    "a task that leaves": lambda v: v["tasks"].update({"../AU": v["tasks"].pop("AU")}),
    "too wide": lambda v: v["tasks"]["AU"]["heads"][0].update({"width": 10**9}),
    "too deep": lambda v: v["tasks"]["AU"]["heads"][0].update({"hidden_layers": 10**6}),
    "a window of years": lambda v: v["tasks"]["AU"]["steps"][1]["choice"].update({"width": 1e12}),
    "another step's choice": lambda v: v["tasks"]["AU"]["steps"][1].update({"choice": {}}),
    "too few thresholds": lambda v: v["tasks"]["AU"]["steps"][3]["choice"].update(
        {"thresholds": [0.5]}
    ),
    "a threshold that is none": lambda v: v["tasks"]["AU"]["steps"][3]["choice"].update(
        {"thresholds": [2.0] * 12}
    ),
    "a model from a hub": lambda v: v["encoders"].update(
        {"pixels": {"model": "hf-hub:somebody/model", "random": 0, "activation": "gelu"}}
    ),
    "a model from a folder": lambda v: v["encoders"].update(
        {"pixels": {"model": "local-dir:/etc", "random": 0, "activation": "gelu"}}
    ),
    "weights elsewhere": lambda v: v["encoders"].update(
        {
            "pixels": {
                "model": "ViT-B-32",
                "file": "/etc/passwd",
                "sha256": "0" * 64,
                "activation": "gelu",
            }
        }
    ),
    "a mean over half a frame": lambda v: v["tasks"]["AU"]["steps"][1]["choice"].update(
        {"kind": "mean", "width": 0.5}
    ),
    "seeds out of order": lambda v: v["tasks"]["AU"]["heads"][0].update({"seeds": [3, 0]}),
    "weights that may be code": lambda v: v["encoders"].update(
        {
            "pixels": {
                "model": "ViT-B-32",
                "file": "README.md",
                "sha256": "0" * 64,
                "activation": "gelu",
            }
        }
    ),
    "a target twice": lambda v: v["tasks"]["AU"].update({"targets": ["AU1"] * 12}),
    "features of nobody": lambda v: v["features"].update({"pixels": ["other"]}),
    "not a number": lambda v: v["tasks"]["AU"]["steps"][2]["choice"].update({"temperature": "nan"}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_description_is_refused(bundle: Path, case: str) -> None:
    change(bundle, HOSTILE[case])
    with pytest.raises(UserError) as raised:
        open_bundle(bundle)
    assert raised.value.where.endswith("bundle.json")


def test_two_columns_of_one_name_are_refused(bundle: Path) -> None:
    change(bundle, lambda v: v["tasks"]["AU"]["targets"].__setitem__(1, "AU1_shown"))
    with pytest.raises(UserError, match="would have the name 'AU_AU1_shown'"):
        open_bundle(bundle)


def test_another_version_of_a_stage_is_said(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    change(bundle, lambda v: v["stages"].update(VERSIONS))
    open_bundle(bundle)
    assert caplog.text == ""
    change(bundle, lambda v: v["stages"].update({"detections": 99, "report": 99}))
    open_bundle(bundle)
    assert "another version of detections:" in caplog.text


def test_a_link_that_leaves_the_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    shutil.move(bundle / "README.md", tmp_path / "elsewhere.md")
    (bundle / "README.md").symlink_to(tmp_path / "elsewhere.md")
    with pytest.raises(UserError, match="lies outside"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "invalid JSON"),
        ("[]", "does not belong to a bundle"),
        ("[" * 100_000, "invalid JSON"),
        ('{"format": "clipaffect-bundle", "version": 99}', "format version 99"),
        ("x" * (5 << 20), "too large"),
    ],
)
def test_what_is_no_bundle_is_said(bundle: Path, text: str, said: str) -> None:
    (bundle / "bundle.json").write_text(text)
    with pytest.raises(UserError, match=said):
        open_bundle(bundle)
    with pytest.raises(UserError, match=r"bundle\.json is missing"):
        open_bundle(bundle / "heads")


def test_weights_that_a_bundle_only_names_must_be_the_ones(bundle: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine.safetensors"
    save_file({"x": np.zeros(3, np.float32)}, own)
    entry = {
        "model": "ViT-B-32",
        "file": "mine.safetensors",
        "activation": "gelu",
        "sha256": file_digest(own),
    }
    change(bundle, lambda v: v["encoders"].update({"pixels": entry}))
    with pytest.raises(UserError, match="does not contain the weights of 'pixels'") as raised:
        open_bundle(bundle)
    assert f"--weights pixels=FILE, a file with sha256 {file_digest(own)}" in raised.value.fix
    assert open_bundle(bundle, {"pixels": own}).encoders["pixels"].file == str(own)
    other = tmp_path / "other.safetensors"
    save_file({"x": np.ones(3, np.float32)}, other)
    with pytest.raises(UserError, match="were trained on other weights"):
        open_bundle(bundle, {"pixels": other})
    with pytest.raises(UserError, match="does not need weights for 'clip'"):
        open_bundle(bundle, {"clip": own})


def test_faces_of_another_form_are_refused() -> None:
    model = clipaffect.load_model(FIRST)
    for wrong in (FACES[0], FACES.astype(np.float32), FACES[..., :1]):
        with pytest.raises(UserError, match="faces of shape"):
            model.predict_faces(wrong)
