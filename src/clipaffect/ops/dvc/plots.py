"""DVC's plots of a run as one page that needs no network."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from clipaffect.config import load_config
from clipaffect.core.layout import Layout
from clipaffect.ops.dvc.record import call
from clipaffect.report.figures import script

# DVC's own page loads Vega from jsdelivr.net; "plot_divs" is DVC's word.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Plots</title><script>{script}</script></head>
<body>{{plot_divs}}</body>
</html>
"""


def plot_scores(configfile: Path, revision: str, out: Path) -> Path:
    """Plot the scores of a run next to those of a commit; returns the page.

    Args:
        configfile: of the run.
        revision: a commit, branch or tag.
        out: a folder.

    Raises:
        UserError: DVC's message.
    """
    tables = Layout(Path("results") / load_config(configfile).run).report.tables
    with tempfile.NamedTemporaryFile("w", suffix=".html", encoding="utf-8") as template:
        template.write(PAGE.format(script=script()))
        template.flush()
        command = [sys.executable, "-m", "dvc", "plots", "diff", revision, "--out", str(out)]
        targets = ["--targets", str(tables / "scores.csv")]
        call([*command, "--html-template", template.name, *targets])
    return out / "index.html"
