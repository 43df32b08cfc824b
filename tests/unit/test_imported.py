"""Features from elsewhere: HDF5, NumPy and Parquet files with their frames."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from clipaffect.config import parse_config
from clipaffect.config.features import FeatureFile
from clipaffect.config.stage_keys import shard_names
from clipaffect.core.errors import UserError
from clipaffect.core.parquet import read_table, write_table
from clipaffect.core.tasks import EXPR
from clipaffect.features.build_table import build_table
from clipaffect.features.import_features import check_import, import_features
from clipaffect.training.data import read_split

FRAMES = [("a", "", k) for k in range(1, 7)] + [("b", "left", k) for k in (2, 3, 5)]
SHARDS = 3


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Two people's annotated frames; one more is not annotated."""
    rows = [
        {
            "split": "train",
            "group": video,
            "video": video,
            "person": person,
            "frame": frame,
            "label": frame % 8,
            "annotated": True,
        }
        for video, person, frame in FRAMES
    ]
    rows.append(rows[0] | {"frame": 7, "label": -1, "annotated": False})
    write_table(tmp_path / "labels.parquet", pd.DataFrame(rows))
    return tmp_path / "labels.parquet"


def drawn(rows: int, dimension: int = 5) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, dimension)).astype(np.float32)


def lines(keys: list[tuple[str, str, int]], label: str = "") -> str:
    names = [f"{video}_{person}" if person else video for video, person, _ in keys]
    paths = [f"cropped_aligned/{n}/{k[2]:05d}.jpg{label}" for n, k in zip(names, keys, strict=True)]
    return "\n".join(paths) + "\n"


def written(folder: Path, kind: str, keys: list[tuple[str, str, int]]) -> FeatureFile:
    """The features of some frames in a file of one kind."""
    features = drawn(len(keys))
    frames = folder / f"{kind}.txt"
    frames.write_text(lines(keys, {"h5": " 3", "npy": "", "parquet": ""}[kind]))
    path = folder / f"f.{kind}"
    if kind == "h5":
        with h5py.File(path, "w") as file:
            file["train_features"] = features.astype(np.float16)
    elif kind == "npy":
        np.save(path, features)
    else:
        table = pd.DataFrame(keys, columns=["video", "person", "frame"])
        table.assign(feature=list(features)).to_parquet(path)
    own = None if kind == "parquet" else str(frames)
    return FeatureFile(file=str(path), frames=own)


def result(out: Path) -> pd.DataFrame:
    shards = [read_table(out / f"{name}.parquet") for name in shard_names(SHARDS)]
    return pd.concat(shards).set_index(["video", "person", "frame"])


@pytest.mark.parametrize("kind", ["h5", "npy", "parquet"])
def test_each_frame_gets_its_own_feature(kind: str, labels: Path, tmp_path: Path) -> None:
    keys = [FRAMES[k] for k in np.random.default_rng(1).permutation(len(FRAMES))]
    keys.insert(3, ("a", "", 7))  # there, but not annotated
    keys.remove(("b", "left", 3))
    files = (written(tmp_path, kind, keys),)
    checked = check_import(files, [read_table(labels)], [])
    import_features(files, [labels], [], SHARDS, tmp_path / "out")
    found = result(tmp_path / "out")
    assert len(found) == len(FRAMES)
    assert found.loc[("b", "left", 3), "status"] == "no_feature"
    assert found.loc[("b", "left", 3), "feature"] is None
    features = drawn(len(keys)).astype(np.float16)
    for key, feature in zip(keys, features, strict=True):
        if key != ("a", "", 7):
            assert found.loc[key, "status"] == "ok"
            np.testing.assert_array_equal(found.loc[key, "feature"], feature)
    counts = json.loads((tmp_path / "out/import.json").read_text())
    assert counts == {
        "rows": 9,
        "used": 8,
        "of_no_annotated_frame": 1,
        "frames_without_feature": 1,
        "dimension": 5,
    }
    assert checked == counts
    shards = [tmp_path / f"out/{name}.parquet" for name in shard_names(SHARDS)]
    build_table(labels, shards, tmp_path / "table")
    rows = read_table(tmp_path / "table/rows.parquet")
    assert rows["status"].value_counts().to_dict() == {"ok": 8, "no_feature": 1}
    train = read_split(tmp_path / "table", EXPR, "train")
    for row, feature in zip(train.rows.itertuples(), train.features.numpy(), strict=True):
        at = keys.index((row.video, row.person, row.frame))
        np.testing.assert_array_equal(feature, features[at])


