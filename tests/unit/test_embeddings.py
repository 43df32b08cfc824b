"""Embedding: a row does not depend on its neighbours; rows in, rows out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipaffect.config.models import Encoder, Faces
from clipaffect.embeddings import embed_crops, embed_faces
from clipaffect.encoders.load import LoadedEncoder, load_encoder
from clipaffect.errors import UserError
from clipaffect.faces.rows import SCHEMA
from clipaffect.store import Store
from clipaffect.table import build_table, read_split
from clipaffect.tables import read_frame, write_batches, write_frame
from clipaffect.tasks import EXPR

MICRO = Encoder(model="clipaffect-micro", random=0, activation="gelu", precision="fp32", batch=8)


def crop(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8)
    return cv2.imencode(".jpg", noise)[1].tobytes()


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    encoder = load_encoder(MICRO, Path(), "cpu")
    crops = [crop(k) for k in range(19)]
    together = embed_crops(crops, encoder, 8)
    alone = np.concatenate([embed_crops([one], encoder, 8) for one in crops])
    assert together.tobytes() == alone.tobytes()


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """300 rows of two videos, every seventh without a face."""
    rows = [
        {
            "video": "one" if k < 200 else "two",
            "person": "",
            "frame": k % 200 + 1,
            "status": "no_face" if k % 7 == 0 else "ok",
            "crop": None if k % 7 == 0 else crop(k),
        }
        for k in range(300)
    ]
    write_batches(tmp_path / "faces.parquet", SCHEMA, [pa.Table.from_pylist(rows, SCHEMA)])
    manifest = [
        {
            "video": v,
            "kind": "video",
            "path": v,
            "sha256": v,
            "persons": [""],
            "folders": [""],
            "frame_limit": 0,
        }
        for v in ("one", "two")
    ]
    write_frame(tmp_path / "manifest.parquet", pd.DataFrame(manifest))
    return tmp_path


def embed(folder: Path, out: str = "embeddings.parquet", settings: Encoder = MICRO) -> Path:
    store = Store(folder / "store")
    faces = folder / "faces.parquet"
    embed_faces(folder / "manifest.parquet", faces, Faces(), settings, Path(), store, folder / out)
    return folder / out


def test_rows_in_are_rows_out_in_order(shard: Path) -> None:
    faces, embedded = read_frame(shard / "faces.parquet"), read_frame(embed(shard))
    keys = ["video", "person", "frame", "status"]
    pd.testing.assert_frame_equal(embedded[keys], faces[keys])
    assert embedded["feature"].notna().equals(faces["status"] == "ok")
    encoder = load_encoder(MICRO, Path(), "cpu")
    for row in (1, 150, 299):
        expected = embed_crops([faces["crop"][row]], encoder, 8)[0]
        assert np.asarray(embedded["feature"][row]).tobytes() == expected.tobytes()


def test_a_second_run_embeds_nothing(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = embed(shard).read_bytes()

    def refuse(*_: object) -> None:
        raise AssertionError("the network was loaded again")

    monkeypatch.setattr("clipaffect.embeddings.load_encoder", refuse)
    assert embed(shard, "again.parquet").read_bytes() == first


def labels(folder: Path) -> Path:
    frames = [("one", k) for k in range(1, 203)] + [("gone", 1), ("two", 3)]
    rows = [
        {
            "split": "train",
            "group": v,
            "video": v,
            "person": "",
            "frame": k,
            "label": k % 8,
            "annotated": True,
        }
        for v, k in frames
    ]
    write_frame(folder / "labels.parquet", pd.DataFrame(rows))
    return folder / "labels.parquet"


def test_the_table_keeps_every_annotated_frame(shard: Path) -> None:
    build_table(labels(shard), [embed(shard)], shard / "table")
    rows = read_frame(shard / "table/rows.parquet")
    assert len(rows) == 204
    counts = rows["status"].value_counts().to_dict()
    assert counts == {"ok": 172, "no_face": 29, "beyond_video": 3}
    split = read_split(shard / "table", EXPR, "train")
    embedded = read_frame(shard / "embeddings.parquet").set_index(["video", "frame"])["feature"]
    for row in (0, 100, 171):
        key = tuple(split.rows.loc[row, ["video", "frame"]])
        assert split.features[row].numpy().tolist() == np.float32(embedded[key]).tolist()
        assert int(split.labels[row, 0]) == key[1] % 8


@pytest.mark.parametrize(
    ("other", "lengths"),
    [
        (Encoder(kind="pixels", side=4), "64, 16"),
        (Encoder(kind="pixels", side=8), "64, 64"),  # as long as the micro encoder's
    ],
)
def test_shards_of_two_encoders_are_refused(shard: Path, other: Encoder, lengths: str) -> None:
    pixels = embed(shard, "pixels.parquet", other)
    with pytest.raises(UserError, match=f"2 encoders .* of length {lengths}"):
        build_table(labels(shard), [embed(shard), pixels], shard / "table")


def test_a_feature_that_is_not_finite_is_named(shard: Path) -> None:
    path = embed(shard)
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[8]["feature"] = [np.float16("nan")] * 64
    write_batches(path, table.schema, [pa.Table.from_pylist(rows, table.schema)])
    with pytest.raises(UserError, match="the feature of video 'one', frame 9 is not finite"):
        build_table(labels(shard), [path], shard / "table")


def test_a_feature_that_overflows_never_enters_the_store(
    shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(settings: Encoder, assets: Path, device: str) -> LoadedEncoder:
        encoder = load_encoder(settings, assets, device)
        return replace(encoder, embed=lambda batch: encoder.embed(batch) * float("inf"))

    monkeypatch.setattr("clipaffect.embeddings.load_encoder", broken)
    with pytest.raises(UserError, match="the feature of 'one', frame 2 is not finite"):
        embed(shard)
    monkeypatch.undo()
    assert read_frame(embed(shard))["feature"].notna().sum() == 257
