"""Features become answers: joined ones as in training, absent ones as nothing; odd files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import ASSETS, ROOT, write_video
from safetensors.numpy import load_file, save_file

import clipaffect
from clipaffect.bundle.load import open_bundle
from clipaffect.config.prediction import Prediction
from clipaffect.core.errors import UserError
from clipaffect.core.frame_status import FrameStatus
from clipaffect.core.hashing import file_digest
from clipaffect.core.parquet import write_batches
from clipaffect.faces.face_rows import SCHEMA
from clipaffect.features.columns import schema
from clipaffect.prediction.batch import is_failure, predict_files, wanted_of
from clipaffect.prediction.find_videos import find_videos
from clipaffect.prediction.pipeline import features_of
from clipaffect.prediction.prediction_table import _unpacked, predict_rows
from clipaffect.prediction.scoring import answer
from clipaffect.prediction.sources import find_sources

FIRST = ROOT / "tests/data/bundle-v1"
N = 300


def written(path: Path, features: np.ndarray, status: list[str], name: str) -> Path:
    """Features (N, d) of one video's rows; null where the status is not ok."""
    have = np.array([own == FrameStatus.OK for own in status])
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(features.astype(np.float16).ravel()), features.shape[1], mask=pa.array(~have)
    )
    table = pa.table(
        {
            "video": ["v"] * N,
            "person": ["1"] * N,
            "frame": list(range(1, N + 1)),
            "status": status,
            "feature": column,
        }
    )
    write_batches(path, schema(features.shape[1], name), [table])
    return path


def faces(path: Path) -> Path:
    rows = [
        {"video": "v", "person": "1", "frame": k + 1, "time": k / 25, "status": "ok"}
        for k in range(N)
    ]
    write_batches(path, SCHEMA, [pa.Table.from_pylist(rows, SCHEMA)])
    return path


def bundle(folder: Path, features: dict[str, list[str]], heads: dict[str, int]) -> Path:
    """The first bundle on other features: names and their lengths; averaged if there are two."""
    shutil.copytree(FIRST, folder)
    values = json.loads((folder / "bundle.json").read_text())
    encoders = {part for parts in features.values() for part in parts}
    values["encoders"] = {name: {"kind": "pixels", "side": 8} for name in sorted(encoders)}
    values["features"] = features
    rng = np.random.default_rng(0)
    for name, task in values["tasks"].items():
        old, weights = load_file(FIRST / task["file"]), {}
        for own, length in heads.items():
            for seed in (0, 3):
                for key, value in old.items():
                    if key.startswith(f"pixels/seed={seed}/"):
                        weights[key.replace("pixels/", f"{own}/")] = value
                weights[f"{own}/seed={seed}/linears.0.weight"] = rng.normal(
                    size=(8, length)
                ).astype(np.float32)
        save_file(weights, folder / task["file"])
        task["heads"] = [
            {"features": own, "seeds": [0, 3], "inputs": length, "hidden_layers": 1, "width": 8}
            for own, length in heads.items()
        ]
        task["steps"] = [{"step": "average_seeds", "choice": {}}]
        if len(heads) > 1:
            others = {"step": "average_encoders", "choice": {"with": list(heads)[1:]}}
            task["steps"].insert(0, others)
        path = folder / task["file"]
        values["files"][task["file"]] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        assert name in ("EXPR", "AU")
    (folder / "bundle.json").write_text(json.dumps(values))
    return folder


def units(folder: Path, own: str, x: np.ndarray) -> np.ndarray:
    """AU probabilities of the heads on some features, by numpy alone."""
    weights, found = load_file(folder / "heads/AU.safetensors"), []
    for seed in (0, 3):
        w = {
            k.split("/", 2)[2]: v for k, v in weights.items() if k.startswith(f"{own}/seed={seed}/")
        }
        hidden = x @ w["linears.0.weight"].T + w["linears.0.bias"]
        hidden = (hidden - w["norms.0.running_mean"]) / np.sqrt(w["norms.0.running_var"] + 1e-5)
        hidden = np.maximum(hidden * w["norms.0.weight"] + w["norms.0.bias"], 0)
        found.append(1 / (1 + np.exp(-(hidden @ w["output.weight"].T + w["output.bias"]))))
    return np.mean(found, axis=0)


