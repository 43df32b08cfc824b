"""Measure how many made copies ``find_copies`` finds, and how many other pairs it calls copies.

Copies of clips of the demo are made: re-encoded at low quality, rescaled, cut, shifted, mirrored,
and all of it at once. Faces are found and embedded as in a run, and the copies take the place of
the validation recordings. The demo has 227 recordings of 240 different people, and no recording
twice; so every other pair that is found is a mistake. As look-alikes, people of these clips are
rendered on a second occasion, with another script, camera and background. Single images are frames
of the same clips, changed in the same ways. Needs a finished run of the demo.

    python tools/measure_copies.py [clips]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from clipaffect.config.faces import Faces
from clipaffect.config.load import load_config
from clipaffect.core.frame_status import KEYS
from clipaffect.core.layout import Layout
from clipaffect.core.parquet import read_table, write_batches, write_table
from clipaffect.core.video import read_frames
from clipaffect.encoders.registry import load_encoder
from clipaffect.faces.face_rows import SCHEMA, cut_face
from clipaffect.faces.finder import FaceFinder, FaceFollower
from clipaffect.features.batches import embed_crops
from clipaffect.features.build_table import table_features
from clipaffect.features.find_copies import SHORTEST, find_copies
from clipaffect.synthetic.make_data import (
    SECONDS,
    SEED,
    TRAIN_PEOPLE,
    VALIDATION_PEOPLE,
    make_clip,
    plan,
)

ROOT = Path(__file__).resolve().parents[1]
CROPS = pa.schema([SCHEMA.field(name) for name in (*KEYS, "image", "crop")])
COPY = "copy of "  # before the name of what was copied
Pictures = list[np.ndarray]


def smaller(pictures: Pictures) -> Pictures:
    """At 60 % of width and height."""
    return [cv2.resize(p, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA) for p in pictures]


def mirrored(pictures: Pictures) -> Pictures:
    """Left and right exchanged."""
    return [p[:, ::-1] for p in pictures]


# The change, and x264's quality (23 is the default; higher is worse).
CHANGES: dict[str, tuple[Callable[[Pictures], Pictures], int]] = {
    "re-encoded at CRF 36": (lambda p: p, 36),
    "rescaled to 60 %": (smaller, 23),
    "middle half": (lambda p: p[len(p) // 4 : 3 * len(p) // 4], 26),
    "without the first 7 frames": (lambda p: p[7:], 26),
    "mirrored": (mirrored, 26),
    "mirrored, 60 %, cut, CRF 32": (lambda p: smaller(mirrored(p[5:-5])), 32),
}


def as_jpeg(quality: int) -> Callable[[np.ndarray], np.ndarray]:
    """Compressed and read again."""

    def change(picture: np.ndarray) -> np.ndarray:
        _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR))

    return change


IMAGE_CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "JPEG of quality 40": as_jpeg(40),
    "JPEG of quality 15": as_jpeg(15),
    "rescaled to 60 %": lambda p: smaller([p])[0],
    "mirrored": lambda p: np.ascontiguousarray(p[:, ::-1]),
    "brighter": lambda p: np.clip(p * 1.2 + 10, 0, 255).astype(np.uint8),
    "grey": lambda p: np.repeat(p.mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8),
    "edges cut": lambda p: np.ascontiguousarray(p[p.shape[0] // 20 :, p.shape[1] // 20 :]),
    "mirrored, 60 %, quality 40": lambda p: as_jpeg(40)(smaller(mirrored([p]))[0]),
}


def encode(pictures: Pictures, path: Path, quality: int) -> None:
    """Write H.264; an odd last row or column is lost."""
    path.parent.mkdir(exist_ok=True)
    height, width = (side - side % 2 for side in pictures[0].shape[:2])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": str(quality)}
        for picture in pictures:
            own = np.ascontiguousarray(picture[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(own, "rgb24")))
        container.mux(stream.encode())


def crops_of(pictures: Iterable[np.ndarray], finder: FaceFinder) -> dict[int, bytes]:
    """The crop of the first face in each picture that has one, by the number of the picture."""
    follower, crops = FaceFollower(finder), {}
    for number, picture in enumerate(pictures, 1):
        found = follower(picture)
        if found:
            crops[number] = cut_face(picture, found[0][1], Faces())[0]
    return crops


class Recordings:
    """Recordings of both splits: their rows, and their features or crops."""

    def __init__(self) -> None:
        self.rows: list[pd.DataFrame] = []
        self.values: list[np.ndarray] = []
        self.crops: list[bytes] = []

    def add(
        self,
        split: str,
        video: str,
        frames: Sequence[int],
        values: np.ndarray,
        crops: Sequence[bytes] = (),
    ) -> None:
        """One recording."""
        keys = {"split": split, "video": video, "person": ""}
        self.rows.append(pd.DataFrame({"frame": frames}).assign(**keys))
        self.values.append(values)
        self.crops += crops

    def copies(self, folder: Path) -> pd.DataFrame:
        """What ``find_copies`` finds among them."""
        rows = pd.concat(self.rows, ignore_index=True)
        write_table(folder / "rows.parquet", rows.assign(feature_row=np.arange(len(rows))))
        np.save(folder / "features.npy", np.concatenate(self.values))
        if self.crops:
            shard = rows.assign(crop=self.crops, image=None)[CROPS.names]
            table = pa.Table.from_pandas(shard, CROPS, preserve_index=False)
            write_batches(folder / "0.parquet", CROPS, [table])
        shards = [folder / "0.parquet"] if self.crops else []
        find_copies([folder], shards, "report", [folder / "copies.parquet"])
        return read_table(folder / "copies.parquet")


def counted(name: str, copies: int, pairs: int, found: pd.DataFrame) -> str:
    """A row of the table."""
    is_right = found["video"].str.removeprefix(COPY) == found["other_video"]
    right = found[is_right]["video"].nunique()
    share = f"{right / copies:.2f}" if copies else "\N{EN DASH}"
    return f"| {name} | {copies} | {share} | {pairs:,} | {int((~is_right).sum())} |"


def measure_videos(chosen: list[Path], folder: Path, finder: FaceFinder) -> Iterator[str]:
    """The rows of the table for recordings."""
    config = load_config(ROOT / "config/config.yaml")
    encoder = load_encoder(config.encoders[config.encoder], ROOT / "assets", "cpu")
    table = Layout(ROOT / "results/demo").table(config.encoder, "EXPR").folder
    rows = read_table(table / "rows.parquet").astype({"split": str, "video": str, "person": str})
    rows = rows[rows["feature_row"] >= 0]
    features = table_features(table)[rows["feature_row"].to_numpy()]
    rows = rows[["split", "video", "person", "frame"]].assign(split="train")
    videos = rows["video"].nunique()

    def found_among(made: list[tuple[str, Path]]) -> tuple[int, pd.DataFrame]:
        every = Recordings()
        every.rows, every.values = [rows], [features]
        for name, path in made:
            crops = crops_of((np.asarray(f.pixels) for f in read_frames(path)), finder)
            if len(crops) >= SHORTEST:
                values = embed_crops(list(crops.values()), encoder).astype(np.float16)
                every.add("validation", name, list(crops), values)
        return len(every.rows) - 1, every.copies(folder / "videos")

    for name, (change, quality) in CHANGES.items():
        made = []
        for video in chosen:
            pictures = change([np.asarray(frame.pixels) for frame in read_frames(video)])
            if len(pictures) >= SHORTEST:
                encode(pictures, folder / name / video.name, quality)
                made.append((COPY + video.stem, folder / name / video.name))
        copies, found = found_among(made)
        yield counted(name, copies, copies * (videos - 1), found)
    rig, names = ROOT / "resources/demo/head_rig.npz", {video.stem for video in chosen}
    second = [
        replace(clip, number=clip.number + 1000)
        for clip in plan(TRAIN_PEOPLE, VALIDATION_PEOPLE, SECONDS, SEED)
        if any(name.startswith(f"{clip.number}-") for name in names)
    ]
    made = []
    for clip in second:
        name, _ = make_clip(clip, rig, folder / "second")
        made.append((f"second occasion {name}", folder / f"second/videos/{name}.mp4"))
    recordings, found = found_among(made)
    yield counted("the same people on a second occasion", 0, recordings * videos, found)


def measure_images(videos: list[Path], folder: Path, finder: FaceFinder) -> Iterator[str]:
    """The rows of the table for single images: four frames of each clip, 150 of them copied."""
    images: dict[str, tuple[np.ndarray, bytes]] = {}
    for video in videos:
        pictures = [np.asarray(frame.pixels) for frame in read_frames(video)]
        for share in (0.1, 0.35, 0.6, 0.85):
            picture = pictures[int(len(pictures) * share)]
            for crop in crops_of([picture], finder).values():
                images[f"{video.stem} at {share}"] = picture, crop
    chosen = np.random.default_rng(0).permutation(sorted(images))[:150].tolist()

    def found_among(copied: dict[str, bytes], shown: list[str]) -> pd.DataFrame:
        every = Recordings()
        none = np.zeros((1, 1), np.float16)
        for name in shown:
            every.add("train", name, [1], none, [images[name][1]])
        for name, crop in copied.items():
            every.add("validation", COPY + name, [1], none, [crop])
        return every.copies(folder / "images")

    for change, edit in IMAGE_CHANGES.items():
        crops = {name: crops_of([edit(images[name][0])], finder) for name in chosen}
        copied = {name: next(iter(found.values())) for name, found in crops.items() if found}
        found = found_among(copied, list(images))
        # Another frame of the same clip may be nearly the same picture.
        alike = [a.split(" at ")[0] == b.split(" at ")[0] for a, b in _pairs(found)]
        is_other = found["video"].str.removeprefix(COPY) != found["other_video"]
        found = found[~(is_other & np.array(alike, bool))]
        yield counted(f"image: {change}", len(copied), len(copied) * (len(images) - 4), found)


def _pairs(found: pd.DataFrame) -> Iterator[tuple[str, str]]:
    return zip(found["video"].str.removeprefix(COPY), found["other_video"], strict=True)


def main() -> None:
    """Print a Markdown table of the share of copies found, and the number of mistakes."""
    torch.set_num_threads(1)
    clips = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    videos = sorted((ROOT / "resources/demo/videos").glob("*.mp4"))
    chosen = [videos[k] for k in np.random.default_rng(0).permutation(len(videos))[:clips]]
    finder = FaceFinder(ROOT / "assets", Faces())
    print("| change | copies | found | other pairs | mistakes |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for line in measure_images(videos, Path(name), finder):
            print(line, flush=True)
        for line in measure_videos(chosen, Path(name), finder):
            print(line, flush=True)


if __name__ == "__main__":
    main()
