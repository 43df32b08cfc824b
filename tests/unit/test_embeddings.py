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
import torch

from clipaffect.config.encoders import Encoder
from clipaffect.core.errors import UserError
from clipaffect.core.hashing import digest
from clipaffect.core.parquet import read_table, write_batches, write_table
from clipaffect.core.store import Store
from clipaffect.core.tasks import EXPR
from clipaffect.encoders.registry import LoadedEncoder, encoder_record, load_encoder
from clipaffect.faces.face_rows import SCHEMA
from clipaffect.features.batches import embed_crops
from clipaffect.features.build_table import build_table
from clipaffect.features.cached_batches import open_entries
from clipaffect.features.columns import schema
from clipaffect.features.embed_faces import embed_faces
from clipaffect.features.embed_on_gpu import embed_on_gpu
from clipaffect.training.data import read_split

MICRO = Encoder(model="clipaffect-micro", random=0, activation="gelu", precision="fp32", batch=8)


def crop(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8)
    return cv2.imencode(".jpg", noise)[1].tobytes()


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    encoder = load_encoder(MICRO, Path(), "cpu")
    crops = [crop(k) for k in range(19)]
    together = embed_crops(crops, encoder)
    alone = np.concatenate([embed_crops([one], encoder) for one in crops])
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
    write_table(tmp_path / "manifest.parquet", pd.DataFrame(manifest))
    return tmp_path


def embed(folder: Path, out: str = "embeddings.parquet", settings: Encoder = MICRO) -> Path:
    store = Store(folder / "store")
    faces = folder / "faces.parquet"
    embed_faces(folder / "manifest.parquet", faces, settings, Path(), store, folder / out)
    return folder / out


def test_rows_in_are_rows_out_in_order(shard: Path) -> None:
    faces, embedded = read_table(shard / "faces.parquet"), read_table(embed(shard))
    keys = ["video", "person", "frame", "status"]
    pd.testing.assert_frame_equal(embedded[keys], faces[keys])
    assert embedded["feature"].notna().equals(faces["status"] == "ok")
    encoder = load_encoder(MICRO, Path(), "cpu")
    for row in (1, 150, 299):
        expected = embed_crops([faces["crop"][row]], encoder)[0]
        assert np.asarray(embedded["feature"][row]).tobytes() == expected.tobytes()