def test_joined_features_are_scaled_as_in_training(tmp_path: Path) -> None:
    """Each encoder's over its root mean square (docs/encoders.md), side by side."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(N, 6)) * 100, rng.normal(size=(N, 4))
    folder = bundle(tmp_path / "b", {"j": ["a", "b"]}, {"j": 10})
    opened = open_bundle(folder)
    ok = ["ok"] * N
    files = {"a": written(tmp_path / "a", a, ok, "a"), "b": written(tmp_path / "b2", b, ok, "b")}
    found = predict_rows(
        opened, faces(tmp_path / "f"), features_of(opened.bundle, files, tmp_path), "all"
    )
    scaled = [x / np.sqrt((x**2).mean(1, keepdims=True)) for x in (a, b)]
    expected = units(folder, "j", np.concatenate(scaled, axis=1))
    assert found.answers["AU"].probability == pytest.approx(expected, abs=0.01)


def test_where_another_encoder_saw_no_face_the_own_heads_answer(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(N, 6)), rng.normal(size=(N, 4))
    folder = bundle(tmp_path / "b", {"a": ["a"], "b": ["b"]}, {"b": 4, "a": 6})
    opened = open_bundle(folder)
    blurred = ["face_blurred" if k % 7 == 0 else "ok" for k in range(N)]
    files = {
        "a": written(tmp_path / "fa", a, blurred, "a"),
        "b": written(tmp_path / "fb", b, ["ok"] * N, "b"),
    }
    found = predict_rows(opened, faces(tmp_path / "f"), files, "all")
    assert (found.at >= 0).all()
    own, other = units(folder, "b", b), units(folder, "a", a)
    both = np.array([status == "ok" for status in blurred])[:, None]
    expected = np.where(both, (own + other) / 2, own)
    assert found.answers["AU"].probability == pytest.approx(expected, abs=0.01)


def test_a_picture_too_large_to_decode_fails_alone(
    tmp_path: Path, real_clips: Path, face_networks: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(real_clips / "group.jpg", folder)
    # A PNG's header alone says how large it is.
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (40_000).to_bytes(4) + (30_000).to_bytes(4)
    (folder / "huge.png").write_bytes(header + b"\x08\x02\0\0\0" + b"\0" * 40 + b"IEND\xaeB`\x82")
    wanted = wanted_of(open_bundle(FIRST), ASSETS)
    summary = predict_files([folder], wanted, tmp_path / "out", None, 1).set_index("file")
    assert summary["outcome"].to_dict() == {"group.jpg": "ok", "huge.png": "image_unreadable"}


def test_a_video_of_which_nothing_is_decoded_is_no_success(
    tmp_path: Path, face_networks: Path
) -> None:
    path = write_video(tmp_path / "dead.mp4", frames=30)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    data[start:end] = bytes(end - start)
    path.write_bytes(bytes(data))
    wanted = wanted_of(open_bundle(FIRST), ASSETS)
    summary = predict_files([path], wanted, tmp_path / "out", None, 1)
    assert summary["outcome"].tolist() == ["video_unreadable"]
    assert summary["frames"].tolist() == [30]
    assert is_failure(summary)
    assert "nan" not in (tmp_path / "out/dead/frames.csv").read_text()


def test_a_moved_video_gets_a_page_that_plays_it(tmp_path: Path, face_networks: Path) -> None:
    wanted = wanted_of(open_bundle(FIRST), ASSETS)
    page = tmp_path / "out/a/timeline.html"
    for folder in ("one", "two"):
        path = write_video(tmp_path / folder / "a.mp4")
        if folder == "two":
            (tmp_path / "one/a.mp4").unlink()
        predict_files([path], wanted, tmp_path / "out", None, 1)
        assert (
            f"../../{folder}/a.mp4" in page.read_text() or "No face was found" in page.read_text()
        )
        record = json.loads((page.parent / "record.json").read_text())
        assert record["files"]["a.mp4"][0] == f"../{folder}/a.mp4"
    page.unlink()
    predict_files([path], wanted, tmp_path / "out", None, 1)
    assert page.is_file()


def test_names_that_are_the_outputs_own_and_places_that_are_taken(
    tmp_path: Path, face_networks: Path
) -> None:
    odd = write_video(tmp_path / "summary.csv.mp4").rename(tmp_path / "summary.csv")
    (source,) = find_sources([odd])
    assert source.name == f"{tmp_path.name}/summary.csv"
    video = write_video(tmp_path / "v/a.mp4")
    wanted = wanted_of(open_bundle(FIRST), ASSETS)
    (tmp_path / "out").mkdir()
    # Somebody's file and folder are in the places of the outputs.
    (tmp_path / "out/a").write_text("mine")
    (tmp_path / "out/a.mp4").mkdir()
    (tmp_path / "out/a.mp4/frames.csv").write_text("mine")
    predict_files([video], wanted, tmp_path / "out", None, 1)
    assert (tmp_path / "out/a").read_text() == "mine"
    assert (tmp_path / "out/a.mp4/frames.csv").read_text() == "mine"
    (folder,) = {path.parent for path in (tmp_path / "out").glob("*/frames.parquet")}
    assert folder.name.startswith("a.mp4~")
    # A file that is put into the place later is not overwritten either.
    shutil.rmtree(folder)
    folder.write_text("mine")
    with pytest.raises(UserError, match="would overwrite a file"):
        predict_files([video], wanted, tmp_path / "out", None, 1)
    assert folder.read_text() == "mine"
    mine = tmp_path / "other/notes.txt"
    mine.mkdir(parents=True)
    (mine / "frames.csv").write_text("mine")
    (tmp_path / "v/notes.txt").touch()
    predict_files([tmp_path / "v"], wanted, tmp_path / "other", None, 1)
    assert (mine / "frames.csv").read_text() == "mine"


def test_folders_that_are_not_text_and_nothing_to_answer(tmp_path: Path) -> None:
    folder = Path(str(tmp_path) + "/bad\udcff")
    write_video(tmp_path / "a.mp4")
    folder.mkdir()
    (tmp_path / "a.mp4").rename(folder / "a.mp4")
    (source,) = find_sources([folder])
    assert (source.name, source.outcome) == ("a.mp4", FrameStatus.OK)
    (tmp_path / "only").mkdir()
    (tmp_path / "only/notes.txt").touch()
    find_videos(Prediction(videos=(str(tmp_path / "only"),), shards=2), tmp_path / "made")
    listed = json.loads((tmp_path / "made/files.json").read_text())
    assert listed == [{"name": "notes.txt", "outcome": "not_media"}]


@pytest.mark.parametrize("asked", [{"people": "Main"}, {"rate": 0}, {"rate": float("inf")}])
def test_a_wrong_question_is_said(asked: dict) -> None:
    with pytest.raises(UserError, match=r"people|rate"):
        clipaffect.load_model(FIRST).predict(ROOT / "README.md", **asked)


def test_a_table_of_rows_is_whole(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b", {"a": ["a"]}, {"a": 6})
    features = np.random.default_rng(3).normal(size=(N, 6))
    status = ["no_face" if k < 5 else "ok" for k in range(N)]
    files = {"a": written(tmp_path / "fa", features, status, "a")}
    found = predict_rows(open_bundle(folder), faces(tmp_path / "f"), files, "all")
    # A stretch in the middle of the file is the same rows as in the whole.
    whole = pa.concat_tables(found.tables(0, N, True))
    part = pa.concat_tables(found.tables(131, 259, True))
    assert part.equals(whole.slice(131, 128))
    assert whole["EXPR"].null_count == 5


def test_a_box_is_left_top_width_height() -> None:
    row = {"video": "v", "person": "1", "frame": 1, "status": "ok", "box": [10, 20, 30, 40]}
    columns = _unpacked(pa.Table.from_pylist([row, row | {"box": None}], SCHEMA))
    for name, value in (("left", 10), ("top", 20), ("width", 30), ("height", 40)):
        assert columns[f"box_{name}"].to_pylist() == [value, None]


def test_spread_is_the_sample_deviation_over_seeds() -> None:
    rng = np.random.default_rng(0)
    model = open_bundle(FIRST).bundle.tasks["AU"]
    name = model.heads[0].features
    scores = {name: rng.random((2, 5, 12))}
    rows = pd.DataFrame({"video": "v", "person": "1", "frame": range(1, 6)})
    found = answer(scores, {name: [0, 3]}, rows, model)
    assert found.spread == pytest.approx(np.std(scores[name], axis=0, ddof=1), abs=1e-6)
