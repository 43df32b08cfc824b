"""What a task's scores were made with, so that scores of two runs are never shown as one's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipaffect.digest import digest, file_digest
from clipaffect.errors import UserError
from clipaffect.tables import write_text

NAME = "source.json"


def source_of(settings: dict[str, Any], table: Path) -> dict[str, str]:
    """Digests of the stage's settings and of the annotated frames.

    Args:
        settings: what the rule passed to the stage.
        table: the folder of the table that was scored.
    """
    return {"settings": digest(settings), "frames": file_digest(table / "rows.parquet")}


def record_source(settings: dict[str, Any], table: Path, out: Path) -> None:
    """Write ``source.json`` beside the scores."""
    write_text(out / NAME, json.dumps(source_of(settings, table), indent=2) + "\n")


def check_source(settings: dict[str, Any], table: Path, scores: Path) -> None:
    """Raise a UserError if the scores in a folder were made with other settings or frames."""
    expected = source_of(settings, table)
    found = json.loads((scores / NAME).read_text())
    for what, fingerprint in expected.items():
        if found[what] != fingerprint:
            raise UserError(
                f"these scores belong to another run: the fingerprint of their {what} is "
                f"{found[what][:16]}, this run's is {fingerprint[:16]}",
                where=scores,
                mend="remove the folder and run again: finished heads come from the work store",
            )
