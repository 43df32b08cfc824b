"""Rule ``list_studies``: the page that lists the studies of a run."""

from __future__ import annotations

import json
from pathlib import Path

from clipaffect.core.files import write_text
from clipaffect.report.pages import page_environment


def list_studies(run: str, studies: list[Path], wrong: dict[str, str], out: Path) -> None:
    """Write the page that lists every study with its answer.

    Args:
        run: the run's name.
        studies: ``answer.json`` of each.
        wrong: by name, why others could not be run.
        out: the page, beside the studies' folders.
    """
    rows = [{"name": p.parent.name} | json.loads(p.read_text()) for p in studies]
    page = page_environment().get_template("studies.html").render(run=run, rows=rows, wrong=wrong)
    write_text(out, page)
