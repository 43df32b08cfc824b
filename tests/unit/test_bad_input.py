"""The table of bad inputs: each is an error before any work, or rows with a stated status.

docs/outcomes.md is the same table for users. Every row breaks a small good tree in one way and
pushes it through the real stages: index, frames, faces, embeddings, table.
"""

from __future__ import annotations

import os
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    EVERY_CLASS,
    EVERY_UNIT,
    add_validation_video,
    annotation,
    write_annotation,
    write_video,
)

from clipaffect.config.data import Data
from clipaffect.config.encoders import Encoder
from clipaffect.config.faces import Faces
from clipaffect.core.errors import UserError
from clipaffect.core.parquet import read_table
from clipaffect.core.store import Store
from clipaffect.core.tasks import AU, EXPR, Task
from clipaffect.dataset.extract_frames import extract_frames
from clipaffect.dataset.index_dataset import index_dataset
from clipaffect.dataset.readers.aff_wild2 import FOLDERS
from clipaffect.faces.align_faces import align_faces
from clipaffect.features.build_table import build_table
from clipaffect.features.embed_faces import embed_faces


@dataclass(frozen=True)
class Error:
    """A message that holds all these words, before any work starts."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """The statuses of the annotated frames of video c10, with their counts."""

    statuses: dict[str, int]


def rows_of(task: Task, split: str, name: str, rows: list[str], header: str | None = None):
    def change(root: Path) -> None:
        write_annotation(annotation(root, task, split, name), header or task.header, rows)

    return change


def video(change: Callable[[Path], object]):
    """Replace the video c10, the validation split's only one."""

    def replace(root: Path) -> None:
        path = root / "videos/batch1/c10.mp4"
        path.unlink()
        change(path)

    return replace


def audio(path: Path) -> None:
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))


def cut_off(path: Path) -> None:
    write_video(path)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov")])


def not_utf8(root: Path) -> None:
    folder = os.fsencode(root / "videos/batch1")
    os.rename(folder + b"/c10.mp4", folder + b"/c\xff10.mp4")  # noqa: PTH104


def every_training_row_neutral(root: Path) -> None:
    for path in annotation(root, EXPR, "Train_Set", "x").parent.iterdir():
        write_annotation(path, EXPR.header, ["0"] * 12)


