"""Figures: the same bytes each time, and a PDF that other software reads."""

from __future__ import annotations

import re
from pathlib import Path

import altair as alt
import pandas as pd
import pytest

from clipaffect.report import figures


@pytest.fixture
def spec() -> figures.Spec:
    table = pd.DataFrame(
        {"x": range(12), "y": range(12), "name": [f"<n{k}> $a$" for k in range(12)]}
    )
    base = alt.Chart(alt.InlineData(table.to_dict("records")))
    points = base.mark_point(opacity=0.4).encode(x="x:Q", y="y:Q", color="name:N")
    return figures.finish(
        alt.layer(points, base.mark_line(opacity=0.2).encode(x="x:Q", y="y:Q")),
        "Twelve points.",
        200,
    )


def test_files_are_the_same_bytes_each_time(spec: figures.Spec, tmp_path: Path) -> None:
    for number in range(4):
        figures.save(spec, tmp_path / str(number), "chart")
    for kind in ("svg", "pdf", "png"):
        assert len({(tmp_path / f"{k}/chart.{kind}").read_bytes() for k in range(4)}) == 1


def test_every_object_of_the_pdf_is_where_its_table_says(
    spec: figures.Spec, tmp_path: Path
) -> None:
    figures.save(spec, tmp_path, "chart")
    pdf = (tmp_path / "chart.pdf").read_bytes()
    start = int(re.search(rb"startxref\s+(\d+)", pdf)[1])
    entries = re.findall(rb"(\d{10}) \d{5} n", pdf[start:])
    assert len(entries) > 5
    for offset in map(int, entries):
        assert re.match(rb"\d+ 0 obj", pdf[offset:])


def test_the_page_has_the_pages_colours_and_the_file_its_own(spec: figures.Spec) -> None:
    page, file = figures.for_page(spec), figures.for_file(spec)
    assert page["config"]["axis"]["labelColor"] == "currentColor"
    assert page["width"] == "container"
    assert file["background"] == "white"
    assert file["description"] == "Twelve points."


def test_steps_that_could_not_be_chosen_are_a_picture_that_says_so(tmp_path: Path) -> None:
    nothing = pd.DataFrame(columns=["task", "step", "macro_f1"])
    figures.save(figures.steps_slope(nothing), tmp_path, "steps")
    assert "No step could be chosen" in (tmp_path / "steps.svg").read_text()
    for kind in figures.KINDS:
        assert (tmp_path / f"steps{kind}").stat().st_size > 200


def test_files_are_as_wide_as_the_columns_of_a_paper(spec: figures.Spec, tmp_path: Path) -> None:
    figures.save(spec, tmp_path, "chart")
    for name, inches in (("chart.pdf", 7.0), ("chart_column.pdf", 3.4)):
        box = re.search(rb"/MediaBox \[([\d. ]+)\]", (tmp_path / name).read_bytes())
        assert float(box[1].split()[2]) / 72 == pytest.approx(inches, abs=0.05)
