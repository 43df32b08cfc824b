"""The page of a study of many factors: a waterfall of what each brings, and the share of luck."""

from __future__ import annotations

from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd

from clipaffect.config.studies import Planned
from clipaffect.report import figures
from clipaffect.report.headline import LEVEL
from clipaffect.report.results import read_summary, unit_of
from clipaffect.studies.card import Card, Section, write_card
from clipaffect.studies.points import Points, find_points
from clipaffect.studies.universes import count_universes, read_study_scores


def points_answer(name: str, points: Points) -> str:
    """What the tables say of one task."""
    table = points.contributions
    text = (
        f"{name}: from {points.start:.3f} with every factor at its first level to "
        f"{points.end:.3f} with every one at its last ({points.end - points.start:+.3f}). "
    )
    if table["p_adjusted"].isna().all():
        row = table.loc[table["difference"].abs().idxmax()]
        text += f"Most of it is {row['factor']} ({row['difference']:+.3f}); too few to test. "
    else:
        shown = table[table["p_adjusted"] < LEVEL]
        parts = [
            ", ".join(f"{row['factor']} ({row['difference']:+.3f})" for _, row in own.iterrows())
            for own in (shown[shown["difference"] > 0], shown[shown["difference"] < 0])
        ]
        said = [f"{verb}: {part}" for verb, part in zip(("Brings", "Costs"), parts, strict=True)
                if part]  # fmt: skip
        text += ". ".join(said) + ". " if said else "No factor is shown to bring or cost anything. "
        rest = table[table["p_adjusted"] >= LEVEL]["factor"]
        if said and len(rest):
            text += f"Not shown to matter: {', '.join(rest)}. "
    best = points.universes.iloc[0]
    text += f"The best of {len(points.universes)} combinations scores {best['macro_f1']:.3f}"
    if points.luck is None or np.isnan(points.luck["share"]):
        return text + "."
    luck = points.luck
    share = "all" if luck["elsewhere"] <= 0 else f"{max(luck['share'], 0):.0%}"
    return (
        text + f"; picked on half of the people, the best gains {luck['picked_on']:+.3f} over the "
        f"last levels there and {luck['elsewhere']:+.3f} on the other half: {share} of such a gain "
        "is the winner's curse."
    )


def _waterfall(points: Points) -> figures.Spec:
    table = points.contributions.sort_values("difference", ascending=False)
    after = points.start + table["difference"].cumsum()
    before = after - table["difference"]
    rows = pd.DataFrame(
        {"factor": table["factor"], "from": before, "to": after, "low": before + table["low"],
         "high": before + table["high"], "difference": table["difference"],
         "kind": np.where(table["difference"] >= 0, "brings", "costs")}
    )  # fmt: skip
    order = ["all at their first", *rows["factor"], "all at their last"]
    ends = pd.DataFrame(
        {"factor": [order[0], order[-1]], "from": [0.0, 0.0], "to": [points.start, points.end],
         "kind": "macro F1"}
    )  # fmt: skip
    x = alt.X("factor:N", sort=order, title=None, axis=alt.Axis(labelAngle=-35))
    low = min(points.start, points.end, float(after.min()), float(before.min()))
    scale = alt.Scale(domainMin=max(0.0, low - 0.05), zero=False)
    kinds = ["macro F1", "brings", "costs"]
    colour = alt.Color("kind:N", title=None, scale=alt.Scale(
        domain=kinds, range=[figures.SOFT, figures.ACCENT, figures.GREY]))  # fmt: skip
    bars = [
        figures.chart_of(own).mark_bar(clip=True).encode(
            x=x, y=alt.Y("to:Q", title="macro F1", scale=scale), y2="from:Q", color=colour,
            tooltip=tips,
        )
        for own, tips in (
            (ends, figures.tooltips(("factor:N", "factors"), ("to:Q", "macro F1"))),
            (rows, figures.tooltips(("factor:N", "factor"), ("difference:Q", "difference"))),
        )
    ]  # fmt: skip
    errors = [
        known.mark_rule().encode(x=x, y=alt.Y("low:Q", title="", scale=scale), y2="high:Q")
        for known in figures.with_interval(rows)
    ]
    return figures.finish(
        alt.layer(*bars, *errors),
        "Waterfall chart from the score with every factor at its first level to the one with every "
        "factor at its last; each bar is one factor's contribution. The same numbers are in the "
        "table of contributions.",
        300,
    )


def write_points(planned: Planned, run: str, folder: Path, out: Path) -> None:
    """Write the page, the answer, tables and figures of a study with ``answer: points``.

    Args:
        planned: the study.
        run: its run.
        folder: ``results/<run>``.
        out: the study's folder.
    """
    unit, every = unit_of(read_summary(folder)), planned.universes.every
    answers: dict[str, str] = {}
    sections: list[Section] = []
    for name, task in planned.config.tasks().items():
        scores = read_study_scores(planned, folder, out, task)
        counts = count_universes(scores, every)
        points = find_points(every, counts, planned.config.evaluation.resamples)
        if points is None:
            answers[name] = f"{name}: heads of some combinations failed; nothing can be added up."
            continue
        answers[name] = points_answer(name, points)
        sections += [
            Section(name, f"contributions_{name}", "What each factor brings, from its first level "
                    "to its last: the mean over all orders in which the factors can be changed "
                    f"(Shapley values; they add up to the whole), with 95 % intervals over {unit}.",
                    points.contributions, _waterfall(points)),
            Section("", f"universes_{name}", "Every combination, mean over seeds; the best first.",
                    points.universes),
        ]  # fmt: skip
    left_out = "".join(
        f" Left out: {factor}, {why}." for factor, why in planned.universes.left_out.items()
    )
    card = Card(
        planned.study.question,
        f"{len(every)} combinations of {len(every[0].levels)} factors, each with "
        f"{len(planned.config.training.seeds)} seeds.{left_out}",
        answers,
        sections,
        f"Everything is scored on the validation {unit}: the best combination is best by chance in "
        "part, and is not this run's result. Each factor's levels were set beforehand. p is by "
        "exchanging a factor's two levels for random people, adjusted for the number of factors.",
    )
    write_card(card, run, out)
