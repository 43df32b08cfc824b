"""The tail card's page: its tables, its chart, and the sentence that sums them up."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd

from clipaffect.config.models import Config
from clipaffect.evaluation.folds import read_scores
from clipaffect.report import figures
from clipaffect.report.headline import LEVEL
from clipaffect.report.pages import page_environment
from clipaffect.report.results import read_summary, unit_of
from clipaffect.report.tables import write_tables
from clipaffect.studies.tail import elements, in_tail, lags, shares, suspects
from clipaffect.tables import write_text
from clipaffect.tasks import Task

QUESTION = "What fills the worst losses, and are the labels right?"
SHOWN = 20  # rows of a table on the page; the CSV has all


@dataclass(frozen=True)
class Card:
    """One task's tables; see ``tail``."""

    alpha: float
    targets: pd.DataFrame
    people: pd.DataFrame
    videos: pd.DataFrame
    suspects: pd.DataFrame
    lags: pd.DataFrame


def make_card(
    frame: pd.DataFrame,
    scores: np.ndarray,
    task: Task,
    alpha: float,
    resamples: int,
    over: str = "elements",
) -> Card:
    """The card of cross-fitted rows (group, video, person, frame, labels) and their scores."""
    labels = frame[list(task.columns)].to_numpy()
    losses = elements(labels, scores, task, over)
    tail = in_tail(losses.loss, alpha)
    rows = frame[["group", "video", "person", "frame"]]
    return Card(
        alpha,
        shares(pd.Categorical.from_codes(losses.target, list(task.targets)), tail),
        shares(pd.Categorical(rows["group"])[losses.row], tail),
        shares(pd.Categorical(rows["video"])[losses.row], tail),
        suspects(rows, labels, scores, task),
        lags(rows, labels, scores, task, resamples),
    )


def card_answer(name: str, card: Card, unit: str) -> str:
    """The sentence that sums up a card, computed from its tables alone."""
    people = card.people.sort_values("share_of_tail", ascending=False)
    top = people.head(max(1, round(len(people) / 10)))
    target = card.targets.iloc[0]
    text = (
        f"{name}: of the worst {card.alpha:.0%} of the losses {top['share_of_tail'].sum():.0%} "
        f"belong to {len(top)} of {len(people)} {unit}, who have {top['share'].sum():.0%} of all; "
        f"{target['name']} is {target['times']:.1f} times as frequent there as overall. "
    )
    count, frames = len(card.suspects), int(card.suspects["frames"].sum())
    text += (
        f"{count} stretches ({frames:,} frames) contradict heads that never saw the person. "
        if count
        else "No stretch of labels contradicts heads that never saw the person. "
    )
    return text + _lag(card.lags)


def _lag(table: pd.DataFrame) -> str:
    if table.empty:
        return "No frame has enough neighbours to look for a lag."
    best = table.loc[table["difference"].idxmax()]
    if best["shift"] == 0:
        return "Labels fit best where they are."
    when = "late" if best["shift"] < 0 else "early"
    by = f"{abs(int(best['shift']))} frames {when} ({best['difference']:+.3f}"
    if np.isnan(best["p_adjusted"]):
        return f"Labels fit best if taken to be {by}); too few to test."
    by = f"{by}, p = {best['p_adjusted']:.2g})."
    if best["p_adjusted"] < LEVEL:
        return f"Labels are set {by}"
    return f"No lag is shown: labels would fit best if taken to be {by}"


def _lag_chart(table: pd.DataFrame) -> figures.Spec:
    base = alt.Chart(alt.InlineData(json.loads(table.to_json(orient="records"))))
    x = alt.X("shift:Q", title="score taken this many frames behind the label")
    y = alt.Y("macro_f1:Q", title="macro F1", scale=alt.Scale(zero=False))
    line = base.mark_line(color=figures.ACCENT).encode(x=x, y=y)
    points = base.mark_point(color=figures.ACCENT, filled=True, opacity=1).encode(
        x=x, y=y, tooltip=["shift:Q", alt.Tooltip("macro_f1:Q", format=".3f", title="macro F1")]
    )
    return figures.finish(
        alt.layer(line, points),
        "Line chart of macro F1 of the labels against scores of earlier and later frames; the "
        "same numbers are in lags.csv.",
        220,
    )


def write_tail_card(config: Config, folder: Path, out: Path) -> None:
    """Write the card's ``index.html``, ``answer.json``, tables and figures to ``out``.

    Args:
        config: of the run.
        folder: ``results/<run>``, with the cross-fitted scores.
        out: the study's folder.
    """
    alpha, resamples = config.training.headline_alpha, config.evaluation.resamples
    unit = unit_of(read_summary(folder))
    cards, answers, charts = {}, {}, {}
    for name, task in config.tasks().items():
        frame, scores = read_scores(folder / "postprocess" / name / "cross.parquet")
        # Under k-fold evaluation a row was cross-fitted in several folds: those of one are enough.
        own = (frame["fold"] == frame["fold"].min()).to_numpy()
        frame, scores = frame[own].reset_index(drop=True), scores[own]
        if frame.empty:
            answers[name] = f"{name}: there are no cross-fitted scores; see the report."
            continue
        cards[name] = make_card(frame, scores, task, alpha, resamples, config.training.loss_over)
        answers[name] = card_answer(name, cards[name], unit)
        kinds = ("targets", "people", "videos", "suspects", "lags")
        tables = {f"{kind}_{name}": getattr(cards[name], kind) for kind in kinds}
        write_tables(tables, out / "tables")
        if len(cards[name].lags):
            chart = _lag_chart(cards[name].lags)
            figures.save(chart, out / "figures", f"lag_{name}")
            charts[name] = figures.for_page(chart)
    page = page_environment().get_template("tail.html").render(
        question=QUESTION, run=config.run, answers=list(answers.values()), cards=cards,
        charts=charts, unit=unit, shown=SHOWN, parts=config.postprocess.folds,
        script=figures.script(),
    )  # fmt: skip
    write_text(out / "index.html", page)
    said = {"question": QUESTION, "answers": answers}
    write_text(out / "answer.json", json.dumps(said, indent=2, ensure_ascii=False) + "\n")
