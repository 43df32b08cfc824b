"""Stage ``comparison``: intervals of every setting, and paired tests between settings.

A setting is everything that names a score but its seed. Two families of tests, each adjusted by
Holm's method: ``planned`` (the headline against plain ERM and every reference, fixed before any
score was seen) and ``exploratory`` (the other alphas and the variants).
"""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from clipaffect.config.models import Evaluation
from clipaffect.config.training import Training
from clipaffect.core import layout
from clipaffect.core.files import write_text
from clipaffect.core.parquet import write_table
from clipaffect.core.setting import Setting
from clipaffect.core.tasks import Task
from clipaffect.evaluation.intervals import FEWEST, Interval, intervals
from clipaffect.evaluation.paired_test import holm, swap_test
from clipaffect.evaluation.person_counts import Counted, macro_f1, read_counts

POWER = 0.8
FOUND = float(ndtri(0.975) + ndtri(POWER))  # standard errors of a difference that is found
SAME = 1e-9  # a person's means over seeds that differ by rounding are a tie
# What a paired test says, in the order of every table of comparisons.
TESTED = ("p", "p_adjusted", "effect", "resolvable", "people_better", "people_worse")
PLANNED, EXPLORATORY, TARGETS = "planned", "exploratory", "targets"


def compare_heads(
    settings: Training, evaluation: Evaluation, encoder: str, task: Task, counts: Path, out: Path
) -> None:
    """Write ``intervals.parquet``, ``comparisons.parquet`` and ``resolution.json`` to ``out``.

    Args:
        settings: the ``training`` section: which alpha is the headline.
        evaluation: how many exchanges of people a test makes.
        encoder: the one that the heads were trained on.
        task: the task.
        counts: ``clusters.parquet`` of the task.
        out: a folder.
    """
    files = layout.Evaluation(out)
    counted = read_counts(counts)
    headline = Setting("head", encoder, "", settings.headline_alpha)
    erm = Setting("head", encoder, "", 1.0)
    shown = [s for s in dict.fromkeys((headline, erm)) if s in counted.seeds]
    resamples = evaluation.resamples
    single = [counted.target(number) for number in range(len(task.targets))]
    rows = interval_rows(counted, list(counted.seeds), "")
    pairs = _pairs(counted, headline, erm)
    compared = compare_pairs(counted, pairs, "", resamples)
    for name, own in zip(task.targets, single, strict=True):
        rows += interval_rows(own, shown, name)
        if len(shown) == 2:
            compared += compare_pairs(own, [(shown[0], shown[1], TARGETS)], name, resamples)
    adjust_by_family(compared)
    write_table(files.intervals, pd.DataFrame(rows))
    # Stated, so that the columns are there where nothing could be compared.
    columns = [
        *Setting.NAMES,
        *(f"second_{name}" for name in Setting.NAMES),
        "family",
        "target",
        "seeds",
        "people",
        "difference",
        "low",
        "high",
        "low_with_seeds",
        "high_with_seeds",
        *TESTED,
    ]
    write_table(files.comparisons, pd.DataFrame(compared, columns=columns))
    found = resolution(counted, erm)
    write_text(files.resolution, json.dumps(found, indent=2) + "\n")


def _pairs(counted: Counted, headline: Setting, erm: Setting) -> list[tuple[Setting, Setting, str]]:
    """The pairs to compare, by family, except for settings scored on other frames."""
    references = [s for s in counted.seeds if s.method != "head"]
    pairs = [(headline, other, PLANNED) for other in (erm, *references) if other != headline]
    for setting in counted.seeds:
        if setting.method != "head" or setting in (headline, erm):
            continue
        # Compare an alpha of the grid with ERM, and a variant with the grid's head of its alpha.
        same = Setting("head", setting.encoder, "", setting.alpha)
        other = erm if not setting.variant else (same if same in counted.seeds else headline)
        pairs.append((setting, other, EXPLORATORY))
    return [
        (a, b, family)
        for a, b, family in pairs
        if a in counted.seeds
        and b in counted.seeds
        and np.array_equal(counted.cells[a], counted.cells[b])
    ]


def interval_rows(counted: Counted, settings: list[Setting], target: str) -> list[dict[str, Any]]:
    """One row for each setting: its estimate, mean over seeds, with its uncertainty."""
    members: dict[str, np.ndarray] = {}
    contrasts: list[dict[str, float]] = []
    for number, setting in enumerate(settings):
        own = {f"{number}/{seed}": counts for seed, counts in counted.seeds[setting].items()}
        members |= own
        contrasts.append(dict.fromkeys(own, 1 / len(own)))
    rows = []
    found = intervals(members, contrasts)
    for setting, interval in zip(settings, found, strict=True):
        by_seed = [macro_f1(counts.sum(axis=0)) for counts in counted.seeds[setting].values()]
        row = setting.columns() | {"target": target, "people": len(counted.people)}
        rows.append(row | {"estimate": interval.estimate} | _uncertainty(interval, by_seed))
    return rows


def _uncertainty(interval: Interval, by_seed: list[Any]) -> dict[str, Any]:
    """Bounds over people, and over people and seeds where there is more than one."""
    wide, deviation = (float("nan"), float("nan")), float("nan")
    if len(by_seed) > 1:
        deviation = float(np.std(by_seed, ddof=1))
        wide = interval.widened(deviation**2 / len(by_seed))
    return {
        "seeds": len(by_seed),
        "low": interval.low,
        "high": interval.high,
        "standard_error": interval.standard_error,
        "seed_deviation": deviation,
        "low_with_seeds": wide[0],
        "high_with_seeds": wide[1],
    }


