"""Recordings that are in two splits: made copies are found, look-alikes are not."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from clipaffect.core.errors import UserError
from clipaffect.core.frame_status import KEYS
from clipaffect.core.parquet import read_table, write_table
from clipaffect.core.tasks import EXPR
from clipaffect.evaluation.fold_data import Fold, Scored
from clipaffect.evaluation.metrics_table import copied_frames, tidy_rows
from clipaffect.faces.face_rows import SCHEMA as SHARD
from clipaffect.features.find_copies import (
    SCHEMA,
    Recording,
    Spectra,
    best_shifts,
    copy_in_words,
    find_copies,
)

D = 12


def walk(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Features (frames, D) that change slowly, as those of a face do."""
    steps = rng.normal(size=(frames + 8, D))
    return np.stack([np.convolve(steps[:, k], np.ones(9) / 3, "valid") for k in range(D)], axis=1)


def table(folder: Path, recordings: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]) -> Path:
    """A table of recordings (split, video): their frame numbers, and features of these."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [
        pd.DataFrame({"split": split, "video": video, "person": "", "frame": frames})
        for (split, video), (frames, _) in recordings.items()
    ]
    rows = pd.concat(parts, ignore_index=True)
    rows = rows.assign(feature_row=np.arange(len(rows)))
    write_table(folder / "rows.parquet", rows)
    features = np.concatenate([values for _, values in recordings.values()])
    np.save(folder / "features.npy", features.astype(np.float16))
    return folder


def search(folder: Path, mode: str = "report") -> pd.DataFrame:
    find_copies([folder], [], mode, [folder / "copies.parquet"])
    return read_table(folder / "copies.parquet")


def test_the_best_shift_is_that_of_a_loop_over_all_shifts() -> None:
    rng = np.random.default_rng(0)

    def recording(values: np.ndarray, known: np.ndarray) -> Recording:
        known = known.astype(np.float32)
        return Recording("s", "v", "", (values * known[:, None]).astype(np.float32), known)

    one = recording(rng.normal(size=(60, D)), rng.random(60) < 0.9)
    others = [recording(rng.normal(size=(n, D)), rng.random(n) < 0.8) for n in (45, 60, 100)]
    shifts = best_shifts(Spectra([one], 256), Spectra(others, 256))
    for other, found, overlap, shift in zip(others, *shifts, strict=True):
        best = (-1.0, 0, 0)
        for lag in range(-59, len(other.known)):
            at = np.arange(max(0, -lag), min(60, len(other.known) - lag))
            both = at[(one.known[at] > 0) & (other.known[at + lag] > 0)]
            fewest = max(16, 0.5 * min(one.known.sum(), other.known.sum()))
            if len(both) < fewest:
                continue
            # Energy is that of the moments at which the other one is known.
            a, b = one.values[both], other.values[both + lag]
            value = (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())
            best = max(best, (float(value), len(both), lag))
        assert found == pytest.approx(best[0], abs=1e-5)
        assert (overlap, shift) == best[1:]


def test_copies_are_found_with_their_frames_and_look_alikes_are_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    person = rng.normal(size=D) * 5  # what one person's recordings have in common
    recordings = {}
    for number in range(8):
        values = walk(rng, 120) + person * (number < 4)
        recordings["train", f"t{number}"] = (np.arange(1, 121), values)
    noise = 0.3
    shown = recordings["train", "t0"][1]
    recordings["validation", "cut"] = (
        np.arange(1, 71),
        shown[30:100] + rng.normal(size=(70, D)) * noise,
    )
    with_gaps = np.flatnonzero(rng.random(120) < 0.8)
    recordings["validation", "gaps"] = (
        with_gaps + 1,
        recordings["train", "t5"][1][with_gaps] + rng.normal(size=(len(with_gaps), D)) * noise,
    )
    for number in range(6):  # the same person, and others, in recordings of their own
        values = walk(rng, 120) + person * (number < 3)
        recordings["validation", f"v{number}"] = (np.arange(1, 121), values)
    found = search(table(tmp_path, recordings)).set_index("video")
    assert sorted(found.index) == ["cut", "gaps"]
    cut = found.loc["cut"]
    assert (cut["other_video"], cut["shift"], cut["first"], cut["last"]) == ("t0", 30, 1, 70)
    assert cut["split"] == "validation"
    gaps = found.loc["gaps"]
    assert (gaps["other_video"], gaps["shift"]) == ("t5", 0)
    assert (gaps["first"], gaps["last"]) == (with_gaps[0] + 1, with_gaps[-1] + 1)


def test_long_recordings_are_averaged_over_frames(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    recordings = {
        ("train", f"t{k}"): (np.arange(1, 2001), np.repeat(walk(rng, 500), 4, axis=0))
        for k in range(16)
    }
    recordings["validation", "other"] = (np.arange(1, 2001), np.repeat(walk(rng, 500), 4, axis=0))
    copied = recordings["train", "t1"][1][402:1500]
    recordings["validation", "v"] = (np.arange(1, len(copied) + 1), copied)
    (found,) = search(table(tmp_path, recordings)).to_dict("records")
    assert found["other_video"] == "t1"
    assert abs(found["shift"] - 402) <= 4
    assert found["correlation"] > 0.9


def test_copies_can_be_refused_or_not_looked_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    values = (np.arange(1, 81), walk(rng, 80))
    recordings = {("train", f"t{k}"): (values[0], walk(rng, 80)) for k in range(15)}
    recordings |= {("validation", f"v{k}"): (values[0], walk(rng, 80)) for k in range(3)}
    copies = {("train", "a"): values, ("validation", "c"): values}
    folder = table(tmp_path, recordings | copies)
    assert len(search(folder)) == 1
    with pytest.raises(UserError, match=r"frames 1 to 80 of c \(validation\) and a \(train"):
        search(folder, "refuse")
    assert search(folder, "off").empty


def test_too_little_to_compare_is_no_copy_and_no_crash(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    few = {("train", "a"): (np.arange(1, 61), walk(rng, 60))}
    few["validation", "b"] = few["train", "a"]  # one pair: chance is not known
    assert search(table(tmp_path / "pair", few)).empty
    assert search(
        table(tmp_path / "short", {("train", "a"): (np.arange(1, 9), walk(rng, 8))})
    ).empty
    flat = {
        (split, f"v{k}"): (np.arange(1, 41), np.ones((40, 1)))
        for split in ("train", "validation")
        for k in range(6)
    }
    assert search(table(tmp_path / "flat", flat)).empty
    apart = {("train", "a"): (np.array([*range(1, 40), 2**31 - 2]), walk(rng, 40))}
    assert search(table(tmp_path / "apart", apart | few)).empty


def scene(rng: np.random.Generator) -> np.ndarray:
    """(64, 64) uint8 soft shapes."""
    coarse = cv2.resize(rng.normal(size=(8, 8)), (64, 64), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 50 * coarse, 0, 255).astype(np.uint8)


def jpeg(picture: np.ndarray, quality: int = 95) -> bytes:
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


CHANGES = {
    "low quality": lambda p: jpeg(p, 15),
    "mirrored": lambda p: jpeg(p[:, ::-1]),
    "small": lambda p: jpeg(cv2.resize(p, (38, 38), interpolation=cv2.INTER_AREA)),
    "bright": lambda p: jpeg(np.clip(p * 1.2 + 20, 0, 255).astype(np.uint8)),
    "cut": lambda p: jpeg(p[2:-2, 2:-2]),
}


def test_copies_of_images_are_found_and_look_alikes_are_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    shown = [scene(rng) for _ in range(60)]
    images = {("train", f"t{k}", 1): jpeg(picture) for k, picture in enumerate(shown)}
    images |= {
        ("validation", name, 1): change(shown[k])
        for k, (name, change) in enumerate(CHANGES.items())
    }
    for k in range(20):  # as two pictures of one person
        alike = np.clip(0.7 * (shown[k + 20] - 128.0) + 0.7 * (scene(rng) - 128.0) + 128, 0, 255)
        images["validation", f"alike{k}", 1] = jpeg(alike.astype(np.uint8))
    images |= {("validation", "clip", 5 + k): jpeg(shown[50 + k], 30) for k in range(4)}
    images |= {("train", "copy", 9 + k): jpeg(shown[50 + k], 60) for k in range(4)}
    keys = pd.DataFrame(list(images), columns=["split", "video", "frame"]).assign(person="")
    keys = keys.sort_values(["video", "frame"], ignore_index=True)
    crops = [images[tuple(key)] for key in keys[["split", "video", "frame"]].to_numpy()]
    rows = keys.assign(feature_row=np.arange(len(keys)))
    write_table(tmp_path / "rows.parquet", rows)
    np.save(tmp_path / "features.npy", rng.normal(size=(len(rows), D)).astype(np.float16))
    schema = pa.schema([SHARD.field(name) for name in (*KEYS, "image", "crop")])
    for shard, part in enumerate(np.array_split(np.arange(len(keys)), 2)):
        own = keys.iloc[part].assign(crop=[crops[k] for k in part], image=None)
        write_table(tmp_path / f"{shard}.parquet", own[schema.names], schema)
    shards = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    find_copies([tmp_path], shards, "report", [tmp_path / "copies.parquet"])
    found = read_table(tmp_path / "copies.parquet").set_index(["video", "other_video"])
    expected = {(name, f"t{k}") for k, name in enumerate(CHANGES)} | {("clip", "copy")}
    expected |= {("clip", f"t{50 + k}") for k in range(4)}
    assert set(found.index) == expected
    clip = found.loc["clip", "copy"]
    assert (clip["first"], clip["last"], clip["shift"]) == (5, 8, 4)
    assert (found["correlation"] > 0.9).all()
    assert set(found["split"]) == {"validation"}


def test_scores_are_given_on_copied_frames_and_off_them() -> None:
    rows = pd.DataFrame({"group": "g", "video": "v", "person": "", "frame": np.arange(1, 41)})
    copy = {
        "split": "validation",
        "video": "v",
        "person": "",
        "first": 11,
        "last": 20,
        "other_split": "train",
        "other_video": "t",
        "other_person": "",
        "shift": 5,
        "correlation": 0.9,
    }
    copies = pd.DataFrame([copy])
    assert set(copies.columns) == set(SCHEMA.names)
    at = copied_frames(rows, copies)
    assert np.flatnonzero(at).tolist() == list(range(10, 20))
    other = rows.assign(video="t")
    assert np.flatnonzero(copied_frames(other, copies)).tolist() == list(range(15, 25))
    # Every copied frame is right, and no other is.
    labels = (np.arange(40) % 8)[:, None]
    decided = np.where(at, labels[:, 0], (labels[:, 0] + 1) % 8)
    fold = Fold(0, 40, rows, labels, None, None, labels)  # type: ignore[arg-type]
    scored = Scored(None, {0: np.eye(8)[decided]})  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipaffect.evaluation.metrics_table.score_columns", lambda _: {})
        found = {row["metric"]: row["value"] for row in tidy_rows(scored, [fold], EXPR, copies)}
    assert found["copied_frames"] == 10
    assert found["macro_f1_on_copies"] == pytest.approx(1.0)
    assert found["macro_f1_off_copies"] == 0
    assert "frames 11 to 20 of v (validation)" in copy_in_words(copy)