TRAIN, VALIDATION = "Train_Set", "Validation_Set"
NOISE = np.random.default_rng(0).bytes(5000)
TABLE: dict[str, tuple[Callable[[Path], object], Error | Rows]] = {
    "a good video without a face": (lambda root: None, Rows({"no_face": 12})),
    "a video of zero bytes": (video(lambda p: p.write_bytes(b"")), Rows({"video_empty": 12})),
    "text named mp4": (video(lambda p: p.write_text("hello")), Rows({"video_unreadable": 12})),
    "noise named mp4": (video(lambda p: p.write_bytes(NOISE)), Rows({"video_unreadable": 12})),
    "a video whose index is cut off": (video(cut_off), Rows({"video_unreadable": 12})),
    "an audio file named mp4": (video(audio), Rows({"no_video_stream": 12})),
    "a video that is not there": (video(lambda p: None), Rows({"video_missing": 12})),
    "more rows than frames": (
        video(lambda p: write_video(p, frames=9)),
        Rows({"no_face": 9, "beyond_video": 3}),
    ),
    "fewer rows than frames": (video(lambda p: write_video(p, 30)), Rows({"no_face": 12})),
    "one frame only": (
        video(lambda p: write_video(p, frames=1)),
        Rows({"no_face": 1, "beyond_video": 11}),
    ),
    "wrong header": (
        rows_of(EXPR, TRAIN, "a 1", ["0"], header="valence,arousal"),
        Error(("the first line is 'valence,arousal'", "line 1", "use an annotation file for EXPR")),
    ),
    "an empty annotation": (
        lambda root: annotation(root, EXPR, TRAIN, "a 1").write_bytes(b""),
        Error(("the first line is ''",)),
    ),
    "a header only": (
        rows_of(EXPR, TRAIN, "a 1", []),
        Error(("there are no rows below the header",)),
    ),
    "a value out of range": (
        rows_of(EXPR, TRAIN, "a 1", ["0", "8"]),
        Error(("'8' is not an EXPR label", "line 3", "correct the value")),
    ),
    "not a number": (
        rows_of(AU, TRAIN, "a 1", [",".join(["1"] * 11 + ["x"])]),
        Error(("'x' is not an AU label", "line 2")),
    ),
    "a fraction": (rows_of(EXPR, TRAIN, "a 1", ["1.0"]), Error(("'1.0' is not an EXPR label",))),
    "too few values in a row": (
        rows_of(AU, TRAIN, "a 1", ["1,0,1"]),
        Error(("has 3 values, expected 12", "line 2")),
    ),
    "a blank line in the middle": (
        rows_of(EXPR, TRAIN, "a 1", ["0", "", "1"]),
        Error(("is not an EXPR label", "line 3")),
    ),
    "a binary annotation": (
        lambda root: annotation(root, EXPR, TRAIN, "a 1").write_bytes(b"\xff\xfe\x00\x01"),
        Error(("is not valid text",)),
    ),
    "two files of one video": (
        lambda root: write_video(root / "videos/batch2/a 1.avi"),
        Error(
            ("2 files have the video name 'a 1'", "batch1/a 1.mp4", "batch2/a 1.avi", "keep one")
        ),
    ),
    "a video in both splits": (
        rows_of(EXPR, VALIDATION, "a 1", EVERY_CLASS),
        Error(("the video 'a 1' is in both splits of EXPR", TRAIN, VALIDATION)),
    ),
    "a person annotated twice": (
        lambda root: write_annotation(
            root / "annotations" / FOLDERS[EXPR.name][0] / TRAIN / "again/a 1.txt",
            EXPR.header,
            ["0"],
        ),
        Error(("'a 1' has 2 annotations for EXPR", "again/a 1.txt", "keep one")),
    ),
    "two people of one video in different splits": (
        rows_of(EXPR, VALIDATION, "b'2\"_left", EVERY_CLASS),
        Error(("is in both splits of EXPR",)),
    ),
    "an annotated video whose name is not valid UTF-8": (
        not_utf8,
        Error(("no annotated frame of EXPR has an image: validation",)),
    ),
    "a folder whose name is not valid UTF-8": (
        lambda root: os.rename(  # noqa: PTH104
            os.fsencode(root / "videos/batch1"), os.fsencode(root / "videos") + b"/f\xff"
        ),
        Rows({"no_face": 12}),
    ),
    "a dangling link": (
        video(lambda p: p.symlink_to("nowhere.mp4")),
        Rows({"video_missing": 12}),
    ),
    "videos in a linked folder": (
        lambda root: (
            (root / "videos/batch1").rename(root / "real")
            and (root / "videos/batch1").symlink_to(root / "real")
        ),
        Rows({"no_face": 12}),
    ),
    "a playlist named mp4": (
        video(lambda p: p.write_text("ffconcat version 1.0\nfile 'a 1.mp4'\n")),
        Rows({"video_unreadable": 12}),
    ),
    "a control character in a name": (
        lambda root: write_video(root / "videos/a\nb.mp4"),
        Rows({"no_face": 12}),
    ),
    "no folder of videos": (
        lambda root: (root / "videos").rename(root / "elsewhere"),
        Error(("the video folder does not exist", "data.videos")),
    ),
    "no annotations of a task": (
        lambda root: (root / "annotations" / FOLDERS[AU.name][0]).rename(root / "gone"),
        Error(("no annotations for AU", "training.tasks")),
    ),
    "no validation split": (
        lambda root: annotation(root, EXPR, VALIDATION, "c10").unlink(),
        Error(("no annotation files for the validation split of EXPR",)),
    ),
    "nothing annotated": (
        rows_of(EXPR, VALIDATION, "c10", ["-1"] * 12),
        Error(("no frame of the validation split of EXPR has a label",)),
    ),
    "classes that never occur": (
        every_training_row_neutral,
        Error(("no training frame is annotated with Anger, Disgust",)),
    ),
}


def chain(root: Path, assets: Path) -> dict[str, int]:
    """Run the stages on a tree; statuses of the annotated frames of video c10."""
    out, store = root / "out", Store(root / "store")
    data = Data(videos=str(root / "videos"), annotations=str(root / "annotations"), shards=1)
    index_dataset(data, (EXPR, AU), out)
    manifest = out / "manifests/0000.parquet"
    extract_frames(manifest, store, out / "frames.parquet")
    align_faces(manifest, out / "frames.parquet", Faces(), assets, store, out / "faces.parquet")
    encoder, embedded = Encoder(kind="pixels", side=8), out / "embedded.parquet"
    embed_faces(manifest, out / "faces.parquet", encoder, assets, store, embedded)
    build_table(out / "labels/EXPR.parquet", [embedded], out / "table")
    rows = read_table(out / "table/rows.parquet")
    return rows[rows["video"] == "c10"]["status"].value_counts().to_dict()


@pytest.mark.parametrize("name", TABLE)
def test_bad_input_has_its_outcome(name: str, tree: Path, face_networks: Path) -> None:
    break_it, outcome = TABLE[name]
    break_it(tree)
    if isinstance(outcome, Rows):
        add_validation_video(tree)
        assert chain(tree, face_networks) == outcome.statuses
        return
    with pytest.raises(UserError) as caught:
        chain(tree, face_networks)
    for word in outcome.words:
        assert word in str(caught.value)
    assert caught.value.where
    assert caught.value.fix
    assert not (tree / "out").exists(), "an error comes before any work"


def test_good_and_bad_labels_do_not_disturb_each_other(tree: Path, face_networks: Path) -> None:
    rows_of(EXPR, VALIDATION, "c10", ["0", "-1"] * 6)(tree)
    rows_of(AU, VALIDATION, "c10", EVERY_UNIT[:5])(tree)
    assert chain(tree, face_networks) == {"no_face": 6}
