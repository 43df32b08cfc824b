"""Rule ``find_videos``: find the files to predict, and divide them into shards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from clipaffect.config.prediction import Prediction
from clipaffect.config.stage_keys import shard_names
from clipaffect.core.files import write_text
from clipaffect.core.frame_status import FrameStatus
from clipaffect.core.layout import Predictions
from clipaffect.core.parquet import write_table
from clipaffect.dataset.index_dataset import shard_of
from clipaffect.dataset.manifest import MANIFEST
from clipaffect.prediction.sources import find_sources, manifest


def find_videos(settings: Prediction, out: Path) -> None:
    """Write a manifest of each shard, and ``files.json`` with all files and their statuses so far.

    Raises:
        UserError: there is nothing to predict, or two files have the same name.
    """
    sources = find_sources([Path(path) for path in settings.videos])
    usable = [source for source in sources if source.outcome == FrameStatus.OK]
    listed = manifest(usable, settings.people)
    shard = np.array([shard_of(source.name, settings.shards) for source in usable], int)
    for number, name in enumerate(shard_names(settings.shards)):
        write_table(Predictions(out).manifest(name), listed[shard == number], MANIFEST)
    files = [{"name": source.name, "outcome": str(source.outcome)} for source in sources]
    write_text(Predictions(out).listing, json.dumps(files, indent=1) + "\n")
