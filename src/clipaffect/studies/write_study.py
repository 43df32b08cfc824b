"""A study's page: the question, the answer, its chart and its tables."""

from __future__ import annotations

import json
from pathlib import Path

from clipaffect.config.studies import Planned, Study
from clipaffect.core import layout
from clipaffect.core.files import write_text
from clipaffect.report import figures
from clipaffect.report.cost import head_rows
from clipaffect.report.pages import page_environment, records
from clipaffect.report.results import Results, read_results, unit_of
from clipaffect.report.tables import (
    comparisons_table,
    scores_table,
    targets_table,
    write_tables,
)
from clipaffect.studies.answers import study_answer


def write_study(planned: Planned, run: str, folder: Path, out: Path) -> None:
    """Write ``index.html``, ``answer.json`` and the tables of a study to ``out``.

    Args:
        planned: what it asks, and its heads.
        run: its run.
        folder: ``results/<run>``.
        out: the study's folder, with its ``evaluation``.
    """
    study, own = planned.study, planned.config
    files = layout.Study(out)
    results = read_results(own, folder, files)
    alpha = own.training.headline_alpha
    answers = {
        task: study_answer(task, found, study.answer, alpha)
        for task, found in results.tasks.items()
    }
    tables = {
        "scores": scores_table(results),
        "comparisons": comparisons_table(results),
        "targets": targets_table(results),
    }
    write_tables(tables, files.tables)
    page = (
        page_environment()
        .get_template("study.html")
        .render(
            name=out.name,
            study=study,
            run=run,
            answers=list(answers.values()),
            unit=unit_of(results.summary),
            charts=_charts(results, study, files.figures),
            costs=head_rows(results, folder),
            script=figures.script(),
            **{key: records(table) for key, table in tables.items()},
        )
    )
    write_text(files.page, page)
    said = {"question": study.question, "answers": answers}
    write_text(files.answer, json.dumps(said, indent=2, ensure_ascii=False) + "\n")


def _charts(results: Results, study: Study, folder: Path) -> dict[str, list[figures.Spec]]:
    alpha = results.config.training.headline_alpha
    found: dict[str, list[figures.Spec]] = {}
    for name, task in results.tasks.items():
        drawn = {"beside": figures.beside(task)}
        if study.answer == "alpha":
            drawn = {"alpha": figures.alpha_curve(task, alpha)} | drawn
        for kind, chart in drawn.items():
            figures.save(chart, folder, f"{kind}_{name}")
        found[name] = [figures.for_page(chart) for chart in drawn.values()]
    return found
