"""Two runs side by side: what they differ in, and which scores changed significantly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clipaffect.core.files import write_text
from clipaffect.core.layout import Layout
from clipaffect.core.setting import Setting
from clipaffect.evaluation.intervals import FEWEST
from clipaffect.evaluation.person_counts import Counted, macro_f1, read_counts
from clipaffect.report.pages import page_environment
from clipaffect.report.paired import adjust, paired
from clipaffect.report.results import setting_name
from clipaffect.report.run_record import read_record

RESAMPLES = 10_000
KINDS = {
    "config": "configuration",
    "data": "data",
    "made": "features and heads",
    "code": "your own code",
    "stages": "stage versions",
    "versions": "packages",
}


@dataclass(frozen=True)
class Run:
    """One results folder.

    Attributes:
        folder: ``results/<run>``.
        record: its ``run.json``.
        counted: each task's counts by person.
    """

    folder: Path
    record: dict[str, Any]
    counted: dict[str, Counted]


def read_run(folder: Path) -> Run:
    """Read what a finished run says of itself.

    Raises:
        UserError: the folder holds no finished report.
    """
    record = read_record(folder)
    files = {task: Layout(folder).evaluation(task).person_counts for task in record["tasks"]}
    return Run(folder, record, {task: read_counts(file) for task, file in files.items()})


def flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    """A tree of dictionaries as dotted keys; an empty dictionary is a value of its own."""
    if not isinstance(values, dict) or (not values and prefix):
        return {prefix: values}
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def differences(first: Run, second: Run) -> list[dict[str, str]]:
    """Every key of the two records that differs: its kind, name, and both values."""
    rows = []
    for kind, name in KINDS.items():
        one, other = (flatten(run.record.get(kind, {})) for run in (first, second))
        rows += [{"kind": name} | row for row in changed_values(one, other)]
    return rows


def changed_values(one: dict[str, Any], other: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The keys whose values differ, with both values as text."""
    for key in sorted(one.keys() | other.keys()):
        values = [_shown(own[key]) if key in own else "not there" for own in (one, other)]
        if values[0] != values[1]:
            yield {"key": key, "first": values[0], "second": values[1]}


def change_in_words(row: dict[str, str]) -> str:
    """A changed value, for the terminal."""
    return f"{row['key']}: {row['first']} → {row['second']}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text[1:17] + "…" if isinstance(value, str) and len(value) == 64 else text  # a sha256


def moved(first: Run, second: Run) -> list[dict[str, Any]]:
    """One row for each setting that both runs have: both scores and what is to be said of them.

    On the same frames of the same people the runs are compared in pairs, as settings within a run
    are; p is adjusted by Holm's method over all rows. Otherwise only the two scores stand there.
    """
    rows = []
    for task in first.counted.keys() & second.counted.keys():
        one, other = first.counted[task], second.counted[task]
        theirs = {_alike(setting, second): setting for setting in other.seeds}
        for setting in one.seeds:
            match = theirs.get(_alike(setting, first))
            if match is not None:
                rows.append(_moved(task, (setting, match), one, other))
    adjust(rows)
    return sorted(rows, key=lambda row: (row["task"], row["order"]))


def _alike(setting: Setting, run: Run) -> Setting:
    """A setting by which two runs' are matched: heads on each run's own encoder are one."""
    own = setting.encoder == run.record["config"]["encoder"]
    return replace(setting, encoder="") if own else setting


def _moved(
    task: str, settings: tuple[Setting, Setting], one: Counted, other: Counted
) -> dict[str, Any]:
    """One row; the two settings are the same but for the runs' encoders."""
    pair = list(zip((one, other), settings, strict=True))
    seeds = sorted(one.seeds[settings[0]].keys() & other.seeds[settings[1]].keys())
    names = list(dict.fromkeys(setting_name(setting.columns()) for setting in settings))
    row: dict[str, Any] = {
        "task": task,
        "setting": " / ".join(names),
        "p": None,
        "p_adjusted": None,
        "order": tuple(map(str, settings[0].key)),
        "seeds": len(seeds),
        "other_seeds": len(one.seeds[settings[0]].keys() ^ other.seeds[settings[1]].keys()),
    }
    same = (
        bool(seeds)
        and one.people == other.people
        and one.targets == other.targets
        and np.array_equal(one.cells[settings[0]], other.cells[settings[1]])
    )
    sides = [[counted.seeds[setting][s] for s in seeds] for counted, setting in pair]
    if not same:
        scores = [
            float(np.mean([macro_f1(c.sum(axis=0)) for c in counted.seeds[setting].values()]))
            for counted, setting in pair
        ]
        return row | {
            "first": scores[0],
            "second": scores[1],
            "difference": scores[1] - scores[0],
            "low": None,
            "high": None,
            "verdict": "other frames or seeds: not tested",
        }
    return row | paired(sides[0], sides[1], RESAMPLES)


def alone(first: Run, second: Run) -> list[str]:
    """Settings that only one of the runs has, by name."""
    found = []
    for run, other in ((first, second), (second, first)):
        for task, counted in run.counted.items():
            theirs = other.counted[task].seeds if task in other.counted else {}
            known = {_alike(setting, other) for setting in theirs}
            found += [
                f"{task}, {setting_name(setting.columns())} (in {run.folder.name})"
                for setting in counted.seeds
                if _alike(setting, run) not in known
            ]
    return found


def answer(rows: list[dict[str, Any]], changed: list[dict[str, str]], single: list[str]) -> str:
    """What the comparison says, in two or three sentences."""
    settings = sum(row["kind"] == KINDS["config"] for row in changed)
    text = (
        "The two runs do not differ in any recorded value."
        if not changed
        else (f"The two runs differ in {len(changed)} things, {settings} of them settings.")
    )
    shown = [row for row in rows if row["verdict"] in ("better", "worse")]
    if single:
        text += f" {len(single)} scores are in only one of the runs."
    if not rows:
        return text + " They have no setting in common."
    same = all(abs(row["difference"]) < 1e-12 for row in rows)  # but for rounding
    where = ""
    if any(row["seeds"] and row["other_seeds"] for row in rows):
        where = (
            " on the seeds that both runs have; the reports' means are over all seeds of a run and "
            "may differ"
        )
    if same:
        return text + f" All {len(rows)} scores are the same{where}."
    return text + f" Of {len(rows)} scores {len(shown)} changed significantly{where}."


def write_comparison(first: Run, second: Run, out: Path) -> list[str]:
    """Write the page; returns its answer, and a line for each setting that differs."""
    changed, rows = differences(first, second), moved(first, second)
    single = alone(first, second)
    said = answer(rows, changed, single)
    page = (
        page_environment()
        .get_template("compare.html")
        .render(
            first=first.folder,
            second=second.folder,
            answer=said,
            changed=changed,
            rows=rows,
            fewest=FEWEST,
            resamples=RESAMPLES,
            single=single,
        )
    )
    write_text(out, page)
    settings = [row for row in changed if row["kind"] == KINDS["config"]]
    return [said, *map(change_in_words, settings)]
