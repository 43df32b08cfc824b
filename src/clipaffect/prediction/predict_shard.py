"""Rule ``predict_shard``: predictions for all files of a shard."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipaffect.core.files import write_text
from clipaffect.core.names import path_of
from clipaffect.core.parquet import read_table
from clipaffect.dataset.manifest import PICTURE, VIDEO
from clipaffect.prediction.outputs import write_outputs
from clipaffect.prediction.pipeline import Wanted, features_of
from clipaffect.prediction.prediction_table import predict_rows
from clipaffect.prediction.sources import IMAGES, output_folders

SHARD = "shard.json"


def predict_shard(
    wanted: Wanted, manifest_file: Path, faces: Path, embeddings: dict[str, Path], out: Path
) -> None:
    """Write the outputs of all files of a shard to ``out``, each in a separate folder.

    Args:
        wanted: what is requested.
        manifest_file: the shard's files.
        faces: the shard's faces, as the run's crops.
        embeddings: by encoder of the bundle.
        out: a folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    listed = read_table(manifest_file)
    rows: list[dict[str, Any]] = []
    folders: dict[str, str] = {}
    named = output_folders(listed["video"][listed["kind"] == VIDEO].tolist())
    if len(listed):
        with tempfile.TemporaryDirectory(dir=out) as folder:
            features = features_of(wanted.opened.bundle, embeddings, Path(folder))
            found = predict_rows(wanted.opened, faces, features, wanted.people)
        for start, stop, names in _stretches(found.rows["video"], listed):
            one = listed[listed["video"] == names[0]].iloc[0]
            images = one["kind"] == PICTURE
            folder = IMAGES if images else named[one["video"]]
            video = None if images else path_of(one["path"])
            rows += write_outputs(found, start, stop, out / folder, wanted, video)
            folders |= dict.fromkeys(names, folder)
    write_text(out / SHARD, json.dumps({"rows": rows, "folders": folders}, indent=1) + "\n")


def _stretches(videos: pd.Series, listed: pd.DataFrame) -> list[tuple[int, int, list[str]]]:
    """First row, end row and names of each video, and of all images together."""
    pictures = set(listed["video"][listed["kind"] == PICTURE])
    unit = videos.where(~videos.isin(pictures), IMAGES + "/")  # no file is called so
    begins = np.flatnonzero(unit.ne(unit.shift()).to_numpy())
    ends = [*begins[1:].tolist(), len(unit)]
    return [
        (start, stop, list(videos.iloc[start:stop].unique()))
        for start, stop in zip(begins.tolist(), ends, strict=True)
    ]
