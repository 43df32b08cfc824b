"""Attribution (Shapley values): the contribution of each factor of a study, and of luck.

A factor's contribution is its Shapley value: the change in macro F1 by taking it from its first
level to its last, averaged over every order in which the factors can be changed (Shapley 1953). So
contributions add up to the whole change, and no order is preferred.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import combinations
from math import factorial
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd

from clipaffect.config.factors import Combination
from clipaffect.config.studies import Planned
from clipaffect.evaluation.intervals import FEWEST, intervals
from clipaffect.evaluation.paired_test import holm, swap_test
from clipaffect.evaluation.person_counts import macro_f1
from clipaffect.report import figures
from clipaffect.report.headline import LEVEL
from clipaffect.report.results import read_summary, unit_of
from clipaffect.studies.card import Card, CardSection, write_card_page
from clipaffect.studies.factor_grid import count_combinations, mean_f1, read_study_scores

HALVES = 1000  # random halves of the people
Counts = list[dict[int, np.ndarray]]


@dataclass(frozen=True)
class Points:
    """One task's answer.

    Attributes:
        combinations: a row for each: each factor's level, macro F1 (mean over seeds), the best
            first.
        contributions: a row a factor: ``difference`` with its interval over people, p, adjusted p.
        start, end: macro F1 with every factor at its first, and at its last level.
        luck: see ``winners_curse``; None with fewer than ``FEWEST`` people.
    """

    combinations: pd.DataFrame
    contributions: pd.DataFrame
    start: float
    end: float
    luck: dict[str, float] | None


def ends_of(every: list[Combination]) -> dict[str, tuple[str, str]]:
    """The first and the last level of each factor."""
    first, last = every[0].levels, every[-1].levels  # as ``combine`` lists them
    return {factor: (first[factor], last[factor]) for factor in first}


def shapley_pairs(every: list[Combination]) -> dict[str, list[tuple[int, int, float]]]:
    """For each factor its pairs of combinations (with, without, weight).

    phi_i = sum over sets S of other factors of |S|! (n - |S| - 1)! / n! (v(S + i) - v(S)), where
    the factors of a set are at their last level and all others at their first.
    """
    ends = ends_of(every)
    factors = list(ends)
    number = {json.dumps(own.levels): k for k, own in enumerate(every)}

    def at(changed: tuple[str, ...]) -> int:
        return number[json.dumps({f: ends[f][f in changed] for f in factors})]

    found: dict[str, list[tuple[int, int, float]]] = {}
    for factor in factors:
        others = [f for f in factors if f != factor]
        found[factor] = [
            (
                at((*changed, factor)),
                at(changed),
                factorial(size) * factorial(len(others) - size) / factorial(len(factors)),
            )
            for size in range(len(others) + 1)
            for changed in combinations(others, size)
        ]
    return found


def contributions(every: list[Combination], counts: Counts, resamples: int) -> pd.DataFrame:
    """A row a factor; see ``Points``. Seeds are averaged, people resampled.

    If a factor does nothing, what a person's frames get at its two levels may be exchanged: p is by
    such exchanges, in every pair of combinations at once; Holm over the factors.
    """
    pairs = shapley_pairs(every)
    members: dict[str, np.ndarray] = {}
    contrasts = []
    for own in pairs.values():
        contrast: dict[str, float] = {}
        for *ends, share in own:
            for number, sign in zip(ends, (share, -share), strict=True):
                for seed, found in counts[number].items():
                    name = f"{number}/{seed}"
                    members[name] = found
                    contrast[name] = contrast.get(name, 0.0) + sign / len(counts[number])
        contrasts.append(contrast)
    people = len(next(iter(members.values())))
    rows = []
    for (factor, (first, last)), interval in zip(
        ends_of(every).items(), intervals(members, contrasts), strict=True
    ):
        enough = people >= FEWEST
        p = _exchanged(pairs[factor], counts, resamples) if enough else float("nan")
        rows.append(
            {
                "factor": factor,
                "from": first,
                "to": last,
                "difference": interval.estimate,
                "low": interval.low,
                "high": interval.high,
                "p": p,
            }
        )
    table = pd.DataFrame(rows)
    table["p_adjusted"] = holm(list(table["p"])) if people >= FEWEST else float("nan")
    return table


def _exchanged(pairs: list[tuple[int, int, float]], counts: Counts, resamples: int) -> float:
    """p of one factor, over the seeds that both combinations of a pair have."""
    first, second, weights = [], [], []
    for one, other, share in pairs:
        seeds = sorted(counts[one].keys() & counts[other].keys())
        first += [counts[one][seed] for seed in seeds]
        second += [counts[other][seed] for seed in seeds]
        weights += [share / len(seeds)] * len(seeds)
    return swap_test(first, second, resamples, weights=weights)


def winners_curse(counts: Counts, base: int, seed: int = 0) -> dict[str, float] | None:
    """Estimate how much of the best combination's gain is due to selection on these people.

    On a random half of the people the best combination is picked; its gain over ``base`` is taken
    on that half and on the other. Mean over ``HALVES`` halves. None with fewer than ``FEWEST``
    people.

    Returns:
        ``picked_on``: gain on the half that it was picked on; ``elsewhere``: on the other half;
        ``share``: of the gain that is lost; NaN where there is no gain.
    """
    known = [own for own in counts if own]
    people = len(next(iter(known[0].values())))
    if people < FEWEST or not counts[base]:
        return None
    rng = np.random.default_rng(seed)
    draws = np.argsort(rng.random((HALVES, people)), axis=1) < people // 2
    values = []
    for half in (draws, ~draws):
        parts = []
        for own in counts:
            if own:
                each = [_f1_of_parts(half, c) for c in own.values()]
                parts.append(np.mean(each, axis=0))
            else:
                parts.append(np.full(HALVES, -np.inf))
        values.append(np.stack(parts))
    here, there = (own - own[base] for own in values)
    best = here.argmax(axis=0)
    picked = float(here[best, np.arange(HALVES)].mean())
    elsewhere = float(there[best, np.arange(HALVES)].mean())
    share = (picked - elsewhere) / picked if picked > 0 else float("nan")
    return {"picked_on": picked, "elsewhere": elsewhere, "share": share}


def _f1_of_parts(chosen: np.ndarray, counts: np.ndarray) -> np.ndarray:
    sums = chosen.astype(float) @ counts.reshape(len(counts), -1)
    return macro_f1(sums.reshape(-1, *counts.shape[1:]))


def find_points(every: list[Combination], counts: Counts, resamples: int) -> Points | None:
    """The results of one task; None if a corner of the factors has no finished head."""
    pairs = [pair for own in shapley_pairs(every).values() for pair in own]
    if not all(counts[a].keys() & counts[b].keys() for a, b, _ in pairs):
        return None
    mean = [mean_f1(own) for own in counts]
    table = pd.DataFrame([own.levels for own in every]).assign(
        macro_f1=mean, seeds=[len(own) for own in counts]
    )
    return Points(
        table.sort_values("macro_f1", ascending=False, kind="stable", ignore_index=True),
        contributions(every, counts, resamples),
        mean[0],
        mean[-1],
        winners_curse(counts, len(every) - 1),
    )


def points_answer(name: str, points: Points) -> str:
    """What the tables say of one task."""
    table = points.contributions
    text = (
        f"{name}: from {points.start:.3f} with every factor at its first level to "
        f"{points.end:.3f} with every one at its last ({points.end - points.start:+.3f}). "
    )
    if table["p_adjusted"].isna().all():
        row = table.loc[table["difference"].abs().idxmax()]
        text += f"Most of it is {row['factor']} ({row['difference']:+.3f}); "
        text += "the sample is too small for a test. "
    else:
        shown = table[table["p_adjusted"] < LEVEL]
        parts = [
            ", ".join(f"{row['factor']} ({row['difference']:+.3f})" for _, row in own.iterrows())
            for own in (shown[shown["difference"] > 0], shown[shown["difference"] < 0])
        ]
        said = [
            f"{verb}: {part}"
            for verb, part in zip(("Raises the score", "Lowers it"), parts, strict=True)
            if part
        ]
        text += ". ".join(said) + ". " if said else "No factor changes the score significantly. "
        rest = table[table["p_adjusted"] >= LEVEL]["factor"]
        if said and len(rest):
            text += f"No significant change: {', '.join(rest)}. "
    best = points.combinations.iloc[0]
    text += f"The best of {len(points.combinations)} combinations scores {best['macro_f1']:.3f}"
    if points.luck is None or np.isnan(points.luck["share"]):
        return text + "."
    luck = points.luck
    share = "all" if luck["elsewhere"] <= 0 else f"{100 * max(luck['share'], 0):.0f} %"
    return (
        text
        + f". If the best one is chosen on half of the people, it differs from the last levels "
        f"by {luck['picked_on']:+.3f} on that half and by {luck['elsewhere']:+.3f} on the other "
        f"half: {share} of the gain comes from choosing the best one."
    )


def _waterfall(points: Points) -> figures.Spec:
    table = points.contributions.sort_values("difference", ascending=False)
    after = points.start + table["difference"].cumsum()
    before = after - table["difference"]
    rows = pd.DataFrame(
        {
            "factor": table["factor"],
            "from": before,
            "to": after,
            "low": before + table["low"],
            "high": before + table["high"],
            "difference": table["difference"],
            "kind": np.where(table["difference"] >= 0, "brings", "costs"),
        }
    )
    order = ["all at their first", *rows["factor"], "all at their last"]
    ends = pd.DataFrame(
        {
            "factor": [order[0], order[-1]],
            "from": [0.0, 0.0],
            "to": [points.start, points.end],
            "kind": "macro F1",
        }
    )
    x = alt.X("factor:N", sort=order, title=None, axis=alt.Axis(labelAngle=-35))
    low = min(points.start, points.end, float(after.min()), float(before.min()))
    scale = alt.Scale(domainMin=max(0.0, low - 0.05), zero=False)
    kinds = ["macro F1", "brings", "costs"]
    colour = alt.Color(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=kinds, range=[figures.SOFT, figures.ACCENT, figures.GREY]),
    )
    bars = [
        figures.chart_of(own)
        .mark_bar(clip=True)
        .encode(
            x=x,
            y=alt.Y("to:Q", title="macro F1", scale=scale),
            y2="from:Q",
            color=colour,
            tooltip=tips,
        )
        for own, tips in (
            (ends, figures.tooltips(("factor:N", "factors"), ("to:Q", "macro F1"))),
            (rows, figures.tooltips(("factor:N", "factor"), ("difference:Q", "difference"))),
        )
    ]
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
    unit, every = unit_of(read_summary(folder)), planned.combinations.every
    answers: dict[str, str] = {}
    sections: list[CardSection] = []
    for name, task in planned.config.tasks().items():
        scores = read_study_scores(planned, folder, out, task)
        counts = count_combinations(scores, every)
        points = find_points(every, counts, planned.config.evaluation.resamples)
        if points is None:
            answers[name] = f"{name}: heads of some combinations failed; nothing can be added up."
            continue
        answers[name] = points_answer(name, points)
        sections += [
            CardSection(
                name,
                f"contributions_{name}",
                "What each factor brings, from its first level "
                "to its last: the mean over all orders in which the factors can be changed "
                f"(Shapley values; they add up to the whole), with 95 % intervals over {unit}.",
                points.contributions,
                _waterfall(points),
            ),
            CardSection(
                "",
                f"universes_{name}",
                "Every combination, mean over seeds; the best first.",
                points.combinations,
            ),
        ]
    left_out = "".join(
        f" Left out: {factor}, {why}." for factor, why in planned.combinations.left_out.items()
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
    write_card_page(card, run, out)