def compare_pairs(
    counted: Counted, pairs: list[tuple[Setting, Setting, str]], target: str, resamples: int
) -> list[dict[str, Any]]:
    """One row for each pair, over the seeds that both have."""
    members: dict[str, np.ndarray] = {}
    contrasts: list[dict[str, float]] = []
    sides: list[tuple[list[np.ndarray], list[np.ndarray]]] = []
    for first, second, _ in pairs:
        one, other = counted.seeds[first], counted.seeds[second]
        seeds = sorted(one) if set(other) == {-1} else sorted(set(one) & set(other))
        if not seeds:
            contrasts.append({})
            sides.append(([], []))
            continue
        theirs = [-1] if set(other) == {-1} else seeds
        contrast: dict[str, float] = {}
        for setting, chosen, sign in ((first, seeds, 1.0), (second, theirs, -1.0)):
            for seed in chosen:
                name = json.dumps([*setting.key, seed])
                members[name] = counted.seeds[setting][seed]
                contrast[name] = sign / len(chosen)
        contrasts.append(contrast)
        sides.append(([one[s] for s in seeds], [other[s] for s in theirs]))
    kept = [number for number, contrast in enumerate(contrasts) if contrast]
    found = intervals(members, [contrasts[k] for k in kept])
    rows = []
    for number, interval in zip(kept, found, strict=True):
        first, second, family = pairs[number]
        rows.append(
            first.columns()
            | second.columns("second_")
            | {"family": family, "target": target, "people": len(counted.people)}
            | _paired(interval, *sides[number], resamples)
        )
    return rows


def _paired(
    interval: Interval, first: list[np.ndarray], second: list[np.ndarray], resamples: int
) -> dict[str, Any]:
    """A difference with its interval, p value, effect size, and how many people it holds for."""
    people = len(first[0])
    theirs = second * len(first) if len(second) == 1 else second
    by_seed = [
        macro_f1(a.sum(axis=0)) - macro_f1(b.sum(axis=0))
        for a, b in zip(first, theirs, strict=True)
    ]
    better = people_f1(first) - people_f1(second)
    enough = people >= FEWEST
    uncertainty = _uncertainty(interval, by_seed)
    spread = interval.standard_error * np.sqrt(people)
    return {
        "seeds": len(first),
        "difference": interval.estimate,
        **{k: uncertainty[k] for k in ("low", "high", "low_with_seeds", "high_with_seeds")},
        "p": swap_test(first, second, resamples) if enough else float("nan"),
        # Cohen's d of the people's contributions to the difference.
        "effect": interval.estimate / spread if enough and spread > 0 else float("nan"),
        # What a test of this pair, alone, finds in 80 % of cases.
        "resolvable": FOUND * interval.standard_error,
        "people_better": int((better > SAME).sum()),
        "people_worse": int((better < -SAME).sum()),
    }


def people_f1(counts: list[np.ndarray]) -> np.ndarray:
    """(C,) F1 over one person's own frames, all targets together, mean over seeds."""
    sums = np.stack(counts).sum(axis=2)  # (seeds, C, 3)
    found: np.ndarray = macro_f1(sums[:, :, None, :]).mean(axis=0)
    return found


def adjust_by_family(rows: list[dict[str, Any]]) -> None:
    """Add ``p_adjusted``, by family."""
    for family in {row["family"] for row in rows}:
        own = [row for row in rows if row["family"] == family]
        known = [row for row in own if not np.isnan(row["p"])]
        for row in own:
            row["p_adjusted"] = float("nan")
        for row, p in zip(known, holm([row["p"] for row in known]), strict=True):
            row["p_adjusted"] = p


def resolution(counted: Counted, erm: Setting) -> dict[str, Any]:
    """The smallest difference between two trainings of a recipe that these people can resolve.

    Known before any comparison with ERM, because its own seeds differ only by chance. With e the
    standard error over people of the difference of two seeds and s the seeds' deviation (which
    holds a part of e: both are measured on the same people), a mean over S paired seeds has the
    variance max(e^2, 2 s^2) / S; a difference of (z_0.975 + z_0.8) times its root is found in 80 %
    of cases by one test. Other methods than ERM may agree more or less from person to person: the
    comparisons' own ``resolvable`` says what each of them could show. None with one seed or fewer
    than ``FEWEST`` people.
    """
    seeds = counted.seeds.get(erm, {})
    found: dict[str, Any] = {"people": len(counted.people), "seeds": len(seeds), "power": POWER}
    if len(seeds) < 2 or len(counted.people) < FEWEST:
        return found | {"smallest_gain": None}
    members = {str(seed): counts for seed, counts in seeds.items()}
    contrasts = [{a: 1.0, b: -1.0} for a, b in combinations(members, 2)]
    errors = [i.standard_error for i in intervals(members, contrasts)]
    deviation = np.std([macro_f1(c.sum(axis=0)) for c in seeds.values()], ddof=1)
    variance = max(np.mean(np.square(errors)), 2 * deviation**2) / len(seeds)
    return found | {"smallest_gain": float(FOUND * np.sqrt(variance))}
