"""The card on robustness: the cost of each corruption, and the people with the worst scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from clipaffect.config.models import Config
from clipaffect.core.layout import Layout, Study
from clipaffect.core.setting import Setting
from clipaffect.evaluation.compare_heads import (
    EXPLORATORY,
    adjust_by_family,
    compare_pairs,
    interval_rows,
)
from clipaffect.evaluation.person_counts import Counted, read_counts
from clipaffect.report.headline import LEVEL
from clipaffect.report.results import read_summary, unit_of
from clipaffect.report.worst_cases import worst_people
from clipaffect.studies.card import Card, CardSection, score_dots, write_card_page
from clipaffect.studies.disturb_crops import FRAMES

QUESTION = "Which changes of the image make the heads fail?"
CLEAN = "as it is"


def disturbance_table(counted: Counted, resamples: int) -> pd.DataFrame:
    """One row per corruption: macro F1, and its difference from the clean crops."""
    settings = list(counted.seeds)
    clean = next(s for s in settings if not s.variant)
    table = pd.DataFrame(interval_rows(counted, settings, ""))
    pairs = [(s, clean, EXPLORATORY) for s in settings if s != clean]
    compared = compare_pairs(counted, pairs, "", resamples)
    adjust_by_family(compared)
    columns = ["variant", "difference", "p_adjusted"]
    table = table.merge(pd.DataFrame(compared)[columns], on="variant", how="left")
    table["disturbance"] = table["variant"].replace("", CLEAN)
    table = table.rename(columns={"estimate": "macro_f1"})
    return table[["disturbance", "macro_f1", "low", "high", "seeds", "people", *columns[1:]]]


def limits_answer(name: str, table: pd.DataFrame, people: pd.DataFrame, unit: str) -> str:
    """What the tables say of one task."""
    rows = table[table["difference"].notna()].sort_values("difference")
    clean = table.loc[table["disturbance"] == CLEAN, "macro_f1"].iloc[0]
    if rows["p_adjusted"].isna().all():
        worst = rows.iloc[0]
        text = f"too few {unit} to test; most is lost to {_with(worst)}"
    else:
        lost = rows[(rows["p_adjusted"] < LEVEL) & (rows["difference"] < 0)]
        text = "no disturbance is shown to cost anything"
        if len(lost):
            text = f"most is lost to {'; '.join(_with(row) for _, row in lost.head(3).iterrows())}"
        rest = rows[rows["p_adjusted"] >= LEVEL]
        if len(lost) and len(rest):
            text += f". Not shown to cost anything: {'; '.join(rest['disturbance'])}"
    low, high = people["f1"].iloc[0], people["f1"].iloc[-1]
    return (
        f"{name}: of {clean:.3f} {text}. Of {len(people)} {unit} the worst read scores {low:.3f}, "
        f"the best {high:.3f}, the middle one {people['f1'].median():.3f}."
    )


def _with(row: pd.Series) -> str:
    return f"{row['disturbance']} ({row['difference']:+.3f})"


def write_limits(config: Config, folder: Path, out: Path) -> None:
    """Write the card to ``out`` from ``limits/<task>.parquet`` there and the evaluation."""
    unit, alpha = unit_of(read_summary(folder)), config.training.headline_alpha
    headline = Setting("head", config.encoder, "", alpha)
    answers: dict[str, str] = {}
    sections: list[CardSection] = []
    for name in config.tasks():
        own = read_counts(Layout(folder).evaluation(name).person_counts)
        if headline not in own.seeds:
            answers[name] = f"{name}: no head of the headline was finished."
            continue
        counted = read_counts(Study(out).person_counts(name))
        table = disturbance_table(counted, config.evaluation.resamples)
        people = worst_people(own, headline)
        answers[name] = limits_answer(name, table, people, unit)
        kind = np.where(table["disturbance"] == CLEAN, "reference", "head")
        sections += [
            CardSection(
                name,
                f"disturbances_{name}",
                f"Macro F1 of up to {FRAMES} frames of each of "
                f"the validation {unit}: blur by its deviation in pixels of a crop of 112, "
                "noise by its deviation in levels, compression by JPEG quality, darkness by "
                "the share of light left, occlusion by what a grey box covers.",
                table,
                score_dots(table, table["disturbance"], kind),
            ),
            CardSection(
                "",
                f"people_{name}",
                f"How well the {unit} are read, all their frames, the worst first.",
                people,
            ),
        ]
    card = Card(
        QUESTION,
        f"The headline's heads (alpha = {alpha:g}) on validation crops that were disturbed after "
        "alignment.",
        answers,
        sections,
        "Faces were found and aligned in the undisturbed video: a detector that misses a dark or "
        "covered face costs more. p is adjusted for the number of disturbances.",
    )
    write_card_page(card, config.run, out)
