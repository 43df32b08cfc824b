"""Features of several encoders side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import ValidationError

from clipaffect.config import Config
from clipaffect.core.errors import UserError
from clipaffect.core.parquet import read_table, write_batches
from clipaffect.features.columns import schema
from clipaffect.features.join_features import join_features

ROWS = 300


def write(path: Path, length: int, scale: float, missing: dict[int, str], first: int = 1) -> Path:
    rng = np.random.default_rng(length)
    rows = []
    for k in range(ROWS):
        status = missing.get(k, "ok")
        feature = (rng.normal(size=length) * scale).astype(np.float16)
        rows.append(
            {
                "video": "v",
                "person": "",
                "frame": first + k,
                "status": status,
                "feature": feature if status == "ok" else None,
            }
        )
    kind = schema(length, f"encoder of {length}")
    write_batches(path, kind, [pa.Table.from_pylist(rows, kind)])
    return path


def test_each_part_is_there_at_one_scale(tmp_path: Path) -> None:
    a = write(tmp_path / "a.parquet", 6, 100.0, {3: "no_face"})
    b = write(tmp_path / "b.parquet", 10, 0.01, {3: "no_face", 200: "image_unreadable"})
    join_features([a, b], tmp_path / "ab.parquet")
    joined, left, right = (read_table(tmp_path / f"{n}.parquet") for n in ("ab", "a", "b"))
    keys = ["video", "person", "frame"]
    pd.testing.assert_frame_equal(joined[keys], left[keys])
    assert joined["status"][[2, 3, 200]].tolist() == ["ok", "no_face", "image_unreadable"]
    assert np.flatnonzero(joined["feature"].isna()).tolist() == [3, 200]
    for row in (0, 150, 299):
        feature = np.asarray(joined["feature"][row], float)
        for part, other in ((feature[:6], left), (feature[6:], right)):
            own = np.asarray(other["feature"][row], float)
            assert np.sqrt((part**2).mean()) == pytest.approx(1, abs=2e-3)
            assert np.corrcoef(part, own)[0, 1] == pytest.approx(1, abs=1e-4)


def test_the_order_is_another_encoder(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"{n}.parquet", n, 1.0, {}) for n in (4, 5)]
    import pyarrow.parquet as pq

    known = set()
    for name, order in (("x", parts), ("y", parts[::-1])):
        join_features(order, tmp_path / f"{name}.parquet")
        known.add(pq.read_schema(tmp_path / f"{name}.parquet").metadata[b"encoder"])
    assert len(known) == 2


@pytest.mark.parametrize("first", [2])
def test_files_of_other_rows_are_refused(tmp_path: Path, first: int) -> None:
    a = write(tmp_path / "a.parquet", 4, 1.0, {})
    b = write(tmp_path / "b.parquet", 5, 1.0, {}, first)
    with pytest.raises(UserError, match="do not have the same rows"):
        join_features([a, b], tmp_path / "ab.parquet")
    assert not (tmp_path / "ab.parquet").exists()


@pytest.mark.parametrize(
    ("join", "words"),
    [
        (
            {"both": ["tiny-clip", "dino"]},
            "names the unknown encoder 'dino'; available: tiny-clip, pixels",
        ),
        ({"both": ["pixels", "pixels"]}, "lists an encoder twice"),
        ({"pixels": ["tiny-clip", "pixels"]}, "'pixels' is used twice in"),
        ({"one": ["pixels"]}, "at least 2"),
    ],
)
def test_a_join_of_what_is_not_there_is_refused(join: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Config.model_validate({"features": {"join": join}})


def test_heads_can_be_trained_on_a_join() -> None:
    config = Config.model_validate(
        {"features": {"join": {"both": ["tiny-clip", "pixels"]}}, "encoder": "both"}
    )
    assert config.feature_names() == ["tiny-clip", "pixels", "both"]
    from clipaffect.ops.estimate import _dimension

    assert _dimension(config) == 256 + 28 * 28
