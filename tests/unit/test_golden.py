"""Golden outputs: a stage whose output changes must get a new version number.

The work store keeps finished pieces under the stage's version; without a new number, old and new
results would mix. After a change that is meant, raise the number in stages.py and write the file
again: CLIPAFFECT_WRITE_GOLDEN=1 pytest tests/unit/test_golden.py
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ASSETS, ROOT

from clipaffect.config.encoders import Encoder
from clipaffect.config.faces import Faces
from clipaffect.config.models import Probe
from clipaffect.config.stage_keys import VERSIONS
from clipaffect.config.training import Recipe
from clipaffect.core.tasks import AU, EXPR
from clipaffect.core.video import read_frames
from clipaffect.dataset.index_dataset import shard_of
from clipaffect.dataset.readers.aff_wild2 import FOLDERS
from clipaffect.dataset.readers.annotation_files import read_annotation
from clipaffect.encoders.registry import load_encoder
from clipaffect.evaluation.references import fit_probe
from clipaffect.faces.alignment import align
from clipaffect.faces.face_rows import cut_face
from clipaffect.faces.finder import FaceFinder
from clipaffect.features.batches import embed_crops
from clipaffect.training.data import Split, training_data
from clipaffect.training.trainer import train_head

GOLDEN = ROOT / "tests/golden.json"


def clip() -> Path:
    """The demo's first clip."""
    return next((ROOT / "tests/data/clips/videos").glob("1-*.mp4"))


def dataset() -> list[float]:
    rows = read_annotation(
        ROOT / f"tests/data/clips/annotations/{FOLDERS[AU.name][0]}/Train_Set/{clip().stem}.txt", AU
    )
    return [*(shard_of(f"video {k}", 64) for k in range(8)), *rows.sum(0).tolist()]


def frames() -> list[float]:
    found = list(islice(read_frames(clip()), 4))
    return [value for f in found for value in (f.number, f.time, f.width, float(f.pixels.mean()))]


def detections() -> list[float]:
    pixels = next(read_frames(clip())).pixels
    (face,) = FaceFinder(ASSETS, Faces())(pixels)
    crop = align(pixels, face.points, 224)
    jpeg, _ = cut_face(pixels, face, Faces())
    blocks = cv2.resize(crop, (2, 2), interpolation=cv2.INTER_AREA)
    measures = [*face.pose.tolist(), face.visible]
    return [*face.points.ravel().tolist(), *measures, *blocks.ravel().tolist(), len(jpeg) / 100]


def embeddings() -> list[float]:
    settings = Encoder(
        model="clipaffect-micro",
        random=0,
        activation="gelu",
        normalise="clip",
        precision="fp32",
        batch=4,
    )
    picture = np.kron(np.arange(192, dtype=np.uint8).reshape(8, 8, 3), np.ones((8, 8, 1), np.uint8))
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    return embed_crops([jpeg], load_encoder(settings, Path(), "cpu"))[0, :8].tolist()


def toy(n: int = 40) -> Split:
    rng = np.random.default_rng(0)
    labels = np.arange(n)[:, None] % 8
    features = (rng.normal(size=(n, 5)) + labels * 0.3).astype(np.float16)
    rows = pd.DataFrame({"group": ["v"] * n, "video": ["v"] * n})
    return Split(rows, torch.from_numpy(features), torch.from_numpy(labels.astype(np.int8)))


def heads() -> list[float]:
    recipe = Recipe(hidden_layers=1, width=8, epochs=2, batch=16)
    data = training_data(toy(), toy(), EXPR, recipe)
    with tempfile.TemporaryDirectory() as folder:
        trained = train_head(data, EXPR, recipe, 0.4, 0, Path(folder))
    last = trained.history[-1]
    return [last["value"], last["threshold"], *trained.weights["output.bias"].tolist()]


def references() -> list[float]:
    rows = np.arange(len(toy().rows))
    return fit_probe(toy(), rows, toy(), EXPR, Probe()).scores[0].tolist()


OUTPUTS: dict[str, tuple[Callable[[], list[float]], float]] = {
    "dataset": (dataset, 0),
    "frames": (frames, 0.01),
    "detections": (detections, 1.0),
    "embeddings": (embeddings, 0.01),
    "heads": (heads, 1e-3),
    "references": (references, 1e-3),
}


@pytest.mark.parametrize("stage", OUTPUTS)
def test_an_output_changes_only_with_its_version(stage: str, face_networks: Path) -> None:
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    compute, tolerance = OUTPUTS[stage]
    output = [round(float(value), 5) for value in compute()]
    if os.environ.get("CLIPAFFECT_WRITE_GOLDEN"):
        golden[stage] = {"version": VERSIONS[stage], "output": output}
        GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    assert golden[stage]["version"] == VERSIONS[stage], "write the golden file again"
    assert output == pytest.approx(golden[stage]["output"], abs=tolerance), (
        f"the output of '{stage}' changed: raise its number in stages.py"
    )
