"""Record the provenance of a task's scores, so that scores of two runs are never mixed."""

from __future__ import annotations

import json
from typing import Any

from clipaffect.core.errors import UserError
from clipaffect.core.files import read_json, write_text
from clipaffect.core.hashing import digest, file_digest
from clipaffect.core.layout import Evaluation, Table


def provenance(settings: dict[str, Any], table: Table) -> dict[str, str]:
    """Digests of the stage's settings and of the annotated frames.

    Args:
        settings: what the rule passed to the stage.
        table: the one that was scored.
    """
    return {"settings": digest(settings), "frames": file_digest(table.rows)}


def write_provenance(settings: dict[str, Any], table: Table, scores: Evaluation) -> None:
    """Write ``source.json`` next to the scores."""
    write_text(scores.provenance, json.dumps(provenance(settings, table), indent=2) + "\n")


def check_provenance(settings: dict[str, Any], table: Table, scores: Evaluation) -> None:
    """Raise a UserError if the scores in a folder were made with other settings or frames."""
    expected = provenance(settings, table)
    found = read_json(scores.provenance)
    for what, fingerprint in expected.items():
        if found[what] != fingerprint:
            raise UserError(
                f"these scores belong to another run: their {what} have the fingerprint "
                f"{found[what][:16]}, those of this run {fingerprint[:16]}",
                where=scores.folder,
                fix="remove the folder and run again; finished heads come from the store",
            )
