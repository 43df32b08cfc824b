"""Single pictures in which a face is searched for, from the index to the table."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import write_video
from PIL import Image

from clipaffect.config.data import Data
from clipaffect.config.encoders import Encoder
from clipaffect.config.faces import Faces
from clipaffect.core.errors import UserError
from clipaffect.core.parquet import read_table
from clipaffect.core.store import Store
from clipaffect.core.video import read_frames
from clipaffect.dataset.extract_frames import extract_frames
from clipaffect.dataset.index_dataset import index_dataset
from clipaffect.dataset.readers.registry import read_dataset
from clipaffect.dataset.summary import collect
from clipaffect.faces.align_faces import align_faces
from clipaffect.features.build_table import build_table
from clipaffect.features.embed_faces import embed_faces

ROTATED = 6  # EXIF: the camera lay on its side
KEYS = ["status", "score", "box", "points", "sharpness", "faces_in_frame", "crop"]


@pytest.fixture
def pictures(tmp_path: Path, real_clips: Path) -> Path:
    """Frames of real clips as pictures, a turned one, one cut off; and a video of the same face."""
    frames = read_frames(real_clips / "single_face.mp4")
    face = np.ascontiguousarray(next(frames).pixels[:, :, ::-1])
    empty = next(read_frames(real_clips / "no_face.mp4")).pixels[:, :, ::-1]
    for name in ("a.png", "b.webp"):
        lossless = [cv2.IMWRITE_WEBP_QUALITY, 101] if name == "b.webp" else []
        cv2.imwrite(str(tmp_path / name), face, lossless)
    cv2.imwrite(str(tmp_path / "empty.jpg"), np.ascontiguousarray(empty))
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    lying = Image.fromarray(np.rot90(face[:, :, ::-1]))  # shown upright by its EXIF turn
    lying.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    whole = (tmp_path / "turned.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    write_video(tmp_path / "blank.mp4", frames=2)
    rows = [
        ("a.png", "train"),
        ("b.webp", "validation"),
        ("empty.jpg", "train"),
        ("turned.jpg", "train"),
        ("cut.jpg", "validation"),
        ("gone.jpg", "train"),
    ]
    table = pd.DataFrame(rows, columns=["image", "split"]).assign(mood=[0, 1, 1, 0, 0, 0])
    table["video"] = ""
    table.loc[len(table)] = {"image": "", "video": "blank.mp4", "split": "train", "mood": 1}
    table.to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path


def settings(root: Path, faces: str) -> Data:
    return Data.model_validate(
        {
            "format": "table",
            "table": str(root / "labels.csv"),
            "faces": faces,
            "shards": 1,
            "tasks": {"mood": {"classes": ["calm", "tense"]}},
        }
    )


def faces_of(data: Data, root: Path, assets: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of faces by picture, and of the table."""
    out, store = root / data.faces, Store(root / "store")
    index_dataset(data, list(data.known_tasks().values()), out)
    manifest, frames, faces = (out / "manifests/0000.parquet", out / "f.parquet", out / "a.parquet")
    extract_frames(manifest, store, frames)
    align_faces(manifest, frames, Faces(), assets, store, faces)
    embedded = out / "e.parquet"
    encoder = Encoder(kind="pixels", side=8)
    embed_faces(manifest, faces, encoder, assets, store, embedded)
    build_table(out / "labels/mood.parquet", [embedded], out / "table")
    return read_table(faces).set_index("video"), read_table(out / "table/rows.parquet")


def test_the_face_of_a_picture_is_that_of_the_same_video_frame(
    pictures: Path, face_networks: Path, real_clips: Path
) -> None:
    rows, table = faces_of(settings(pictures, "search"), pictures, face_networks)
    status = table.set_index("video")["status"].to_dict()
    assert status == {
        "a.png": "ok",
        "b.webp": "ok",
        "turned.jpg": "ok",
        "empty.jpg": "no_face",
        "cut.jpg": "image_unreadable",
        "gone.jpg": "video_missing",
        "blank.mp4": "no_face",
    }
    assert (
        rows.loc["a.png", KEYS]
        .drop("crop")
        .astype(str)
        .equals(rows.loc["b.webp", KEYS].drop("crop").astype(str))
    )
    # the same frame, cut out of the video it comes from
    video = pictures / "again"
    video.mkdir()
    (video / "v.mp4").symlink_to(real_clips / "single_face.mp4")
    (video / "labels.csv").write_text("video,frame,split,mood\nv.mp4,1,train,0\n")
    text = "".join(f"v.mp4,{k},train,{k % 2}\n" for k in (1, 2))
    (video / "labels.csv").write_text("video,frame,split,mood\n" + text + "x.mp4,1,validation,0\n")
    write_video(video / "x.mp4", frames=1)
    cut, _ = faces_of(settings(video, "search"), video, face_networks)
    first = cut.loc["v.mp4"].query("frame == 1").iloc[0]
    for name in KEYS:
        assert str(first[name]) == str(rows.loc["a.png", name]), name
    upright = rows.loc["turned.jpg"]["box"], rows.loc["a.png"]["box"]
    np.testing.assert_allclose(upright[0], upright[1], atol=4)


def test_faces_that_are_cut_out_are_taken_as_they_are(pictures: Path, face_networks: Path) -> None:
    rows, table = faces_of(settings(pictures, "cut"), pictures, face_networks)
    assert rows.loc["a.png", "image"] == str(pictures / "a.png")
    assert rows.loc["a.png", "crop"] is None
    status = table.set_index("video")["status"].to_dict()
    assert status["empty.jpg"] == "ok"
    assert status["cut.jpg"] == "image_unreadable"


def test_a_picture_that_changed_after_the_index_is_refused(
    pictures: Path, face_networks: Path
) -> None:
    data, out, store = settings(pictures, "search"), pictures / "o", Store(pictures / "store")
    index_dataset(data, list(data.known_tasks().values()), out)
    manifest = out / "manifests/0000.parquet"
    extract_frames(manifest, store, out / "f.parquet")
    (pictures / "a.png").write_bytes((pictures / "empty.jpg").read_bytes())
    with pytest.raises(UserError, match="changed or removed") as caught:
        align_faces(manifest, out / "f.parquet", Faces(), face_networks, store, out / "a.parquet")
    assert "a.png" in caught.value.where


def test_pictures_are_estimated_as_frames_to_search(pictures: Path) -> None:
    data = settings(pictures, "search")
    tasks = list(data.known_tasks().values())
    facts = collect(data, tasks, *read_dataset(data, tasks))
    assert facts["images_used"] == 0
    assert facts["frames_to_search"] == 5 + 2
    assert facts["tasks"]["mood"]["train"]["with_image"] is None
