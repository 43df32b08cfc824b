"""The page of a one-factor study: each level compared with the first, and their average."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipaffect.config.studies import Planned
from clipaffect.core.metrics import decide
from clipaffect.core.setting import Setting
from clipaffect.core.tasks import Task
from clipaffect.encoders.registry import encoder_cost
from clipaffect.evaluation.compare_heads import (
    EXPLORATORY,
    adjust_by_family,
    compare_pairs,
    interval_rows,
)
from clipaffect.evaluation.person_counts import Counted
from clipaffect.report.results import read_summary, unit_of
from clipaffect.studies.answers import beside_answer
from clipaffect.studies.card import Card, CardSection, score_dots, write_card_page
from clipaffect.studies.factor_grid import Scores, count_combinations, read_study_scores


def write_levels(planned: Planned, run: str, folder: Path, out: Path) -> None:
    """Write the page, the answer, tables and figures of a study with ``answer: levels``.

    Args:
        planned: the study.
        run: its run.
        folder: ``results/<run>``.
        out: the study's folder.
    """
    unit = unit_of(read_summary(folder))
    answers: dict[str, str] = {}
    sections: list[CardSection] = []
    factor = next(iter(planned.study.factors))
    first = planned.combinations.every[0].levels[factor]
    for name, task in planned.config.tasks().items():
        table = level_table(planned, read_study_scores(planned, folder, out, task), task)
        if table.empty:
            answers[name] = f"{name}: no head was finished."
            continue
        rows = table[table["difference"].notna()].rename(columns={factor: "variant"})
        answers[name] = f"{name}: " + beside_answer(
            rows.assign(method="head", encoder="", alpha=np.nan), first
        )
        best_first = table.sort_values("macro_f1", ascending=False)
        chart = score_dots(best_first, best_first[factor])
        sections.append(
            CardSection(
                name,
                f"levels_{name}",
                f"Macro F1 with 95 % intervals over {unit}; each compared with"
                f" {first}, paired by {unit} and seed.",
                table,
                chart,
            )
        )
    alpha = planned.config.training.headline_alpha
    card = Card(
        planned.study.question,
        f"The run's own head (alpha = {alpha:g}), trained for each level; and the mean of the "
        f"probabilities of {first} and another.",
        answers,
        sections,
        "Exploratory: p is adjusted for the comparisons of this study. Nothing is chosen: every "
        "level and every mean of two is shown.",
    )
    write_card_page(card, run, out)


def level_table(planned: Planned, scores: Scores, task: Task) -> pd.DataFrame:
    """One row per level, and per average of the first with another: scores, differences, cost."""
    every = planned.combinations.every
    factor = next(iter(planned.study.factors))
    counts = count_combinations(scores, every)
    seeds = {_setting(own.levels[factor]): c for own, c in zip(every, counts, strict=True)}
    # Levels that only decide otherwise have the same probabilities: there is nothing to average.
    heads = [own.setting for own in every]
    if len(set(heads)) == len(heads):
        first = scores.of(heads[0])
        for own, head in zip(every[1:], heads[1:], strict=True):
            other = scores.of(head)
            name = f"{every[0].levels[factor]} and {own.levels[factor]}, averaged"
            seeds[_setting(name)] = {
                seed: scores.counts(decide((first[seed] + other[seed]) / 2, task))
                for seed in sorted(first.keys() & other.keys())
            }
    seeds = {setting: by_seed for setting, by_seed in seeds.items() if by_seed}
    base = _setting(every[0].levels[factor])
    if base not in seeds:
        return pd.DataFrame()
    counted = Counted(scores.people, task.targets, seeds, {})
    resamples = planned.config.evaluation.resamples
    table = pd.DataFrame(interval_rows(counted, list(seeds), ""))
    compared = compare_pairs(
        counted, [(s, base, EXPLORATORY) for s in seeds if s != base], "", resamples
    )
    adjust_by_family(compared)
    columns = ["encoder", "difference", "p_adjusted", "people_better", "people_worse"]
    beside = pd.DataFrame(compared, columns=columns)
    table = table.merge(beside, on="encoder", how="left", suffixes=("", "_"))
    for name in ("people_better", "people_worse"):
        table[name] = table[name].astype("Int64")
    costs = {own.levels[factor]: _cost(planned, own.setting.encoder) for own in every}
    extra = [costs.get(name, {}) for name in table["encoder"]]
    for key in ("dimension", "million_parameters", "gflop"):
        if any(costs.values()):
            table[key] = [own.get(key, np.nan) for own in extra]
    table = table.rename(columns={"encoder": factor, "estimate": "macro_f1"})
    kept = [
        factor,
        "macro_f1",
        "low",
        "high",
        "seeds",
        "people",
        *columns[1:],
        *(k for k in ("dimension", "million_parameters", "gflop") if k in table),
    ]
    return table[kept]


def _setting(level: str) -> Setting:
    return Setting("head", level, "", None)


def _cost(planned: Planned, encoder: str) -> dict[str, Any]:
    """Counted, of encoders that differ; nothing where all levels share one."""
    if len(planned.encoders()) == 1 or encoder not in planned.config.encoders:
        return {}
    cost = encoder_cost(planned.config.encoders[encoder])
    return {
        "dimension": float(cost.dimension),
        "million_parameters": cost.parameters / 1e6,
        "gflop": cost.flop / 1e9,
    }
