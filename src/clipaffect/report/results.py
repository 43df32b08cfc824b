"""Read a results folder into the few tables that pages and figures are made of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipaffect.config.models import Config
from clipaffect.config.stage_keys import evaluated, settings_json
from clipaffect.core.files import read_json
from clipaffect.core.layout import Layout, Postprocessing, Study
from clipaffect.core.parquet import read_table
from clipaffect.core.tasks import Task
from clipaffect.evaluation.score_provenance import check_provenance
from clipaffect.postprocess.steps import COLUMNS


@dataclass(frozen=True)
class TaskResults:
    """Everything about one task.

    Attributes:
        metrics: tidy table of ``evaluation/<task>/metrics.parquet``.
        heads: one row a head: variant, alpha, seed, status, kept epoch, its inner score, the best
            epoch on validation.
        rows: annotated frames: split, status.
        frames: how the annotated validation frames are scored (``evaluation/<task>/frames.json``).
        intervals, comparisons, resolution: what ``evaluation.comparisons`` wrote.
        steps: what ``postprocess`` wrote; no rows where it is switched off or could not choose.
        choices: the same stage's choices, or a ``note``.
        fits: how the linear probes were fitted, by encoder and fold.
        agreement: of several raters with each other; None where there is only one.
    """

    task: Task
    metrics: pd.DataFrame
    heads: pd.DataFrame
    rows: pd.DataFrame
    frames: dict[str, Any]
    intervals: pd.DataFrame
    comparisons: pd.DataFrame
    resolution: dict[str, Any]
    steps: pd.DataFrame
    choices: dict[str, Any]
    fits: dict[str, dict[str, Any]] = field(default_factory=dict)
    agreement: dict[str, Any] | None = None

    def stopped_probes(self) -> list[str]:
        """Encoders whose linear probe did not converge in some fold."""
        return [
            encoder
            for encoder, folds in self.fits.items()
            if not all(own["converged"] for own in folds.values())
        ]

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

    def macro_intervals(self) -> pd.DataFrame:
        """One row a setting, of all targets together; ``name`` is what a reader calls it."""
        own = self.intervals[self.intervals["target"] == ""]
        return own.assign(name=[setting_name(row) for _, row in own.iterrows()])

    def over_alpha(self) -> pd.DataFrame:
        """The intervals of the grid's own heads, by alpha."""
        own = self.macro_intervals()
        own = own[(own["method"] == "head") & (own["variant"] == "")]
        return own.sort_values("alpha", ignore_index=True)

    def interval(self, alpha: float) -> dict[str, Any] | None:
        """The grid's interval at one alpha; None without a finished head."""
        own = self.over_alpha()
        own = own[own["alpha"] == alpha]
        return None if own.empty else without_nan(own.iloc[0].to_dict())

    def mean_of(self, metric: str, alpha: float) -> float | None:
        """A metric's mean over the seeds of the grid's heads at one alpha."""
        value = float(self.values(metric, "head", alpha=alpha)["value"].mean())
        return None if np.isnan(value) else value

    def variants(self) -> list[dict[str, Any]]:
        """Macro F1 of each variant's heads, by variant and alpha (None for losses without one)."""
        m = self.metrics[self.metrics["fold"] == 0]
        chosen = m[(m["metric"] == "macro_f1") & (m["method"] == "head") & (m["variant"] != "")]
        groups = chosen.groupby(["variant", "alpha"], dropna=False)["value"]
        return [
            {"variant": variant, "alpha": None if np.isnan(alpha) else alpha, **spread_of(values)}
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
        if means.empty:
            return None
        spread = {k: v for k, v in spread_of(means).items() if k != "seeds"}
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

    def complete_rows(self, alpha: float) -> dict[str, float] | None:
        """Macro F1 on the frames with every label annotated, mean over seeds, and their number.

        None where these are all frames that are scored.
        """
        frames = self.mean_of("complete_frames", alpha)
        if not frames or frames == self.mean_of("frames", alpha):
            return None
        score = self.mean_of("complete_macro_f1", alpha)
        return {"frames": frames, "macro_f1": score or 0.0}

    def last_epochs(self, alpha: float) -> dict[str, float] | None:
        """Lowest and highest mean over seeds of macro F1 on validation over the last epochs.

        None where ``best_validation_epoch`` is None.
        """
        if self.best_validation_epoch(alpha) is None:
            return None
        heads = self.heads[(self.heads["variant"] == "") & (self.heads["alpha"] == alpha)]
        row = heads[heads["status"] == "ok"].iloc[0]
        return {name: float(row[f"last_epochs_{name}"]) for name in ("count", "low", "high")}

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
            name = reference_name(row["method"], row["encoder"])
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


def setting_name(row: pd.Series | dict[str, Any], prefix: str = "") -> str:
    """What a setting is called for a reader: a head by variant and alpha, or a reference."""
    method, encoder, variant, alpha = (
        row[f"{prefix}{key}"] for key in ("method", "encoder", "variant", "alpha")
    )
    if method != "head":
        return reference_name(method, encoder)
    level = "" if np.isnan(alpha) else f"alpha = {alpha:g}"
    if level and alpha == 1:
        level += " (ERM)"
    return ", ".join(part for part in (variant, level) if part)


def without_nan(values: dict[str, Any]) -> dict[str, Any]:
    """NaN as None, which JSON and templates have a word for; numpy's numbers as Python's."""
    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
    return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in plain.items()}


def spread_of(values: pd.Series) -> dict[str, Any]:
    """Mean, sample deviation (None for one seed) and number of seeds."""
    deviation = float(values.std())
    return {
        "mean": float(values.mean()),
        "deviation": None if np.isnan(deviation) else deviation,
        "seeds": len(values),
    }


def reference_name(method: str, encoder: str) -> str:
    """What a reference is called for a reader."""
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
    summary: dict[str, Any] = read_json(Layout(folder).dataset.summary)
    return summary


def unit_of(summary: dict[str, Any]) -> str:
    """What intervals and tests draw, for a reader."""
    unit: str = summary["unit"]
    return unit


def _read_steps(config: Config, files: Postprocessing) -> tuple[pd.DataFrame, dict[str, Any]]:
    if not config.postprocess.steps:
        return pd.DataFrame(columns=COLUMNS), {}
    return read_table(files.steps), read_json(files.choices)


def read_results(config: Config, folder: Path, study: Study | None = None) -> Results:
    """Read what the evaluation of a run, or of one of its studies, has written.

    Raises:
        UserError: a task's scores were made by another run.
    """
    tasks = {}
    for name, task in config.tasks().items():
        table = Layout(folder).table(config.encoder, name)
        own = (study or Layout(folder)).evaluation(name)
        settings = json.loads(settings_json(config, "evaluation", *evaluated(config, name)))
        check_provenance(settings, table, own)
        tasks[name] = TaskResults(
            task,
            read_table(own.metrics),
            read_table(own.heads),
            read_table(table.rows, ["split", "status"]),
            read_json(own.frames),
            read_table(own.intervals),
            read_table(own.comparisons),
            read_json(own.resolution),
            *_read_steps(config, Layout(folder).postprocessing(name)),
            read_json(own.reference_fits),
            read_json(Layout(folder).agreement(name)) if config.data.has_raters else None,
        )
    return Results(config, read_summary(folder), tasks)
