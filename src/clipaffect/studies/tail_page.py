"""The tail card's page: its tables, its chart, and the sentence that sums them up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd

from clipaffect.config.models import Config
from clipaffect.evaluation.folds import read_scores
from clipaffect.report import figures
from clipaffect.report.headline import LEVEL
from clipaffect.report.results import read_summary, unit_of
from clipaffect.studies.card import Card, Section, write_card
from clipaffect.studies.tail import elements, in_tail, lags, shares, suspects
from clipaffect.tasks import Task

QUESTION = "What fills the worst losses, and are the labels right?"


@dataclass(frozen=True)
class Tail:
    """One task's tables; see ``tail``."""

    alpha: float
    targets: pd.DataFrame
    people: pd.DataFrame
    videos: pd.DataFrame
    suspects: pd.DataFrame
    lags: pd.DataFrame


def find_tail(
    frame: pd.DataFrame,
    scores: np.ndarray,
    task: Task,
    alpha: float,
    resamples: int,
    over: str = "elements",
) -> Tail:
    """The tail of cross-fitted rows (group, video, person, frame, labels) and their scores."""
    labels = frame[list(task.columns)].to_numpy()
    losses = elements(labels, scores, task, over)
    tail = in_tail(losses.loss, alpha)
    rows = frame[["group", "video", "person", "frame"]]
    return Tail(
        alpha,
        shares(pd.Categorical.from_codes(losses.target, list(task.targets)), tail),
        shares(pd.Categorical(rows["group"])[losses.row], tail),
        shares(pd.Categorical(rows["video"])[losses.row], tail),
        suspects(rows, labels, scores, task),
        lags(rows, labels, scores, task, resamples),
    )


def tail_answer(name: str, card: Tail, unit: str) -> str:
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
    base = figures.chart_of(table)
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
    answers: dict[str, str] = {}
    sections: list[Section] = []
    for name, task in config.tasks().items():
        frame, scores = read_scores(folder / "postprocess" / name / "cross.parquet")
        # Under k-fold evaluation a row was cross-fitted in several folds: those of one are enough.
        own = (frame["fold"] == frame["fold"].min()).to_numpy()
        frame, scores = frame[own].reset_index(drop=True), scores[own]
        if frame.empty:
            answers[name] = f"{name}: there are no cross-fitted scores; see the report."
            continue
        tail = find_tail(frame, scores, task, alpha, resamples, config.training.loss_over)
        answers[name] = tail_answer(name, tail, unit)
        sections += _sections(name, tail, unit)
    card = Card(
        QUESTION,
        f"CVaR trains on the worst losses of the training {unit}; this says what they are.",
        answers,
        sections,
        f"All of it on training frames, scored by heads that were trained without the {unit} in "
        f"question ({config.postprocess.folds} parts), mean over seeds.",
    )
    write_card(card, config.run, out)


def _sections(task: str, tail: Tail, unit: str) -> Iterator[Section]:
    worst = f"the worst {tail.alpha:.0%} of the losses"
    yield Section(task, f"targets_{task}", f"Which answers fill {worst}.", tail.targets)
    yield Section("", f"people_{task}", f"Which {unit} fill them.", tail.people)
    yield Section("", f"videos_{task}", "Which videos.", tail.videos)
    yield Section(
        "",
        f"suspects_{task}",
        "Labels to look at again: stretches in which the annotated answer has almost no "
        "probability and another almost all. A head may be wrong, too.",
        tail.suspects,
    )
    if len(tail.lags):
        yield Section(
            "",
            f"lags_{task}",
            "Labels beside the scores of earlier (negative) and later frames of the same person. "
            "A peak left of 0: labels are set late.",
            tail.lags,
            _lag_chart(tail.lags),
        )
