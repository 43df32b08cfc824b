"""The report's tables, as CSV for a spreadsheet and LaTeX for a paper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from clipaffect.core.files import write_text
from clipaffect.evaluation.compare_heads import TESTED
from clipaffect.postprocess.steps import COLUMNS
from clipaffect.report.results import Results, setting_name, unit_of

METRICS = ["macro_f1", "accuracy", "macro_auc", "macro_average_precision", "calibration_error"]


def runs_table(results: Results) -> pd.DataFrame:
    """One row for every head and reference: what it is, its status, its scores.

    Under k-fold evaluation a row without a fold is over the frames of all folds together.
    """
    parts = []
    for name, task in results.tasks.items():
        scores = task.metrics[task.metrics["metric"].isin(METRICS)]
        keys = ["method", "encoder", "variant", "alpha", "seed", "fold"]
        wide = scores.pivot_table(index=keys, columns="metric", values="value", dropna=False)
        wide = wide.dropna(how="all").reset_index()
        wide = wide.merge(
            task.heads[["variant", "alpha", "seed", "fold", "status", "collapsed"]],
            on=["variant", "alpha", "seed", "fold"],
            how="outer",
        )
        wide["status"] = wide["status"].fillna("ok")
        wide["collapsed"] = wide["collapsed"].fillna(False).astype(bool)
        wide["method"] = wide["method"].fillna("head")
        wide.insert(0, "task", name)
        parts.append(wide)
    columns = ["task", *keys, "status", "collapsed", *METRICS]
    table = pd.concat(parts, ignore_index=True)[columns]
    table["seed"] = table["seed"].astype("Int64").where(table["seed"] >= 0)
    table["fold"] = table["fold"].astype("Int64").where(table["fold"] > 0)
    order = ["task", "method", "encoder", "variant", "alpha", "seed", "fold"]
    return table.sort_values(order, ignore_index=True)


def coverage_table(results: Results) -> pd.DataFrame:
    """Annotated frames by task, split and status."""
    parts = [
        task.rows.groupby(["split", "status"])
        .size()
        .rename("frames")
        .reset_index()
        .assign(task=name)
        for name, task in results.tasks.items()
    ]
    table = pd.concat(parts, ignore_index=True)[["task", "split", "status", "frames"]]
    total = table.groupby(["task", "split"])["frames"].transform("sum")
    return table.assign(share=table["frames"] / total)


def targets_table(results: Results) -> pd.DataFrame:
    """F1, AUC and average precision of each class or label by alpha, means over seeds."""
    parts = []
    for name, task in results.tasks.items():
        m = task.metrics
        own = m[(m["method"] == "head") & (m["variant"] == "") & (m["fold"] == 0)]
        own = own[own["metric"].isin(["f1", "auc", "average_precision"])]
        if own.empty:
            continue
        wide = own.pivot_table(index=["alpha", "target"], columns="metric", values="value")
        wide = wide.reindex(columns=["f1", "auc", "average_precision"])
        order = pd.MultiIndex.from_product([wide.index.unique("alpha"), task.task.targets])
        wide = wide.reindex(order.set_names(["alpha", "target"])).reset_index()
        wide.insert(0, "task", name)
        parts.append(wide.assign(frames=wide["target"].map(task.support()).astype(int)))
    columns = ["task", "alpha", "target", "f1", "auc", "average_precision", "frames"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def scores_table(results: Results) -> pd.DataFrame:
    """Macro F1 of every setting with its intervals, and how it is to be read."""
    parts = []
    headline = results.config.training.headline_alpha
    for name, task in results.tasks.items():
        table = task.macro_intervals()
        stopped = (table["method"] == "linear_probe") & table["encoder"].isin(task.stopped_probes())
        role = np.select(
            [
                stopped,
                table["method"] != "head",
                (table["variant"] == "") & (table["alpha"] == headline),
                (table["variant"] == "") & (table["alpha"] == 1),
            ],
            ["reference, not converged", "reference", "headline", "ERM"],
            "exploratory",
        )
        parts.append(table.assign(task=name, setting=table["name"], role=role))
    columns = [
        "task",
        "setting",
        "role",
        "seeds",
        "people",
        "unit",
        "estimate",
        "low",
        "high",
        "low_with_seeds",
        "high_with_seeds",
        "seed_deviation",
    ]
    # What is counted as one of the people: a person, a group of them, or a source video.
    return pd.concat(parts, ignore_index=True).assign(unit=unit_of(results.summary))[columns]


def comparisons_table(results: Results) -> pd.DataFrame:
    """Every paired comparison, by family."""
    parts = []
    for name, task in results.tasks.items():
        table = task.comparisons
        names = [(setting_name(row), setting_name(row, "second_")) for _, row in table.iterrows()]
        first, second = zip(*names, strict=True) if names else ((), ())
        parts.append(table.assign(task=name, setting=first, beside=second))
    columns = [
        "task",
        "family",
        "setting",
        "beside",
        "target",
        "seeds",
        "people",
        "unit",
        "difference",
        "low",
        "high",
        *TESTED,
    ]
    # What is counted as one of the people: a person, a group of them, or a source video.
    return pd.concat(parts, ignore_index=True).assign(unit=unit_of(results.summary))[columns]


def steps_table(results: Results) -> pd.DataFrame:
    """What each step after the head brought, and what was chosen."""
    parts = [task.steps.assign(task=name) for name, task in results.tasks.items()]
    known = [part for part in parts if len(part)]
    table = pd.concat(known, ignore_index=True) if known else parts[0]
    return table[["task", *COLUMNS]]


def write_tables(tables: dict[str, pd.DataFrame], folder: Path) -> None:
    """Write each table as ``<name>.csv`` and ``<name>.tex``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6f")
        write_text(folder / f"{name}.tex", latex(table, name))


def latex(table: pd.DataFrame, name: str) -> str:
    """A booktabs table; names with LaTeX in them are escaped."""
    shown = table.rename(columns=lambda column: column.replace("_", " "))
    numbers = shown.select_dtypes("number").columns
    style = shown.style.format(escape="latex", na_rep="--")
    style = style.format(precision=3, na_rep="--", subset=list(numbers))
    small = [column for column in ("p", "p adjusted") if column in shown]
    style = style.format(lambda p: "--" if np.isnan(p) else f"{p:.2g}", subset=small)
    style = style.format_index(escape="latex", axis="columns").hide(axis="index")
    columns = "".join("r" if column in numbers else "l" for column in shown)
    text: str = style.to_latex(hrules=True, column_format=columns, label=f"tab:{name}")
    return text
