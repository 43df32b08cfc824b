"""Print the preflight check: what was found, what will run and what it will cost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from clipaffect.config.models import Config
from clipaffect.dataset.summary_text import class_cells, data_notes
from clipaffect.ops.estimate import Cost
from clipaffect.ops.expected_time import START

COLUMNS = 5  # of splits or folds in a terminal


def show(
    console: Console,
    config: Config,
    facts: dict[str, Any],
    jobs: dict[str, int] | None,
    costs: Iterable[Cost],
) -> None:
    """Print the summary in a box.

    Args:
        console: where to print.
        config: the run.
        facts: see ``dataset.facts.collect``.
        jobs: by rule; None if there is no workflow.
        costs: lines of the estimate, measured lazily.
    """
    parts: list[RenderableType] = [_splits(facts)]
    parts += [_classes(task, splits) for task, splits in facts["tasks"].items()]
    parts += [Text(f"• {line}") for line in data_notes(facts)]
    if jobs is not None:
        listed = ", ".join(f"{count} {rule}" for rule, count in jobs.items())
        total = sum(jobs.values())
        parts.append(Text(f"\n{total} jobs to run: {listed}" if total else "\nNo jobs to run"))
    else:
        parts.append(
            Text(
                "\nJobs: not listed. There is no Snakefile here, or its dry run failed. Run this "
                "from the root of the repository; 'snakemake -n --configfile FILE' shows the error"
            )
        )
    with console.status("measuring this machine"):
        found = list(costs)
    if found:
        count = sum((jobs or {}).values())
        note = "for each, Python and its libraries start; measured on one machine"
        hours = count * START / 3600
        parts.append(_costs([*found, Cost(f"start of {count} jobs", hours, "core", 0, note)]))
    title = f"{config.run}: results go to results/{config.run}/"
    console.print(Panel(Group(*parts), title=title, border_style="green"))


def _splits(facts: dict[str, Any]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),  # nine columns fit a terminal of 80
        pad_edge=False,
        title="Annotated frames",
        title_justify="left",
        caption="–: unknown until faces have been detected in the videos",
        caption_justify="left",
    )
    for name in ("task", "split"):
        table.add_column(name)
    people = "people" if facts["names_people"] else "people by video"
    for name in ("videos", people, "rows", "labelled", "with image", "no image", "beyond"):
        table.add_column(name, justify="right")
    for task, splits in facts["tasks"].items():
        for split, found in splits.items():
            with_image = found["with_image"]
            numbers = (found[k] for k in ("videos", "people", "rows", "annotated"))
            table.add_row(
                task,
                split,
                *(f"{n:,}" for n in numbers),
                "–" if with_image is None else f"{with_image:,}",
                f"{found['without_image']:,}",
                f"{found['beyond']:,}",
            )
    return table


def _classes(task: str, splits: dict[str, Any]) -> Table:
    """One row for each class or label; one column for each split, or the range over folds."""
    table = Table(box=box.SIMPLE_HEAD, title=f"Frames for {task}", title_justify="left")
    table.add_column("")
    if len(splits) <= COLUMNS:
        for split in splits:
            table.add_column(split, justify="right")
        cells = [class_cells(found) for found in splits.values()]
        for name in cells[0]:
            table.add_row(escape(name), *(own[name] for own in cells))
        return table
    for column in (f"all {len(splits)} folds", "fewest per fold", "most per fold"):
        table.add_column(column, justify="right")
    for name in next(iter(splits.values()))["counts"]:
        counts = [found["counts"][name] for found in splits.values()]
        table.add_row(escape(name), f"{sum(counts):,}", f"{min(counts):,}", f"{max(counts):,}")
    return table


def _costs(costs: list[Cost]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        title="Estimated cost on this machine, within a factor of two",
        title_justify="left",
        caption="Disk includes the results and the store. The probe, the scores and the "
        "report are not estimated.",
        caption_justify="left",
    )
    table.add_column("work")
    table.add_column("time", justify="right")
    table.add_column("on one")
    table.add_column("disk", justify="right")
    table.add_column("basis")
    for cost in costs:
        hours = "?" if cost.hours is None else _hours(cost.hours)
        table.add_row(cost.work, hours, cost.on, _size(cost.disk), escape(cost.note))
    for on in sorted({cost.on for cost in costs}):
        total = sum(cost.hours or 0 for cost in costs if cost.on == on)
        disk = sum(cost.disk for cost in costs if cost.on == on)
        table.add_row("total", _hours(total), on, _size(disk), "")
    return table


def _hours(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.1f} min"
    return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.1f} h"


def _size(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
