"""The recipes of docs/own-data.md, run on small trees of the right shape; their tables are read."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT, write_video

from clipaffect.config import parse_config
from clipaffect.dataset.readers.registry import read_dataset

PAGE = (ROOT / "docs/own-data.md").read_text()


def section(name: str) -> tuple[list[str], dict[str, Any]]:
    """The programs and the configuration of a recipe."""
    text = PAGE.split(f"### {name}\n")[1].split("\n### ")[0]
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    block = re.search(r"(?:^    .*\n|^\n)*^    data:\n(?:^    .*\n)+", text, re.MULTILINE)
    assert block
    return programs, yaml.safe_load(textwrap.dedent(block[0]))


def read(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, **data: Any) -> Any:
    programs, values = section(name)
    for program in programs:
        subprocess.run([sys.executable, "-c", program], cwd=folder, check=True)
    monkeypatch.chdir(folder)
    values["data"] |= data
    config = parse_config(
        values | {"encoders": {"pixels": {"kind": "pixels"}}, "encoder": "pixels"}, "recipe"
    )
    assert config.data.licensed
    return read_dataset(config.data, list(config.tasks().values()))


def fer2013(folder: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for usage in ("Training", "PublicTest", "PrivateTest"):
        for emotion in range(7):
            pixels = " ".join(map(str, rng.integers(0, 256, 48 * 48)))
            rows.append({"emotion": emotion, "pixels": pixels, "Usage": usage})
    (folder / "data/fer2013").mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "data/fer2013/fer2013.csv", index=False)
    votes = np.zeros((21, 10), int)
    votes[np.arange(21), np.arange(21) % 8] = 6  # more than half
    votes[0, 0], votes[0, 1] = 5, 5  # nobody's majority
    names = [
        "neutral",
        "happiness",
        "surprise",
        "sadness",
        "anger",
        "disgust",
        "fear",
        "contempt",
        "unknown",
        "NF",
    ]
    plus = pd.DataFrame(votes, columns=names)
    plus.insert(0, "Usage", [row["Usage"] for row in rows])
    plus.to_csv(folder / "data/fer2013/fer2013new.csv", index=False)


def test_fer2013_and_ferplus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fer2013(tmp_path)
    tree, labels = read(tmp_path, "FER2013 and FERPlus", monkeypatch)
    rows = labels["EXPR"]
    assert rows["split"].astype(str).value_counts().to_dict() == {"train": 7, "validation": 7}
    assert rows["label"].tolist() == [*range(7), *range(7)]
    pixels = pd.read_csv(tmp_path / "data/fer2013/fer2013.csv")["pixels"][3]
    image = cv2.imread(str(tree.images["images/00003.png"]), cv2.IMREAD_GRAYSCALE)
    assert image.ravel().tolist() == list(map(int, pixels.split()))
    plus = pd.read_csv(tmp_path / "data/fer2013/labels_plus.csv", keep_default_na=False)
    assert plus["EXPR"].iloc[:9].tolist() == [
        "",
        "happiness",
        "surprise",
        "sadness",
        "anger",
        "disgust",
        "fear",
        "contempt",
        "neutral",
    ]


DISFA = [1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26]
BP4D = [1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24]


def disfa(folder: Path) -> None:
    for number in range(1, 7):
        person = f"SN{number:03d}"
        write_video(folder / f"data/disfa/Videos_LeftCamera/LeftVideo{person}_comp.avi", frames=12)
        for at, unit in enumerate(DISFA):
            path = folder / f"data/disfa/ActionUnit_Labels/{person}/{person}_au{unit}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{f},{2 if f == at + 1 else 1}\n" for f in range(1, 13)))


def bp4d(folder: Path) -> None:
    root = folder / "data/bp4d"
    (root / "AUCoding/AU_OCC").mkdir(parents=True)
    for number in range(1, 7):
        for task in ("T1", "T2"):
            person = f"F{number:03d}"
            codes = pd.DataFrame(0, index=range(5, 17), columns=range(1, 100))
            for at, unit in enumerate(BP4D):
                codes.loc[5 + at, unit] = 1
            codes.loc[5, 24] = 9
            codes.to_csv(root / f"AUCoding/AU_OCC/{person}_{task}.csv")
            pictures = root / "2D+3D" / person / task
            pictures.mkdir(parents=True)
            for frame in range(5, 16):  # the last code has no picture
                (pictures / f"{frame:03d}.jpg").write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "make", "units", "sources"), [("DISFA", disfa, DISFA, 6), ("BP4D", bp4d, BP4D, 132)]
)
def test_a_recipe_of_units(
    name: str,
    make: Callable[[Path], None],
    units: list[int],
    sources: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make(tmp_path)
    # each unit is shown once by everybody; BP4D's last one has no picture
    kept = [f"AU{unit}" for unit in units][: 12 if name == "DISFA" else 11]
    tree, labels = read(tmp_path, name, monkeypatch, tasks={"AU": {"labels": kept}})
    rows = labels["AU"]
    assert len(tree.videos) + len(tree.images) == sources
    assert rows["group"].nunique() == 6
    assert sorted(rows["split"].astype(str).unique()) == ["fold 1", "fold 2", "fold 3"]
    shown = rows[rows["group"].astype(str).str.endswith("001")][kept].to_numpy()
    sequences = 1 if name == "DISFA" else 2
    expected = np.tile(np.eye(len(shown) // sequences, len(kept), dtype=int), (sequences, 1))
    np.testing.assert_array_equal(shown, expected)