def test_a_second_run_embeds_nothing(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = embed(shard).read_bytes()

    def refuse(*_: object) -> None:
        raise AssertionError("the network was loaded again")

    monkeypatch.setattr("clipaffect.features.cached_batches.load_encoder", refuse)
    assert embed(shard, "again.parquet").read_bytes() == first


def test_identical_crops_are_embedded_once(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen video, and its copy under another name: one crop to embed."""
    own = {"person": "", "status": "ok", "crop": crop(1)}
    rows = [{"video": v, "frame": k + 1} | own for v in ("one", "two") for k in range(20)]
    rows[7]["crop"] = rows[27]["crop"] = crop(2)
    write_batches(shard / "faces.parquet", SCHEMA, [pa.Table.from_pylist(rows, SCHEMA)])
    shown: list[int] = []

    def watched(settings: Encoder, assets: Path, device: str) -> LoadedEncoder:
        encoder = load_encoder(settings, assets, device)

        def gather(pictures: list[np.ndarray], batch: int) -> torch.Tensor:
            shown.extend([1] * len(pictures))
            return encoder.gather(pictures, batch)

        return replace(encoder, gather=gather)

    monkeypatch.setattr("clipaffect.features.cached_batches.load_encoder", watched)
    features = np.stack(read_table(embed(shard))["feature"])
    assert len(shown) == 2
    assert len(np.unique(features, axis=0)) == 2
    assert [k for k, row in enumerate(features) if row.tobytes() != features[0].tobytes()] == [
        7,
        27,
    ]


def test_the_number_of_threads_changes_no_byte(shard: Path) -> None:
    first = embed(shard).read_bytes()
    other = shard / "other"
    other.mkdir()
    for name in ("faces.parquet", "manifest.parquet"):
        (other / name).write_bytes((shard / name).read_bytes())
    several = embed(other, settings=MICRO.model_copy(update={"workers": 4}))
    assert several.read_bytes() == first


def test_two_processes_embed_the_same_bytes_as_one_job_for_each_shard(shard: Path) -> None:
    expected = embed(shard).read_bytes()
    faces = []
    for name in ("0000", "0001", "0002"):
        faces.append(shard / "faces" / f"{name}.parquet")
        faces[-1].parent.mkdir(exist_ok=True)
        faces[-1].write_bytes((shard / "faces.parquet").read_bytes())
    out, store = shard / "embedded", Store(shard / "new-store")
    manifests = [shard / "manifest.parquet"] * 3
    embed_on_gpu(manifests, faces, MICRO, Path(), store, out, gpus=2)
    assert [path.name for path in sorted(out.iterdir())] == [path.name for path in faces]
    assert all(path.read_bytes() == expected for path in out.iterdir())


def test_a_mixture_of_devices_is_refused_before_the_work(
    shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies there is of today's settings, but of a GPU."""
    theirs = digest(encoder_record(MICRO, Path(), "cuda"))
    other = shard / "0003.parquet"
    write_batches(other, schema(8, theirs), [])

    def refuse(*_: object) -> None:
        raise AssertionError("the network was loaded")

    monkeypatch.setattr("clipaffect.features.cached_batches.load_encoder", refuse)
    with pytest.raises(UserError, match="shard 0003 was embedded on 'cuda'") as raised:
        embed(shard)
    assert "run all shards on one kind of machine" in raised.value.fix
    write_batches(other, schema(8, "of other settings"), [])
    monkeypatch.undo()
    embed(shard)


def test_a_killed_job_goes_on_where_it_stopped(
    shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []

    def dying(after: int):
        def load(settings: Encoder, assets: Path, device: str) -> LoadedEncoder:
            encoder = load_encoder(settings, assets, device)

            def run(inputs: torch.Tensor) -> torch.Tensor:
                if len(batches) == after:
                    raise KeyboardInterrupt
                batches.append(1)
                return encoder.embed(inputs)

            return replace(encoder, embed=run)

        return load

    # 200 and 100 rows in pieces of 128: 110, 61 and 86 crops, in batches of 8 are 14, 8 and 11.
    monkeypatch.setattr("clipaffect.features.cached_batches.load_encoder", dying(20))
    with pytest.raises(KeyboardInterrupt):
        embed(shard)
    assert not (shard / "embeddings.parquet").exists()
    monkeypatch.setattr("clipaffect.features.cached_batches.load_encoder", dying(-1))
    batches.clear()
    embed(shard)
    assert len(batches) == 8 + 11


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_too_little_memory_names_the_setting(
    shard: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(settings: Encoder, assets: Path, device: str) -> LoadedEncoder:
        def refuse(inputs: torch.Tensor) -> torch.Tensor:
            raise error

        return replace(load_encoder(settings, assets, device), embed=refuse)

    monkeypatch.setattr("clipaffect.features.cached_batches.load_encoder", full)
    with pytest.raises(UserError, match="out of memory for a batch of 8") as caught:
        embed(shard)
    assert caught.value.where == "encoders.<name>.batch"


def test_another_fault_of_the_device_is_not_taken_for_that(
    shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(settings: Encoder, assets: Path, device: str) -> LoadedEncoder:
        def refuse(inputs: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        return replace(load_encoder(settings, assets, device), embed=refuse)

    monkeypatch.setattr("clipaffect.features.cached_batches.load_encoder", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        embed(shard)


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
    write_table(folder / "labels.parquet", pd.DataFrame(rows))
    return folder / "labels.parquet"


def test_the_table_keeps_every_annotated_frame(shard: Path) -> None:
    build_table(labels(shard), [embed(shard)], shard / "table")
    rows = read_table(shard / "table/rows.parquet")
    assert len(rows) == 204
    counts = rows["status"].value_counts().to_dict()
    assert counts == {"ok": 172, "no_face": 29, "beyond_video": 3}
    split = read_split(shard / "table", EXPR, "train")
    embedded = read_table(shard / "embeddings.parquet").set_index(["video", "frame"])["feature"]
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
    with pytest.raises(UserError, match=f"2 encoders .* feature lengths {lengths}"):
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

    monkeypatch.setattr("clipaffect.features.cached_batches.load_encoder", broken)
    with pytest.raises(UserError, match="the feature of video 'one', frame 2 is not finite"):
        embed(shard)
    monkeypatch.undo()
    assert read_table(embed(shard))["feature"].notna().sum() == 257


def test_crops_in_another_order_get_their_own_features(tmp_path: Path) -> None:
    crops = [crop(k) for k in range(3)]
    with open_entries(MICRO, tmp_path, Store(tmp_path / "store")) as entries:
        first = entries.features(entries.entry(crops))
        turned = entries.features(entries.entry([crops[2], crops[0], crops[1], crops[2]]))
    assert turned.tobytes() == first[[2, 0, 1, 2]].tobytes()
