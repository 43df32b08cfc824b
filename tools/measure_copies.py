"""Measure how many made copies ``find_copies`` finds, and how many other pairs it calls copies.

Copies of validation clips of the demo are made: re-encoded at low quality, rescaled, cut, shifted,
mirrored, and all of it at once. Faces are found and embedded as in a run, and the copies take the
place of the validation recordings. The demo has 227 recordings of 240 different people, and no
recording twice; so every other pair that is found is a mistake. Needs a finished run of the demo.

    python tools/measure_copies.py [clips]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import torch

from clipaffect.config.faces import Faces
from clipaffect.config.load import load_config
from clipaffect.core.layout import Layout
from clipaffect.core.parquet import read_table, write_table
from clipaffect.core.video import read_frames
from clipaffect.encoders.registry import LoadedEncoder, load_encoder
from clipaffect.faces.face_rows import cut_face
from clipaffect.faces.finder import FaceFinder, FaceFollower
from clipaffect.features.batches import embed_crops
from clipaffect.features.build_table import table_features
from clipaffect.features.find_copies import SHORTEST, find_copies

ROOT = Path(__file__).resolve().parents[1]
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


def encode(pictures: Pictures, path: Path, quality: int) -> None:
    """Write H.264; an odd last row or column is lost."""
    height, width = (side - side % 2 for side in pictures[0].shape[:2])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": str(quality)}
        for picture in pictures:
            own = np.ascontiguousarray(picture[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(own, "rgb24")))
        container.mux(stream.encode())


def embed(path: Path, finder: FaceFinder, encoder: LoadedEncoder) -> tuple[list[int], np.ndarray]:
    """Frame numbers and features of the first face in a video."""
    follower, numbers, crops = FaceFollower(finder), [], []
    for frame in read_frames(path):
        pixels = np.asarray(frame.pixels)
        found = follower(pixels)
        if found:
            numbers.append(frame.number)
            crops.append(cut_face(pixels, found[0][1], Faces())[0])
    return numbers, embed_crops(crops, encoder) if crops else np.zeros((0, 1))


def main() -> None:
    """Print a Markdown table of the share of copies found, and the number of mistakes."""
    torch.set_num_threads(1)
    clips = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    config = load_config(ROOT / "config/config.yaml")
    table = Layout(ROOT / "results/demo").table(config.encoder, "EXPR").folder
    rows = read_table(table / "rows.parquet").astype({"split": str, "video": str, "person": str})
    rows = rows[rows["feature_row"] >= 0]
    features = table_features(table)[rows["feature_row"].to_numpy()]
    rows = rows[["split", "video", "person", "frame"]].assign(split="train")
    videos = sorted((ROOT / "resources/demo/videos").glob("*.mp4"))
    chosen = [videos[k] for k in np.random.default_rng(0).permutation(len(videos))[:clips]]
    encoder = load_encoder(config.encoders[config.encoder], ROOT / "assets", "cpu")
    finder = FaceFinder(ROOT / "assets", Faces())
    print("| change | copies | found | other pairs | mistakes |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        copy, made = Path(folder) / "copy.mp4", Path(folder) / "table"
        for name, (change, quality) in CHANGES.items():
            parts, added = [rows], [features]
            for video in chosen:
                pictures = change([np.asarray(frame.pixels) for frame in read_frames(video)])
                if len(pictures) < SHORTEST:
                    continue
                encode(pictures, copy, quality)
                numbers, found = embed(copy, finder, encoder)
                if len(numbers) >= SHORTEST:
                    keys = {"split": "validation", "video": video.stem, "person": ""}
                    parts.append(pd.DataFrame({"frame": numbers}).assign(**keys))
                    added.append(found.astype(np.float16))
            every = pd.concat(parts, ignore_index=True)
            write_table(made / "rows.parquet", every.assign(feature_row=np.arange(len(every))))
            np.save(made / "features.npy", np.concatenate(added))
            find_copies([made], "report", [made / "copies.parquet"])
            pairs = read_table(made / "copies.parquet")
            right = pairs[pairs["video"] == pairs["other_video"]]["video"].nunique()
            wrong = int((pairs["video"] != pairs["other_video"]).sum())
            copies = len(parts) - 1
            others = copies * (rows["video"].nunique() - 1)
            print(
                f"| {name} | {copies} | {right / copies:.2f} | {others:,} | {wrong} |", flush=True
            )


if __name__ == "__main__":
    main()
