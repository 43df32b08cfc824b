"""LaTeX tables for a paper: the main results, and the ablation over alpha and variants.

They need the packages booktabs and siunitx, and compile in any class that has floats.
"""

from __future__ import annotations

import pandas as pd

from clipaffect.core.files import write_text
from clipaffect.core.layout import Report
from clipaffect.report.headline import postprocessed
from clipaffect.report.results import Results, TaskResults, setting_name, unit_of

ESCAPED = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    }
)
Cell = tuple[float, float, float]  # estimate, low, high
Rows = dict[str, dict[str, Cell]]  # by name, then by task
OTHER_FRAMES = " frames)"  # ends the names of references on other frames than the heads'
PACKAGES = "% needs \\usepackage{booktabs} and \\usepackage{siunitx}\n"


def write_paper_tables(results: Results, files: Report) -> None:
    """Write ``main.tex`` and ``ablation.tex``."""
    protocol = _protocol(results)
    main = _table(_main_rows(results), results, f"Macro F1 {protocol}", "tab:main")
    write_text(files.main_table, main)
    caption = f"Ablation: macro F1 of every CVaR level and variant {protocol}"
    ablation = _table(_ablation_rows(results), results, caption, "tab:ablation")
    write_text(files.ablation_table, ablation)


def _main_rows(results: Results) -> Rows:
    """References, ERM, the headline, and the score after post-processing."""
    alpha = results.config.training.headline_alpha
    found: Rows = {}
    for kind in ("constant", "reference", "ERM", "headline"):
        for name, task in results.tasks.items():
            table = task.macro_intervals()
            is_head, has_encoder = table["method"] == "head", table["encoder"] != ""
            is_grid = is_head & (table["variant"] == "")
            chosen = {
                "constant": ~is_head & ~has_encoder,
                "reference": ~is_head & has_encoder,
                "ERM": is_grid & (table["alpha"] == 1),
                "headline": is_grid & (table["alpha"] == alpha),
            }[kind]
            _add(found, name, task, table[chosen])
    for name, task in results.tasks.items():
        after = postprocessed(task)
        if after is not None:
            low, high = (float("nan") if v is None else v for v in after["interval"])
            found.setdefault("after post-processing", {})[name] = after["macro_f1"], low, high
    return found


def _ablation_rows(results: Results) -> Rows:
    """Every alpha, then every variant."""
    found: Rows = {}
    for name, task in results.tasks.items():
        table = task.macro_intervals()
        heads = table[table["method"] == "head"]
        _add(found, name, task, heads.sort_values(["variant", "alpha"]))
    return found


def _add(rows: Rows, name: str, task: TaskResults, table: pd.DataFrame) -> None:
    """Add the rows of one task; references on other frames are named with their number."""
    others = [own for own, _ in task.references() if own.endswith(OTHER_FRAMES)]
    full = {own.rpartition(" (")[0]: own for own in others}
    for _, row in table.iterrows():
        cell = row["estimate"], row["low"], row["high"]
        setting = setting_name(row)
        if row["method"] == "head" and setting.startswith("alpha"):
            setting = f"CVaR, {setting}" if row["alpha"] < 1 else "ERM (alpha = 1)"
        rows.setdefault(full.get(setting, setting), {})[name] = cell


def _protocol(results: Results) -> str:
    """How the numbers were made, for a caption."""
    config, unit = results.config, unit_of(results.summary)
    where = f"over {config.data.split.folds} folds of whole people"
    if config.data.split.by != "folds":
        where = "on the validation split"
    counts = ", ".join(f"{n}: {t.resolution['people']}" for n, t in results.tasks.items())
    counts_of = [
        int(seeds)
        for task in results.tasks.values()
        for seeds in task.macro_intervals().query("method == 'head'")["seeds"]
    ]
    fewest, most = min(counts_of, default=0), max(counts_of, default=0)
    seeds = f"{most} seed{'s' if most != 1 else ''}"
    if fewest != most:
        seeds = f"{fewest} to {most} seeds"
    epoch = "the last epoch"
    if config.training.select_on != "last":
        epoch = "the epoch chosen on held-out training videos"
    known = any(task.macro_intervals()["low"].notna().any() for task in results.tasks.values())
    intervals = (
        f"with 95 % intervals over {unit}" if known else f"without intervals: too few {unit}"
    )
    return (
        f"{where} ({unit}: {counts}), frames pooled over videos; mean of {seeds} "
        f"at {epoch}, {intervals}. Heads on {config.encoder}. "
        f"Alpha = {config.training.headline_alpha:g} was fixed beforehand. "
        "The highest score of each task on the same frames is bold."
    )


def _table(rows: Rows, results: Results, caption: str, label: str) -> str:
    tasks = list(results.tasks)
    best = {
        task: max(
            (
                cells[task][0]
                for name, cells in rows.items()
                if task in cells and not name.endswith(OTHER_FRAMES)
            ),
            default=None,
        )
        for task in tasks
    }
    # With several tasks, over both columns of a page.
    float_ = "table*" if len(tasks) > 1 else "table"
    lines = [
        f"{PACKAGES}\\begin{{{float_}}}",
        r"\centering\small",
        f"\\caption{{{escaped(caption)}}}",
        f"\\label{{{label}}}",
        f"\\begin{{tabular}}{{l{'c' * len(tasks)}}}",
        r"\toprule",
        " & ".join(["", *map(escaped, tasks)]) + r" \\",
        r"\midrule",
    ]
    for name, cells in rows.items():
        shown = [
            _cell(cells[task], cells[task][0] == best[task] and not name.endswith(OTHER_FRAMES))
            if task in cells
            else "--"
            for task in tasks
        ]
        lines.append(" & ".join([escaped(name), *shown]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", f"\\end{{{float_}}}"]
    return "\n".join(lines) + "\n"


def _cell(cell: Cell, is_best: bool) -> str:
    estimate, low, high = cell
    text = f"\\num{{{estimate:.3f}}}"
    if is_best:
        text = f"\\textbf{{{estimate:.3f}}}"
    if pd.isna(low):
        return text
    return f"{text} [\\num{{{low:.3f}}}, \\num{{{high:.3f}}}]"


def escaped(text: str) -> str:
    """A text for LaTeX, whatever is in it."""
    return text.translate(ESCAPED)
