"""Read a results folder into the few tables that pages and figures are made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipaffect.config.models import Config
from clipaffect.tables import read_frame
from clipaffect.tasks import Task


@dataclass(frozen=True)
class TaskResults:
    """Everything about one task.

    Attributes:
        metrics: tidy table of ``evaluation/<task>/metrics.parquet``.
        heads: one row a head: variant, alpha, seed, status, kept epoch, its inner score, the best
            epoch on validation.
        rows: annotated frames: split, status.
        frames: how the annotated validation frames are scored (``evaluation/<task>/frames.json``).
    """

    task: Task
    metrics: pd.DataFrame
    heads: pd.DataFrame
    rows: pd.DataFrame
    frames: dict[str, Any]

    def values(self, metric: str, method: str, variant: str = "", **where: Any) -> pd.DataFrame:
        """Rows of one metric, method and variant, with further columns fixed.

        Over the frames of all folds together, unless ``fold`` is given.
        """
        m = self.metrics
        chosen = (m["metric"] == metric) & (m["method"] == method) & (m["variant"] == variant)
        where = {"fold": 0} | where
        for column, value in where.items():
            chosen &= m[column] == value
        return m[chosen]

    def over_alpha(self) -> pd.DataFrame:
        """Columns alpha, mean, deviation (over seeds, n - 1), seeds: macro F1 of the heads."""
        by_alpha = self.values("macro_f1", "head").groupby("alpha")["value"]
        return by_alpha.agg(mean="mean", deviation="std", seeds="count").reset_index()

    def variants(self) -> list[dict[str, Any]]:
        """Macro F1 of each variant's heads, by variant and alpha (None for losses without one)."""
        m = self.metrics[self.metrics["fold"] == 0]
        chosen = m[(m["metric"] == "macro_f1") & (m["method"] == "head") & (m["variant"] != "")]
        groups = chosen.groupby(["variant", "alpha"], dropna=False)["value"]
        return [
            {"variant": variant, "alpha": None if np.isnan(alpha) else alpha, **_spread(values)}
            for (variant, alpha), values in groups
        ]

    def over_folds(self, alpha: float) -> dict[str, Any] | None:
        """Macro F1 of each fold at one alpha, mean over seeds, and their spread; None: no folds."""
        if not self.frames["folds"]:
            return None
        m = self.metrics
        chosen = (m["metric"] == "macro_f1") & (m["method"] == "head") & (m["variant"] == "")
        chosen &= (m["alpha"] == alpha) & (m["fold"] > 0)
        means = m[chosen].groupby("fold")["value"].mean()
        spread = {k: v for k, v in _spread(means).items() if k != "seeds"}
        return spread | {"folds": {str(fold): float(value) for fold, value in means.items()}}

    def best_validation_epoch(self, alpha: float) -> float | None:
        """Mean over seeds of the best epoch's macro F1 on validation: optimistic, never chosen.

        None where frames without a crop are scored too (epochs are watched on those with one), and
        under k-fold evaluation (folds are watched one by one).
        """
        if self.frames["missing"] != "leave_out" or self.frames["folds"]:
            return None
        heads = self.heads[(self.heads["variant"] == "") & (self.heads["alpha"] == alpha)]
        values = heads.loc[heads["status"] == "ok", "best_validation_macro_f1"].dropna()
        return float(values.mean()) if len(values) else None

    def chosen_alpha(self) -> float | None:
        """The alpha with the best mean score on held-out training videos; None without any.

        None under k-fold evaluation too: one fold's training videos are scored in another.
        """
        if self.frames["folds"]:
            return None
        heads = self.heads[(self.heads["variant"] == "") & (self.heads["status"] == "ok")]
        scores = heads.groupby("alpha")["inner_macro_f1"].mean().dropna()
        return float(scores.idxmax()) if len(scores) else None

    def references(self) -> list[tuple[str, float]]:
        """(name, macro F1) of every reference: the constant, then the encoders by name."""
        m = self.metrics[
            (self.metrics["metric"] == "macro_f1")
            & (self.metrics["method"] != "head")
            & (self.metrics["fold"] == 0)
        ]
        m = m.sort_values(["encoder"], kind="stable")  # constants have none and come first
        frames = self.metrics[(self.metrics["metric"] == "frames") & (self.metrics["fold"] == 0)]
        mine = self.frames["with_crop"] + self.frames["filled"]
        found = []
        for _, row in m.iterrows():
            name = _reference_name(row["method"], row["encoder"])
            same = (frames["method"] == row["method"]) & (frames["encoder"] == row["encoder"])
            count = int(frames.loc[same, "value"].iloc[0])
            found.append((name if count == mine else f"{name} ({count:,} frames)", row["value"]))
        return found

    def f1_of_targets(self, alpha: float) -> np.ndarray:
        """Mean over seeds of each target's F1 (targets,) at one alpha."""
        means = self.values("f1", "head", alpha=alpha).groupby("target")["value"].mean()
        return means.reindex(list(self.task.targets)).to_numpy()

    def support(self) -> dict[str, int]:
        """Scored validation frames that show each class or unit."""
        return dict(self.frames["support"])

    def counts(self, alpha: float) -> dict[str, float]:
        """Confusion counts by ``truth>decision`` at one alpha, seeds pooled."""
        sums = self.values("count", "head", alpha=alpha).groupby("target")["value"].sum()
        return {str(key): float(value) for key, value in sums.items()}


