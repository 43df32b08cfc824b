"""Folders of images, RAF-DB and AffectNet: read into rows, with their mistakes named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_own_data import MOOD, picture, read

from clipaffect.config.data import Data
from clipaffect.core.errors import UserError
from clipaffect.dataset.inventory import inventory


def folders(root: Path, splits: list[str]) -> Path:
    for split in splits:
        for name in ("calm", "tense", "bored"):
            for number in range(3):
                picture(root / split / name / f"{number}.png", 10 * number)
    (root / splits[0] / "calm/notes.txt").write_text("no image")
    return root


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    root = folders(tmp_path / "set", ["train", "test"])
    data = Data.model_validate({"format": "folders", "root": str(root), "tasks": MOOD})
    tree, labels = read(data)
    assert len(tree.images) == 18
    rows = labels["mood"]
    counts = rows.groupby(["split", "label"], observed=True).size()
    assert counts.to_dict() == {(s, k): 3 for s in ("train", "validation") for k in range(3)}
    assert (
        rows["video"]
        .astype(str)
        .str.split("/")
        .str[1]
        .map({"calm": 0, "tense": 1, "bored": 2})
        .tolist()
        == rows["label"].tolist()
    )
    flat = folders(tmp_path / "flat", ["."])
    made = {"by": "folds", "folds": 3}
    data = Data.model_validate(
        {"format": "folders", "root": str(flat), "tasks": MOOD, "split": made}
    )
    _, labels = read(data)
    assert labels["mood"].groupby(["split", "label"], observed=True).size().tolist() == [1] * 9
    (flat / "calm").rename(flat / "Calm")
    with pytest.raises(UserError, match="'Calm' is not a class") as caught:
        read(data)
    assert "did you mean 'calm'" in str(caught.value)


def test_folders_in_a_circle_are_walked_once(tmp_path: Path) -> None:
    root = folders(tmp_path / "set", ["train", "test"])
    for name in "ab":
        (root / name).symlink_to(root)
    data = Data.model_validate({"format": "folders", "root": str(root), "tasks": MOOD})
    before = inventory(data, ())
    picture(root / "train/calm/new.png")
    assert inventory(data, ()) != before


def test_raf_db(tmp_path: Path) -> None:
    root = tmp_path / "RAF-DB/basic"
    lines = []
    for split in ("train", "test"):
        for number in range(1, 8):
            name = f"{split}_{number:05d}"
            picture(root / f"Image/aligned/{name}_aligned.jpg", 10 * number)
            lines.append(f"{name}.jpg {number}")
    path = root / "EmoLabel/list_patition_label.txt"
    path.parent.mkdir()
    path.write_text("\n".join(lines) + "\n")
    data = Data.model_validate({"format": "raf_db", "root": str(tmp_path / "RAF-DB")})
    tree, labels = read(data)
    rows = labels["EXPR"]
    assert len(tree.images) == 14
    assert rows["split"].astype(str).value_counts().to_dict() == {"train": 7, "validation": 7}
    # RAF-DB: 1 Surprise, 2 Fear, 3 Disgust, 4 Happiness, 5 Sadness, 6 Anger, 7 Neutral
    first = rows[rows["video"] == "Image/aligned/train_00004_aligned.jpg"]["label"].item()
    assert data.known_tasks()["EXPR"].targets[first] == "Happiness"
    path.write_text(path.read_text().replace("train_00003.jpg 3", "train_00003.jpg 8"))
    with pytest.raises(UserError, match="not a valid line of the list") as caught:
        read(data)
    assert "line 3" in caught.value.where


AFFECTNET_HEADER = (
    "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,"
    "valence,arousal\n"
)


@pytest.mark.parametrize("headed", [True, False])
def test_affectnet_by_its_lists(tmp_path: Path, headed: bool) -> None:
    for name in ("training", "validation"):
        lines = []
        for number in range(11):
            image = f"{number}/{name}{number}.jpg"
            picture(tmp_path / "Manually_Annotated/Manually_Annotated_Images" / image, 9 * number)
            lines.append(f"{image},1,1,5,5,1;2;3,{number},0.1,-0.2")
        header = AFFECTNET_HEADER if headed or name == "training" else ""
        (tmp_path / f"{name}.csv").write_text(header + "\n".join(lines) + "\n")
    tree, labels = read(Data.model_validate({"format": "affectnet", "root": str(tmp_path)}))
    rows = labels["EXPR"]
    assert len(tree.images) == 16  # none, uncertain and no face are not annotated
    for _, own in rows.groupby("split", observed=True):
        assert own["label"].tolist() == list(range(8))
    assert any("6 images marked as none" in note for note in tree.notes)


def test_affectnet_by_its_folders(tmp_path: Path) -> None:
    for folder in ("train_set", "val_set"):
        for number in range(8):
            picture(tmp_path / folder / f"images/{number}.jpg", number)
            (tmp_path / folder / "annotations").mkdir(exist_ok=True)
            np.save(tmp_path / folder / f"annotations/{number}_exp.npy", np.array(str(number)))
    data = Data.model_validate({"format": "affectnet", "root": str(tmp_path)})
    _, labels = read(data)
    assert labels["EXPR"]["label"].tolist() == [*range(8), *range(8)]
    assert data.licensed
    evil = tmp_path / "val_set/annotations/3_exp.npy"
    evil.write_bytes(b"")
    with pytest.raises(UserError, match="not a single value"):
        read(data)
    np.save(evil, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(UserError, match="not a single value"):
        read(data)
