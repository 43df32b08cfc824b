"""Prediction as stages of the workflow: files are dealt to shards for the chain's own rules."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipaffect.config.prediction import Prediction
from clipaffect.dataset.index import shard_of
from clipaffect.dataset.manifest import MANIFEST, PICTURE
from clipaffect.outcomes import Outcome
from clipaffect.prediction.outputs import summary_row, write_outputs, write_summary
from clipaffect.prediction.rows import predict_rows
from clipaffect.prediction.sources import IMAGES, find_sources, manifest
from clipaffect.prediction.work import Wanted, features_of
from clipaffect.stages import shard_names
from clipaffect.tables import read_frame, write_frame, write_text

FILES, SHARD = "files.json", "shard.json"


def find_videos(settings: Prediction, out: Path) -> None:
    """Write a manifest of each shard, and ``files.json``: every file and what became of it so far.

    Raises:
        UserError: nothing to predict, or two files of one name.
    """
    sources = find_sources([Path(path) for path in settings.videos])
    usable = [source for source in sources if source.outcome == Outcome.OK]
    listed = manifest(usable, settings.people)
    shard = np.array([shard_of(source.name, settings.shards) for source in usable], int)
    for number, name in enumerate(shard_names(settings.shards)):
        write_frame(out / "manifests" / f"{name}.parquet", listed[shard == number], MANIFEST)
    files = [{"name": source.name, "outcome": str(source.outcome)} for source in sources]
    write_text(out / FILES, json.dumps(files, indent=1) + "\n")


def answer_shard(
    wanted: Wanted, manifest_file: Path, faces: Path, embeddings: dict[str, Path], out: Path
) -> None:
    """Write the outputs of every file of a shard into the folder ``out``, each in its own.

    Args:
        wanted: what is asked.
        manifest_file: the shard's files.
        faces: the shard's faces, as the run's crops.
        embeddings: by encoder of the bundle.
        out: a folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    listed = read_frame(manifest_file)
    rows: list[dict[str, Any]] = []
    folders: dict[str, str] = {}
    if len(listed):
        with tempfile.TemporaryDirectory(dir=out) as folder:
            features = features_of(wanted.opened.bundle, embeddings, Path(folder))
            found = predict_rows(wanted.opened, faces, features, wanted.people)
        for start, stop, names in _stretches(found.rows["video"], listed):
            one = listed[listed["video"] == names[0]].iloc[0]
            images = one["kind"] == PICTURE
            folder = IMAGES if images else str(one["video"])
            video = None if images else Path(one["path"])
            rows += write_outputs(found, start, stop, out / folder, wanted, video)
            folders |= dict.fromkeys(names, folder)
    write_text(out / SHARD, json.dumps({"rows": rows, "folders": folders}, indent=1) + "\n")


def _stretches(videos: pd.Series, listed: pd.DataFrame) -> list[tuple[int, int, list[str]]]:
    """First row, row behind the last and names of each video, and of all images together."""
    pictures = set(listed["video"][listed["kind"] == PICTURE])
    unit = videos.where(~videos.isin(pictures), IMAGES + "/")  # no file is called so
    begins = np.flatnonzero(unit.ne(unit.shift()).to_numpy())
    ends = [*begins[1:].tolist(), len(unit)]
    return [
        (start, stop, list(videos.iloc[start:stop].unique()))
        for start, stop in zip(begins.tolist(), ends, strict=True)
    ]


def list_answers(wanted: Wanted, files: Path, shards: list[Path], out: Path) -> None:
    """Write the summary of all shards and the page that leads to theirs into ``out``."""
    rows: dict[str, dict[str, Any]] = {}
    folders: dict[str, str] = {}
    for shard in shards:
        found = json.loads((shard / SHARD).read_text(encoding="utf-8"))
        rows |= {row["file"]: row for row in found["rows"]}
        folders |= {name: f"{shard.name}/{own}" for name, own in found["folders"].items()}
    listed = json.loads(files.read_text(encoding="utf-8"))
    in_order = [
        rows.get(file["name"]) or summary_row(file["name"], Outcome(file["outcome"]))
        for file in listed
    ]
    write_summary(in_order, folders, wanted, out)