def _spread(values: pd.Series) -> dict[str, Any]:
    """Mean, sample deviation (None for one seed) and number of seeds."""
    deviation = float(values.std())
    return {
        "mean": float(values.mean()),
        "deviation": None if np.isnan(deviation) else deviation,
        "seeds": len(values),
    }


def _reference_name(method: str, encoder: str) -> str:
    names = {
        "constant": "constant (largest class)",
        "all_positive": "every label always present",
        "linear_probe": f"linear probe on {encoder}",
        "zero_shot": f"zero-shot {encoder}, by prompts",
    }
    return names[method]


@dataclass(frozen=True)
class Results:
    """A results folder.

    Attributes:
        config: what was run.
        summary: ``dataset/summary.json``.
        tasks: by name, in the configuration's order.
    """

    config: Config
    summary: dict[str, Any]
    tasks: dict[str, TaskResults]


def read_summary(folder: Path) -> dict[str, Any]:
    """The data set's summary."""
    summary: dict[str, Any] = json.loads((folder / "dataset/summary.json").read_text())
    return summary


def read_results(config: Config, folder: Path) -> Results:
    """Read what the evaluation left in a results folder."""
    tasks = {}
    for name, task in config.tasks().items():
        rows = folder / "tables" / config.encoder / name / "rows.parquet"
        tasks[name] = TaskResults(
            task,
            read_frame(folder / "evaluation" / name / "metrics.parquet"),
            read_frame(folder / "evaluation" / name / "heads.parquet"),
            read_frame(rows, ["split", "status"]),
            json.loads((folder / "evaluation" / name / "frames.json").read_text()),
        )
    return Results(config, read_summary(folder), tasks)


def runs_table(results: Results) -> pd.DataFrame:
    """One row for every head and reference: what it is, its status, its scores.

    Under k-fold evaluation a row without a fold is over the frames of all folds together.
    """
    parts = []
    for name, task in results.tasks.items():
        scores = task.metrics[task.metrics["metric"].isin(["macro_f1", "accuracy"])]
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
    columns = ["task", *keys, "status", "collapsed", "macro_f1", "accuracy"]
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


def headline(results: Results) -> dict[str, Any]:
    """The numbers of ``metrics.json``."""
    found: dict[str, Any] = {"run": results.config.run, "split": "validation", "tasks": {}}
    for name, task in results.tasks.items():
        by_alpha = task.values("macro_f1", "head").groupby("alpha")["value"]
        alphas = {f"{alpha:g}": _spread(values) for alpha, values in by_alpha}
        alpha = f"{results.config.training.headline_alpha:g}"
        found["tasks"][name] = {
            "metric": "macro_f1",
            "headline_alpha": float(alpha),
            "headline": alphas.get(alpha),
            "erm": alphas.get("1"),
            "alphas": alphas,
            "references": dict(task.references()),
            "absent_in_validation": [k for k, count in task.support().items() if not count],
            "variants": task.variants(),
            "best_validation_epoch": task.best_validation_epoch(float(alpha)),
            "chosen_alpha": task.chosen_alpha(),
            "over_folds": task.over_folds(float(alpha)),
            "collapsed_heads": int(task.heads["collapsed"].sum()),
            "frames": {k: v for k, v in task.frames.items() if k != "support"},
            "failed_heads": int((task.heads["status"] != "ok").sum()),
        }
    return found