def test_several_files_are_one_import(labels: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    files = (written(tmp_path, "npy", FRAMES[:4]), written(tmp_path / "x", "h5", FRAMES[4:]))
    import_features(files, [labels], [], SHARDS, tmp_path / "out")
    assert (result(tmp_path / "out")["status"] == "ok").all()


def test_images_are_named_by_their_path(tmp_path: Path) -> None:
    names = ["my images/a, 1.jpg", "b/2.jpg", "b/3.jpg"]
    rows = [
        {
            "split": "train",
            "group": n,
            "video": n,
            "person": "",
            "frame": 1,
            "label": 0,
            "annotated": True,
        }
        for n in names
    ]
    write_table(tmp_path / "labels.parquet", pd.DataFrame(rows))
    np.save(tmp_path / "f.npy", drawn(3))
    text = "b/3.jpg 4\n/home/me/my images/a, 1.jpg 0,1,-1\nset/b/2.jpg,1\n"
    (tmp_path / "l.txt").write_text(text)
    file = FeatureFile(file=str(tmp_path / "f.npy"), frames=str(tmp_path / "l.txt"))
    import_features((file,), [tmp_path / "labels.parquet"], [], SHARDS, tmp_path / "out")
    found = result(tmp_path / "out")
    expected = drawn(3).astype(np.float16)
    for name, at in ((names[0], 1), (names[1], 2), (names[2], 0)):
        np.testing.assert_array_equal(found.loc[(name, "", 1), "feature"], expected[at])


def test_videos_in_folders_are_named_with_or_without_their_ending(tmp_path: Path) -> None:
    names = ["clips/a.mp4", "a.mp4", "x/b.avi"]
    rows = [
        {
            "split": "train",
            "group": n,
            "video": n,
            "person": "",
            "frame": 1 + k,
            "label": 0,
            "annotated": True,
        }
        for n in names
        for k in range(2)
    ]
    write_table(tmp_path / "labels.parquet", pd.DataFrame(rows))
    lines = [
        "/d/clips/a.mp4/00001.jpg",
        "clips/a/2.jpg 3",
        "a.mp4/1.jpg",
        "a/00002.jpg",
        "x/b/1.png",
        "v1/00001.jpg 3 x/b/2.png",
    ]
    file = array(tmp_path, drawn(6), "\n".join(lines))
    import_features((file,), [tmp_path / "labels.parquet"], [], SHARDS, tmp_path / "out")
    found = result(tmp_path / "out")
    expected = drawn(6).astype(np.float16)
    for at, name in enumerate(names):
        for k in range(2):
            row = found.loc[(name, "", 1 + k)]
            if (name, k) == (names[2], 1):  # two paths in a line are no path
                assert row["status"] == "no_feature"
            else:
                np.testing.assert_array_equal(row["feature"], expected[2 * at + k])


def test_frames_to_predict_are_imported_too(labels: Path, tmp_path: Path) -> None:
    test = pd.DataFrame(
        {"location": ["t/00004.jpg"], "video": ["t"], "person": [""], "frame": [4]}
    ).astype({"frame": "int32"})
    write_table(tmp_path / "test.parquet", test)
    file = written(tmp_path, "npy", [*FRAMES, ("t", "", 4)])
    import_features((file,), [labels], [tmp_path / "test.parquet"], SHARDS, tmp_path / "out")
    assert result(tmp_path / "out").loc[("t", "", 4), "status"] == "ok"
    write_table(tmp_path / "test.parquet", test.assign(frame=np.int32(0)))
    with pytest.raises(UserError, match="which frames to predict"):
        import_features((file,), [labels], [tmp_path / "test.parquet"], SHARDS, tmp_path / "o")


def test_more_shards_than_files_may_be_open(labels: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        import_features((written(tmp_path, "npy", FRAMES),), [labels], [], 400, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 400


def broken_h5(folder: Path) -> FeatureFile:
    with h5py.File(folder / "f.h5", "w") as file:
        file["a"], file["b"] = drawn(2), drawn(2)
    return FeatureFile(file=str(folder / "f.h5"), frames=str(folder / "l.txt"))


def array(folder: Path, values: Any, text: str, **how: Any) -> FeatureFile:
    np.save(folder / "f.npy", values, **how)
    (folder / "l.txt").write_text(text)
    return FeatureFile(file=str(folder / "f.npy"), frames=str(folder / "l.txt"))


MISTAKES = {
    "too few lines": (lambda f: array(f, drawn(3), lines(FRAMES[:2])), ["2 frames", "3 rows"]),
    "a frame twice": (
        lambda f: array(f, drawn(3), lines([*FRAMES[:2], FRAMES[0]])),
        ["two rows of features", "row 3"],
    ),
    "no frame of ours": (lambda f: array(f, drawn(1), "x/00001.jpg\n"), ["none of the 1 rows"]),
    "whole numbers": (lambda f: array(f, np.zeros((2, 3), int), lines(FRAMES[:2])), ["int64"]),
    "a pickle": (
        lambda f: array(f, np.array([{}], object), "", allow_pickle=True),
        ["not an array"],
    ),
    "two data sets": (broken_h5, ["a, b", "dataset"]),
    "another format": (lambda f: FeatureFile(file=str(f / "labels.parquet")), ["does not say"]),
    "not there": (lambda f: FeatureFile(file="gone.h5"), ["does not exist"]),
    "too large for float16": (
        lambda f: array(f, drawn(2) * 1e6, lines(FRAMES[:2])),
        ["65,504", "row 1"],
    ),
    "not a number": (
        lambda f: array(f, drawn(2) / [[1], [np.nan]], lines(FRAMES[:2])),
        ["not a number", "row 2"],
    ),
    "a pkl file": (
        lambda f: (f / "f.pkl").write_text("") or FeatureFile(file=str(f / "f.pkl")),
        ["'.pkl'", "pickles are never read"],
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_an_import_is_named(name: str, labels: Path, tmp_path: Path) -> None:
    make, words = MISTAKES[name]
    if name == "another format":
        frame = pd.DataFrame({"feature": list(drawn(2))})
        frame.to_parquet(tmp_path / "f.parquet")
        file = FeatureFile(file=str(tmp_path / "f.parquet"))
    else:
        file = make(tmp_path)
    with pytest.raises(UserError) as caught:
        import_features((file,), [labels], [], SHARDS, tmp_path / "out")
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_an_import_takes_the_place_of_the_encoders() -> None:
    part = {"file": "a.h5", "frames": "a.txt"}
    data = {"annotations": "x"}
    config = parse_config({"data": data, "features": {"import": {"theirs": part}}}, "c")
    assert config.encoder == "theirs"
    assert config.feature_names() == ["theirs"]
    preset = {"preset": "published_code", "data": data, "features": {"import": {"theirs": part}}}
    assert parse_config(preset, "c").feature_names() == ["theirs"]
    again = parse_config(config.model_dump(mode="json"), "c")
    assert again == config
    for values, words in (
        ({"data": data}, "needs 'videos' or 'images'"),
        (
            {
                "features": {"import": {"pixels": part}},
                "encoders": {"pixels": {"kind": "pixels"}},
                "encoder": "pixels",
            },
            "used twice in encoders, features.import and .join",
        ),
        ({"features": {"imports": {}}}, "did you mean 'import'"),
        ({"features": {"import": {"theirs": []}}}, "at least 1"),
        ({"encoders": {}}, "unknown 'encoder' 'tiny-clip'"),
    ):
        with pytest.raises(UserError, match=words):
            parse_config(values, "c")
