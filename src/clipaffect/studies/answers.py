"""The sentence that answers a study's question, computed from its table alone."""

from __future__ import annotations

from typing import Any

import pandas as pd

from clipaffect.evaluation.compare_heads import EXPLORATORY
from clipaffect.report.headline import LEVEL
from clipaffect.report.results import TaskResults, setting_name


def study_answer(name: str, task: TaskResults, kind: str, headline_alpha: float) -> str:
    """What the study says of one task.

    Args:
        name: of the task.
        task: its results.
        kind: the study's ``answer``: ``variants``, ``alpha`` or ``beat``.
        headline_alpha: the run's.
    """
    table = task.comparisons
    own = table[(table["family"] == EXPLORATORY) & (table["target"] == "")]
    if kind == "alpha":
        return f"{name}: {_over_alpha(task, table[table['target'] == ''])}"
    # Of a variant with an alpha the one at the headline's; ERM's stands in the table.
    own = own[(own["variant"] != "") & ((own["alpha"] == headline_alpha) | own["alpha"].isna())]
    if kind == "beat":
        return f"{name}: {_beaten(own)}{_troubles(task.heads)}"
    return f"{name}: {beside_answer(own)}{_troubles(task.heads)}"


def beside_answer(rows: pd.DataFrame, own: str = "the run's own head") -> str:
    """Which variants are shown to be better or worse than ``own``.

    Columns variant, alpha, method, encoder, difference, p_adjusted.
    """
    if rows.empty:
        return "no variant was finished."
    if rows["p_adjusted"].isna().all():
        return f"the sample is too small to test {_count(rows, 'variant')}; {_largest(rows)}."
    better, worse, rest = _sorted(rows)
    parts = [
        f"{_listed(found)} {'is' if len(found) == 1 else 'are'} {said} than {own}"
        for found, said in ((better, "better"), (worse, "worse"))
        if len(found)
    ]
    if not len(rest):
        return " and ".join(parts) + "."
    others = _count(rest, "other variant" if parts else "variant")
    verb = "differs" if len(rest) == 1 else "differ"
    told = (
        f"no difference to {own} is shown for the {others}"
        if len(rest) > 1
        else (f"it is not shown that the {others.removeprefix('1 ')} {verb} from {own}")
    )
    return "; ".join([" and ".join(parts), told] if parts else [told]) + f" ({_largest(rest)})."


def _beaten(rows: pd.DataFrame) -> str:
    """One comparison, fixed beforehand: its p stands as it is."""
    if rows.empty:
        return "no head of yours, or none of the published recipe, was finished."
    row = rows.iloc[0]
    by = f"{row['difference']:+.3f}"
    if pd.isna(row["p"]):
        said = f"your head differs from the published recipe by {by}"
        return f"{said}; the sample is too small for a test."
    by += f", p = {row['p']:.2g}"
    if row["p"] >= LEVEL:
        return f"it is not shown that your head differs from the published recipe ({by})."
    word = "beats" if row["difference"] > 0 else "is worse than"
    return f"your head {word} the published recipe ({by})."


def _troubles(heads: pd.DataFrame) -> str:
    """Heads that failed or collapsed, by variant."""
    text = ""
    for said, wrong in (("failed", heads["status"] != "ok"), ("collapsed", heads["collapsed"])):
        counts = heads[wrong & (heads["variant"] != "")].groupby("variant").size()
        if len(counts):
            listed = ", ".join(f"{count} of {variant}" for variant, count in counts.items())
            text += f" Heads that {said}: {listed}."
    return text


def _over_alpha(task: TaskResults, table: pd.DataFrame) -> str:
    curve = task.over_alpha()
    if curve.empty:
        return "no head was finished."
    best, worst = (curve.loc[curve["estimate"].agg(which)] for which in ("idxmax", "idxmin"))
    text = (
        f"macro F1 is between {worst['estimate']:.3f} (alpha = {worst['alpha']:g}) and "
        f"{best['estimate']:.3f} (alpha = {best['alpha']:g}); "
    )
    rows = table[(table["variant"] == "") & (table["second_method"] == "head")]
    if rows["p_adjusted"].isna().all():
        text += "the sample is too small to compare any alpha with ERM"
    else:
        better, worse, _ = _sorted(rows)
        parts = [
            f"{said} than ERM at alpha = {', '.join(f'{a:g}' for a in sorted(found['alpha']))}"
            for found, said in ((better, "better"), (worse, "worse"))
            if len(found)
        ]
        text += "; ".join(parts) if parts else "no alpha is shown to differ from ERM"
    heads = task.heads[(task.heads["variant"] == "") & task.heads["collapsed"]]
    if len(heads):
        levels = ", ".join(f"{alpha:g}" for alpha in sorted(heads["alpha"].unique()))
        text += f"; heads collapsed at alpha = {levels}"
    return text + "."


def _sorted(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Those shown to be better, worse, and the others."""
    shown = rows["p_adjusted"] < LEVEL
    up = rows["difference"] > 0
    return rows[shown & up], rows[shown & ~up], rows[~shown]


def _count(rows: pd.DataFrame, word: str) -> str:
    return f"{len(rows)} {word}{'' if len(rows) == 1 else 's'}"


def _listed(rows: pd.DataFrame) -> str:
    return ", ".join(_named(row) for _, row in rows.iterrows())


def _named(row: Any) -> str:
    p = "" if pd.isna(row["p_adjusted"]) else f", p = {row['p_adjusted']:.2g}"
    return f"{row['variant'] or setting_name(row)} ({row['difference']:+.3f}{p})"


def _largest(rows: pd.DataFrame) -> str:
    row = rows.loc[rows["difference"].abs().idxmax()]
    return f"the largest difference is that of {_named(row)}"
