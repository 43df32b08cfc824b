"""ONNX Runtime, alone with a bundle's files, gives torch's answers for real faces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from conftest import ROOT
from PIL import Image
from safetensors.torch import save_file

import clipaffect
from clipaffect.bundle.files import bundle_files
from clipaffect.bundle.format import Bundle
from clipaffect.bundle.load import OpenBundle, open_bundle
from clipaffect.bundle.onnx import head_graph, write_onnx
from clipaffect.bundle.preprocessing import describe
from clipaffect.config.encoders import Encoder
from clipaffect.config.faces import Faces
from clipaffect.config.stage_keys import VERSIONS
from clipaffect.core.errors import UserError
from clipaffect.core.tasks import AU, EXPR
from clipaffect.core.video import read_frames
from clipaffect.faces.face_rows import cut_face
from clipaffect.faces.finder import FaceFinder
from clipaffect.training.mlp_head import Head

FIRST = ROOT / "tests/data/bundle-v1"
STEPS = {
    "EXPR": {"tau": 0.5, "prior": [0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]},
    "AU": {"thresholds": [0.4, 0.5, 0.6] * 4},
}


def made_bundle(folder: Path, precision: str) -> Path:
    """A bundle on the project's own CLIP, with heads of random weights, and its ONNX files."""
    (folder / "heads").mkdir(parents=True)
    encoders = {
        "tiny": Encoder(
            model="clipaffect-tiny", asset="tiny-clip", activation="relu", precision=precision
        )
    }
    tasks = {}
    for task in (EXPR, AU):
        flat = {}
        for seed in (0, 1):
            head = Head(256, len(task.targets), 2, 32, seed)
            state = head.state_dict()
            flat |= {f"tiny/seed={seed}/{k}": v.contiguous() for k, v in state.items()}
        save_file(flat, folder / f"heads/{task.name}.safetensors")
        tasks[task.name] = {
            "targets": task.targets,
            "multilabel": task.multilabel,
            "file": f"heads/{task.name}.safetensors",
            "alpha": 0.5,
            "macro_f1": None,
            "low": None,
            "high": None,
            "after_steps": None,
            "protocol": "",
            "heads": [
                {
                    "features": "tiny",
                    "seeds": [0, 1],
                    "inputs": 256,
                    "hidden_layers": 2,
                    "width": 32,
                }
            ],
            "steps": [
                {"step": "average_seeds", "choice": {}},
                {"step": "temperature", "choice": {"temperature": 0.8}},
                {"step": "adjust", "choice": STEPS[task.name]},
            ],
        }
    described = describe(Faces(), encoders)
    (folder / "preprocessing.json").write_text(json.dumps(described))
    values = {
        "format": "clipaffect-bundle",
        "version": 1,
        "run": "made",
        "licensed": False,
        "faces": Faces().model_dump(mode="json"),
        "features": {"tiny": ["tiny"]},
        "tasks": tasks,
        "encoders": {k: v.model_dump(mode="json") for k, v in encoders.items()},
        "cautions": [],
        "stages": VERSIONS,
        "packages": {},
        "config": "0" * 64,
        "files": bundle_files(folder),
    }
    write_onnx(Bundle.model_validate(values), folder, Path(), encoders)
    values["files"] = bundle_files(folder)
    (folder / "bundle.json").write_text(Bundle.model_validate(values).model_dump_json())
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_bundle(tmp_path_factory.mktemp("onnx") / "fp32", "fp32")


@pytest.fixture(scope="module")
def faces(real_clips: Path, face_networks: Path) -> list[np.ndarray]:
    """Aligned crops of real people."""
    finder = FaceFinder(face_networks, Faces())
    group = cv2.imread(str(real_clips / "group.jpg"))[:, :, ::-1]
    pictures = [np.ascontiguousarray(group)]
    pictures += [f.pixels for f in read_frames(real_clips / "laughing.mp4") if f.number % 100 == 1]
    crops = [
        cut_face(picture, face, Faces())[0] for picture in pictures for face in finder(picture)
    ]
    return [cv2.imdecode(np.frombuffer(crop, np.uint8), 1)[:, :, ::-1] for crop in crops]


def prepared(faces: list[np.ndarray], bundle: Path) -> np.ndarray:
    """By preprocessing.json alone."""
    (stated,) = json.loads((bundle / "preprocessing.json").read_text())["encoders"].values()
    height, width = stated["size"]
    small = [
        Image.fromarray(np.ascontiguousarray(face)).resize((width, height), Image.BICUBIC)
        for face in faces
    ]
    values = np.stack([np.asarray(picture, np.float32) for picture in small]) / 255
    values = (values - np.float32(stated["mean"])) / np.float32(stated["std"])
    return values.transpose(0, 3, 1, 2)


