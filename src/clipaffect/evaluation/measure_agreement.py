"""Stage ``agreement``: how well raters agree with each other, on all rated frames of scored people.

Krippendorff's alpha for nominal data (Krippendorff 2011, "Computing Krippendorff's
Alpha-Reliability") is 1 - D_o / D_e, from coincidences that add up over people. The macro F1 of a
rater, scored against the majority of the others, is what a model's score can be compared with: a
model that reaches it disagrees with the labels no more than a person does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipaffect.core.files import write_text
from clipaffect.core.frame_status import KEYS
from clipaffect.core.parquet import read_table
from clipaffect.core.tasks import NOT_ANNOTATED, Task
from clipaffect.dataset.raters import count_votes, majority
from clipaffect.evaluation.fill_missing import PERSON
from clipaffect.evaluation.intervals import Interval, interval_of, intervals
from clipaffect.evaluation.person_counts import cluster_counts, count_array


def measure_agreement(ratings: Path, scored: Path, task: Task, out: Path) -> None:
    """Write the agreement of the raters as JSON.

    Args:
        ratings: ``dataset/ratings/<task>.parquet``: a row for each frame, person and rater.
        scored: ``rows.parquet`` of the evaluation, which names the people.
        task: the task.
        out: the file.
    """
    # All rated frames of the scored people: where raters disagree, no label is scored.
    owners = read_table(scored)[["group", *PERSON]].astype({"group": str}).drop_duplicates()
    rated = read_table(ratings).merge(owners, on=PERSON, validate="many_to_one")
    write_text(out, json.dumps(agreement(rated, task), indent=2) + "\n")


def agreement(rated: pd.DataFrame, task: Task) -> dict[str, Any]:
    """Krippendorff's alpha and the raters' macro F1, with intervals over people.

    Args:
        rated: ``KEYS``, group, rater and the columns of the task; a row for each frame and rater.
        task: the task.

    Returns:
        raters; frames (with two ratings or more); tied (of these, without a majority); people;
        ``alpha`` and ``macro_f1``, each with estimate, low and high; ``alphas`` by target and
        ``raters_f1`` by rater. None where it is not defined.
    """
    unit = rated.groupby(KEYS, sort=False, observed=True).ngroup().to_numpy()
    units = int(unit.max()) + 1 if len(unit) else 0
    people, code = np.unique(rated["group"].astype(str), return_inverse=True)
    person = np.zeros(units, np.int64)
    person[unit] = code
    labels = rated[list(task.columns)].to_numpy()
    values = 2 if task.multilabel else len(task.targets)
    columns = []
    several = np.zeros(units, bool)
    for place in range(labels.shape[1]):
        votes = count_votes(labels[:, place], unit, units, values)
        several |= votes.sum(axis=1) > 1
        columns.append(coincidences(votes, person, len(people)))
    found_majority, _ = majority(labels, unit, task)
    decided = (found_majority != NOT_ANNOTATED).any(axis=1)
    alphas = {}
    if task.multilabel:
        alphas = {
            target: krippendorff(own.sum(axis=0))
            for target, own in zip(task.targets, columns, strict=True)
        }
    found = {
        "raters": sorted(map(str, rated["rater"].unique())),
        "frames": int(several.sum()),
        "tied": int((several & ~decided).sum()),
        "people": len(people),
        "alpha": _said(_alpha_interval(columns)),
        "alphas": {target: _known(value) for target, value in alphas.items()},
    }
    return found | _raters_f1(rated, unit, labels, people.tolist(), task)


def coincidences(votes: np.ndarray, person: np.ndarray, people: int) -> np.ndarray:
    """Krippendorff's matrix of observed coincidences of each person.

    Each pair of ratings of a unit counts 1 / (m - 1), for m ratings of the unit.

    Args:
        votes: (units, values) how many raters gave each value.
        person: (units,) whose frame it is.
        people: how many.

    Returns:
        (people, values, values).
    """
    ratings = votes.sum(axis=1)
    own = votes[ratings > 1].astype(float)
    pairs = own[:, :, None] * own[:, None, :]
    diagonal = np.arange(votes.shape[1])
    pairs[:, diagonal, diagonal] -= own
    pairs /= (ratings[ratings > 1] - 1)[:, None, None]
    found = np.zeros((people, votes.shape[1], votes.shape[1]))
    np.add.at(found, person[ratings > 1], pairs)
    return found


def krippendorff(matrix: np.ndarray) -> float:
    """Alpha = 1 - D_o / D_e of nominal coincidences (values, values); NaN if nothing varies."""
    totals = matrix.sum(axis=0)
    count = totals.sum()
    observed = count - np.trace(matrix)
    expected = count**2 - (totals**2).sum()
    return float(1 - (count - 1) * observed / expected) if expected > 0 else float("nan")


def _alpha_interval(columns: list[np.ndarray]) -> Interval:
    """The mean alpha over the columns of a task, with its interval over people."""

    def mean_alpha(matrices: list[np.ndarray]) -> float:
        alphas = np.array([krippendorff(own) for own in matrices])
        known = alphas[~np.isnan(alphas)]
        return float(known.mean()) if len(known) else float("nan")

    whole = [own.sum(axis=0) for own in columns]
    people = len(columns[0])
    left_out = [
        mean_alpha([total - own[k] for total, own in zip(whole, columns, strict=True)])
        for k in range(people)
    ]
    return interval_of(mean_alpha(whole), np.array(left_out))


def _raters_f1(
    rated: pd.DataFrame, unit: np.ndarray, labels: np.ndarray, people: list[str], task: Task
) -> dict[str, Any]:
    """The macro F1 of each rater against the majority of the others, and its mean."""
    members = {}
    for rater in sorted(map(str, rated["rater"].unique())):
        own = (rated["rater"] == rater).to_numpy()
        others, _ = majority(labels[~own], unit[~own], task)
        truth = np.full((int(unit.max()) + 1, labels.shape[1]), NOT_ANNOTATED, np.int8)
        truth[: len(others)] = others
        truth = truth[unit[own]]
        said = labels[own]
        truth = np.where(said == NOT_ANNOTATED, NOT_ANNOTATED, truth)  # nothing was said
        asked = (truth != NOT_ANNOTATED).any(axis=1)
        if not asked.any():
            continue
        groups = rated["group"].astype(str).to_numpy()[own][asked]
        counts = cluster_counts(truth[asked], said[asked], groups, task)
        members[rater] = count_array(counts, people, task.targets)
    if not members:
        return {"macro_f1": _said(None), "raters_f1": {}}
    single = [{rater: 1.0} for rater in members]
    mean = {rater: 1 / len(members) for rater in members}
    *each, together = intervals(members, [*single, mean])
    return {
        "macro_f1": _said(together),
        "raters_f1": {rater: own.estimate for rater, own in zip(members, each, strict=True)},
    }


def _said(found: Interval | None) -> dict[str, float | None]:
    """An interval for JSON, which knows no NaN."""
    if found is None:
        return {"estimate": None, "low": None, "high": None}
    return {name: _known(getattr(found, name)) for name in ("estimate", "low", "high")}


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
