"""The card on the sources of a task's gain: classes, their frequency, and people."""

from __future__ import annotations

from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from clipaffect.config.models import Config
from clipaffect.core.layout import Layout
from clipaffect.core.setting import Setting
from clipaffect.evaluation.compare_heads import PLANNED, TARGETS, people_f1
from clipaffect.evaluation.person_counts import Counted, read_counts
from clipaffect.report import figures
from clipaffect.report.results import Results, TaskResults, read_results, unit_of
from clipaffect.studies.card import Card, CardSection, write_card_page

QUESTION = "Why does one task gain more from CVaR than the other?"


def target_gains(task: TaskResults, alpha: float) -> pd.DataFrame:
    """One row per class or label, rarest first: its frames, both F1 scores, the gain over ERM."""
    own = task.comparisons[task.comparisons["family"] == TARGETS].set_index("target")
    frames = pd.Series(task.support())
    table = pd.DataFrame(
        {
            "target": list(task.task.targets),
            "frames": [int(frames[name]) for name in task.task.targets],
            "f1_of_erm": task.f1_of_targets(1.0),
            "f1": task.f1_of_targets(alpha),
        }
    )
    scored = task.frames["with_crop"] + task.frames["filled"]
    table.insert(2, "share_of_frames", table["frames"] / scored)
    for name in ("difference", "low", "high", "p_adjusted"):
        table[name] = table["target"].map(own[name])
    return table.sort_values(["frames", "target"], ignore_index=True)


def people_gains(counted: Counted, headline: Setting, erm: Setting) -> pd.DataFrame:
    """One row per person: F1 over their own frames under both, largest gain first."""
    mine, theirs = (people_f1(list(counted.seeds[s].values())) for s in (headline, erm))
    answers = counted.cells[headline].sum(axis=1).astype(int)
    table = pd.DataFrame(
        {
            "person": counted.people,
            "answers": answers,
            "f1_of_erm": theirs,
            "f1": mine,
            "difference": mine - theirs,
        }
    )
    return table.sort_values(["difference", "person"], ascending=[False, True], ignore_index=True)


def gain_answer(name: str, targets: pd.DataFrame, overall: pd.Series) -> str:
    """What the tables say of one task.

    Args:
        name: of the task.
        targets: see ``target_gains``.
        overall: the planned comparison of the headline with ERM.
    """
    text = f"{name}: CVaR at alpha = {overall['alpha']:g} differs from ERM by "
    text += f"{overall['difference']:+.3f}"
    if not np.isnan(overall["low"]):
        text += f" (95 % interval {overall['low']:+.3f} to {overall['high']:+.3f})"
    # Macro F1 is the mean over targets: each half's part adds up to the whole.
    parts = targets["difference"] / len(targets)
    half = len(targets) // 2
    rare, frequent = float(parts[:half].sum()), float(parts[half:].sum())
    if not half:
        return f"{text}."
    text += (
        f". The {half} rarest of {len(targets)} classes or labels contribute {rare:+.3f}, the "
        f"others {frequent:+.3f}"
    )
    found = kendalltau(targets["frames"], targets["difference"]).statistic
    if np.isnan(found):
        return f"{text}; all differences are equal."
    # Classes scored on the same people are not independent: tau describes, and is not tested.
    said = "frequent" if found > 0 else "rare"
    return (
        f"{text}. The difference is higher for {said} ones (Kendall's tau of difference and "
        f"frequency {found:+.2f})."
    )


def between_answer(rows: dict[str, pd.Series]) -> str:
    """CVaR's difference in each task; those of two tasks are not tested against each other."""
    order = sorted(rows, key=lambda name: -rows[name]["difference"])
    changes = " and ".join(f"{name} by {rows[name]['difference']:+.3f}" for name in order)
    return f"CVaR changes {changes}. The tasks were not tested against each other."


def _chart(table: pd.DataFrame) -> figures.Spec:
    """The difference of each class or label, the rarest first; zero is marked."""
    names = [
        f"{name} ({100 * share:.1f} %)"
        for name, share in zip(table["target"], table["share_of_frames"], strict=True)
    ]
    named = table.assign(name=names)
    y = alt.Y("name:N", sort=names, title=None)
    bars = [
        known.mark_rule(color=figures.SOFT, strokeWidth=2).encode(
            x=alt.X("low:Q", title=""), x2="high:Q", y=y
        )
        for known in figures.with_interval(named)
    ]
    points = (
        figures.chart_of(named)
        .mark_point(filled=True, color=figures.ACCENT, opacity=1, size=70)
        .encode(
            x=alt.X(
                "difference:Q", title="F1 minus ERM's F1", axis=alt.Axis(tickCount=figures.TICKS)
            ),
            y=y,
            tooltip=figures.tooltips(
                ("target:N", "class or label"),
                ("difference:Q", "difference"),
                ("low:Q", "low"),
                ("high:Q", "high"),
                ("frames:Q", "frames"),
            ),
        )
    )
    return figures.finish(
        alt.layer(figures.zero_line(), *bars, points),
        "Dot plot of each class or label, the rarest first: its F1 minus that of plain ERM, with "
        "95 % intervals; the same numbers are in the table below.",
        26 * len(names) + 30,
    )


def write_gain(config: Config, folder: Path, out: Path) -> None:
    """Write the card to ``out`` from the evaluation in ``folder``, ``results/<run>``."""
    results = read_results(config, folder)
    alpha, unit = config.training.headline_alpha, unit_of(results.summary)
    answers: dict[str, str] = {}
    sections: list[CardSection] = []
    overall: dict[str, pd.Series] = {}
    for name, task in results.tasks.items():
        row = _overall(results, task)
        if row is None:
            answers[name] = f"{name}: there is no head of another alpha than 1 to compare with ERM."
            continue
        overall[name] = row
        targets = target_gains(task, alpha)
        answers[name] = gain_answer(name, targets, row)
        counted = read_counts(Layout(folder).evaluation(name).person_counts)
        headline, erm = (Setting("head", config.encoder, "", a) for a in (alpha, 1.0))
        sections += [
            CardSection(
                name,
                f"targets_{name}",
                "Difference of F1 to ERM, the rarest class or label first, with the share of "
                f"frames that show it; bars: 95 % intervals over {unit}. p is adjusted for all "
                "classes and labels of the task.",
                targets,
                _chart(targets),
            ),
            CardSection(
                "",
                f"people_{name}",
                f"The same by {unit}: F1 over all of one's answers, mean over seeds.",
                people_gains(counted, headline, erm),
            ),
        ]
    if len(overall) > 1:
        answers["between"] = between_answer(overall)
    card = Card(
        QUESTION,
        f"The headline's heads (alpha = {alpha:g}) compared with plain ERM, by class, "
        "frequency and person.",
        answers,
        sections,
        "On the validation split, paired seed by seed. A gain by class is what happened to these "
        "people; a cause is not shown by it.",
    )
    write_card_page(card, config.run, out)


def _overall(results: Results, task: TaskResults) -> pd.Series | None:
    table = task.comparisons
    own = table[
        (table["family"] == PLANNED)
        & (table["second_method"] == "head")
        & (table["second_alpha"] == 1)
        & (table["alpha"] == results.config.training.headline_alpha)
    ]
    return None if own.empty else own.iloc[0]