# The chain keeps features as float16; a bf16 encoder rounds within the network too.
@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [("fp32", 1e-3), pytest.param("bf16", 0.05, marks=pytest.mark.slow)],
)
def test_the_whole_network_agrees_with_the_bundle_on_real_faces(
    bundle: Path, faces: list[np.ndarray], precision: str, tolerance: float, tmp_path: Path
) -> None:
    assert len(faces) >= 8
    if precision != "fp32":
        bundle = made_bundle(tmp_path / precision, precision)
    session = onnxruntime.InferenceSession(bundle / "onnx/model.onnx")
    inputs = prepared(faces, bundle)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"image": inputs}), strict=True))
    model = clipaffect.load_model(bundle)
    expected = model.predict_faces(np.stack([np.ascontiguousarray(face) for face in faces]))
    for task, targets in model.tasks.items():
        columns = expected[[f"{task}_{target}" for target in targets]].to_numpy()
        difference = np.abs(found[f"{task}_probability"] - columns).max()
        print(f"{precision} {task}: {difference:.2g}")
        assert difference < tolerance
    # The batch axis is free.
    alone = session.run([f"{EXPR.name}_probability"], {"image": inputs[2:3]})[0]
    assert alone == pytest.approx(found["EXPR_probability"][2:3], abs=2e-5)
    if precision == "fp32":
        classes = np.array(EXPR.targets)[found["EXPR_decision"]]
        assert (classes == expected["EXPR"].astype(str)).all()
        units = expected[[f"AU_{target}_shown" for target in AU.targets]].to_numpy(bool)
        assert (found["AU_decision"] == units).mean() > 0.98


def test_a_head_alone_agrees_with_torch(bundle: Path) -> None:
    opened = open_bundle(bundle)
    features = torch.randn(7, 256, generator=torch.Generator().manual_seed(0))
    for task, kind in (("EXPR", "softmax"), ("AU", "sigmoid")):
        session = onnxruntime.InferenceSession(bundle / f"onnx/head_{task}.onnx")
        found = session.run([f"{task}_probability"], {"features": features.numpy()})[0]
        scores = []
        for seed in (0, 1):
            head = Head(256, found.shape[1], 2, 32, seed).eval()
            with torch.no_grad():
                logits = head(features)
            scores.append(logits.softmax(-1) if kind == "softmax" else logits.sigmoid())
        mean = torch.stack(scores).mean(0)
        if kind == "softmax":
            expected = (mean.log() / 0.8).softmax(-1)
        else:
            expected = (torch.logit(mean) / 0.8).sigmoid()
        assert found == pytest.approx(expected.numpy(), abs=2e-6)
    assert isinstance(opened, OpenBundle)


def test_the_files_are_valid_and_name_no_place(bundle: Path) -> None:
    for path in (bundle / "onnx").glob("*.onnx"):
        made = onnx.load(path)
        onnx.checker.check_model(made, full_check=True)
        assert made.graph.input[0].type.tensor_type.shape.dim[0].dim_param
        assert str(ROOT).encode() not in path.read_bytes()


def test_the_script_needs_neither_torch_nor_this_project(
    bundle: Path, faces: list[np.ndarray], tmp_path: Path
) -> None:
    for name in ("torch", "clipaffect", "cv2"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')\n")
    paths = []
    for number, face in enumerate(faces[:3]):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(np.ascontiguousarray(face)).save(paths[-1])
    done = subprocess.run(
        [sys.executable, str(bundle / "onnx/run.py"), *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    model = clipaffect.load_model(bundle)
    expected: pd.DataFrame = model.predict_faces(
        np.stack([np.ascontiguousarray(face) for face in faces[:3]])
    )
    assert [answer["EXPR"]["decision"] for answer in answers] == expected["EXPR"].tolist()
    for k, answer in enumerate(answers):
        for unit, value in answer["AU"]["probability"].items():
            assert value == pytest.approx(expected[f"AU_{unit}"].iloc[k], abs=1e-3)


def test_the_first_bundles_heads_become_graphs_too() -> None:
    graph = head_graph(open_bundle(FIRST), "AU")
    assert [output.name for output in graph.output] == ["AU_probability", "AU_decision"]


def test_answers_of_several_encoders_are_refused(tmp_path: Path) -> None:
    values = json.loads((FIRST / "bundle.json").read_text())
    values["features"]["pixels"] = ["pixels", "pixels"]
    with pytest.raises(UserError, match="several encoders"):
        write_onnx(Bundle.model_validate(values), tmp_path, Path(), {})


def test_steps_in_another_order_are_refused(tmp_path: Path) -> None:
    values = json.loads((FIRST / "bundle.json").read_text())
    steps = values["tasks"]["AU"]["steps"]
    steps[0], steps[2] = steps[2], steps[0]
    with pytest.raises(UserError, match="in this order: temperature, smooth, average_seeds"):
        write_onnx(Bundle.model_validate(values), tmp_path, Path(), {})
