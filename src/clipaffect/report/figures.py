"""The report's figures, as SVG and PNG, the same bytes for the same numbers."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from clipaffect.report.results import TaskResults

INK, ACCENT, SOFT = "#1f2933", "#0b6e99", "#c8d6df"
REFERENCE_COLOURS = ("#9aa5b1", "#b7791f", "#7b5ea7", "#2f855a", "#c05621")
matplotlib.rcParams.update(
    {
        "svg.hashsalt": "clipaffect",  # element ids would be random otherwise
        "svg.fonttype": "none",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "text.color": INK,
    }
)


def plain(names: tuple[str, ...]) -> list[str]:
    """Names that matplotlib draws as they are: a dollar sign would begin a formula."""
    return [name.replace("$", r"\$") for name in names]


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write ``<name>.svg`` and ``<name>.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
    figure.savefig(
        folder / f"{name}.png", dpi=150, metadata={"Software": None}, bbox_inches="tight"
    )


def alpha_curve(results: TaskResults, headline_alpha: float) -> Figure:
    """Macro F1 over alpha with one deviation over seeds, and the references as lines."""
    table = results.over_alpha()
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    spread = table["deviation"].fillna(0)
    axes.fill_between(
        table["alpha"], table["mean"] - spread, table["mean"] + spread, color=ACCENT, alpha=0.18
    )
    axes.plot(table["alpha"], table["mean"], "o-", color=ACCENT, label="head, mean over seeds")
    axes.axvline(headline_alpha, color=SOFT, zorder=0)
    for (name, value), colour in zip(results.references(), REFERENCE_COLOURS * 3, strict=False):
        axes.axhline(value, color=colour, linestyle="--", linewidth=1.2, label=name)
    axes.set(xlabel="CVaR level alpha (1 = ERM)", ylabel="macro F1, validation", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def target_bars(results: TaskResults, headline_alpha: float, support: dict[str, int]) -> Figure:
    """F1 of each class or unit at the headline alpha and under ERM."""
    names = results.task.targets
    figure = Figure(figsize=(8, 3.6))
    axes = figure.subplots()
    at = np.arange(len(names))
    axes.bar(at - 0.2, results.f1_of_targets(headline_alpha), 0.4, color=ACCENT,
             label=f"alpha = {headline_alpha:g}")  # fmt: skip
    axes.bar(at + 0.2, results.f1_of_targets(1.0), 0.4, color=SOFT, label="alpha = 1 (ERM)")
    labels = [
        f"{shown}\n{support.get(name, 0)}" for shown, name in zip(plain(names), names, strict=True)
    ]
    axes.set_xticks(at, labels, fontsize=8)
    axes.set(ylabel="F1, validation", ylim=(0, 1))
    axes.set_xlabel("with the number of validation frames that show it", fontsize=8)
    axes.legend(frameon=False, fontsize=8)
    return figure


def confusion_map(results: TaskResults, headline_alpha: float) -> Figure:
    """Shares of decisions for each true class, or of present and absent frames of each unit."""
    counts, names = results.counts(headline_alpha), results.task.targets
    if results.task.multilabel:
        columns: tuple[str, ...] = (
            "present, found",
            "present, missed",
            "absent, false alarm",
            "absent, left",
        )
        cells = ((1, 1), (1, 0), (0, 1), (0, 0))
        table = np.array([[counts.get(f"{n}:{a}>{b}", 0) for a, b in cells] for n in names])
        halves = [table[:, :2], table[:, 2:]]
        shares = np.hstack([half / np.maximum(half.sum(1, keepdims=True), 1) for half in halves])
    else:
        columns = names
        table = np.array([[counts.get(f"{a}>{b}", 0) for b in names] for a in names])
        shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(6.2, 5))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        axes.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=8,
                  color="white" if share > 0.55 else INK)  # fmt: skip
    axes.set_xticks(range(len(columns)), plain(columns), rotation=35, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), plain(names), fontsize=8)
    axes.set(xlabel="decision", ylabel="annotation")
    return figure
