"""The tables that go into a paper as they are."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from clipaffect.config import parse_config
from clipaffect.report.build_report import build_report, published_scores
from clipaffect.report.paper_tables import escaped

REPORT = "results/micro/report"


@pytest.fixture
def tables(micro_run: Path) -> dict[str, str]:
    return {name: (micro_run / REPORT / f"{name}.tex").read_text() for name in ("main", "ablation")}


def test_the_scores_are_those_of_the_report(micro_run: Path, tables: dict[str, str]) -> None:
    numbers = json.loads((micro_run / REPORT / "metrics.json").read_text())["tasks"]
    rows = [line.rstrip(" \\").split(" & ") for line in tables["main"].splitlines() if "&" in line]
    assert rows[0] == ["", "EXPR", "AU"]
    headline = next(row for row in rows if row[0] == "CVaR, alpha = 0.5")
    for cell, task in zip(headline[1:], numbers.values(), strict=True):
        assert f"{task['headline']['mean']:.3f}" in cell
    bold = [
        re.search(r"\\textbf{([\d.]+)}", line)[1]
        for line in tables["main"].splitlines()
        if "textbf" in line
    ]
    everything = [float(n) for n in re.findall(r"(?:num|textbf){([\d.]+)}", tables["main"])]
    assert max(everything) == max(map(float, bold))
    assert "fixed beforehand" in tables["main"]


def test_latex_compiles_them(tables: dict[str, str], tmp_path: Path) -> None:
    for text in tables.values():
        assert text.count("{") == text.count("}")
        (begun,) = re.findall(r"\\begin{(table\*?)}", text)
        assert text.rstrip().endswith(f"\\end{{{begun}}}")
        widths = {line.count("&") for line in text.splitlines() if line.endswith(r"\\")}
        assert widths == {2}
    program = shutil.which("pdflatex")
    if program is None:
        return  # the shape was checked
    body = "\n".join(tables.values())
    head = r"\documentclass{article}\usepackage{booktabs}\usepackage{siunitx}\begin{document}"
    (tmp_path / "t.tex").write_text(f"{head}\n{body}\n\\end{{document}}\n")
    command = [program, "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_names_are_escaped() -> None:
    assert escaped(r"50% \x{a_b}") == r"50\% \textbackslash{}x\{a\_b\}"


def test_published_scores_stand_next_to_aff_wild2_alone(
    micro_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = (micro_copy / REPORT / "index.html").read_text()
    assert "Published scores" not in own
    assert "HSEmotion" not in own
    monkeypatch.chdir(micro_copy)
    monkeypatch.setattr("clipaffect.report.figures.save", lambda *_: None)  # as they were
    values = yaml.safe_load(Path("tests/config/micro.yaml").read_text())
    values["data"] |= {"edition": 6}
    config = parse_config(values, "micro.yaml")
    build_report(config, Path("results/micro"), Path(REPORT))
    page = html.unescape(Path(REPORT, "index.html").read_text())
    assert "Published scores" in page
    for row in published_scores():
        assert row["source"] in page
        assert row["read"]
        for task in ("EXPR", "AU"):
            assert row[task] is None or 0 < row[task] < 1
