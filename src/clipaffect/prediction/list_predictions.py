"""Rule ``list_predictions``: the summary of all shards, and the page that links to each video."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipaffect.core.frame_status import FrameStatus
from clipaffect.prediction.outputs import summary_row, write_summary
from clipaffect.prediction.pipeline import Wanted
from clipaffect.prediction.predict_shard import SHARD


def list_predictions(wanted: Wanted, files: Path, shards: list[Path], out: Path) -> None:
    """Write the summary of all shards, and the page that links to their pages, to ``out``."""
    rows: dict[str, dict[str, Any]] = {}
    folders: dict[str, str] = {}
    for shard in shards:
        found = json.loads((shard / SHARD).read_text(encoding="utf-8"))
        rows |= {row["file"]: row for row in found["rows"]}
        folders |= {name: f"{shard.name}/{own}" for name, own in found["folders"].items()}
    listed = json.loads(files.read_text(encoding="utf-8"))
    in_order = [
        rows.get(file["name"]) or summary_row(file["name"], FrameStatus(file["outcome"]))
        for file in listed
    ]
    write_summary(in_order, folders, wanted, out)
