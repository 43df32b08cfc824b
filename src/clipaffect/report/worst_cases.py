"""What the headline's heads get wrong: people, classes and faces, worst first.

A face with a large error may also have a wrong label: the two look the same here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipaffect.core.frame_status import KEYS
from clipaffect.core.layout import Evaluation, Layout
from clipaffect.core.parquet import read_table
from clipaffect.core.setting import Setting
from clipaffect.evaluation.compare_heads import people_f1
from clipaffect.evaluation.fold_data import read_scores
from clipaffect.evaluation.person_counts import Counted, read_counts
from clipaffect.report.results import Results, TaskResults

FEW = 5  # people, and confusions
FACES = 8  # each of another person
FEWEST_FRAMES = 20  # of a person, to be listed


@dataclass(frozen=True)
class WorstCases:
    """The worst cases of one task.

    Attributes:
        people: person, frames and f1 of the people with the lowest F1.
        confusions: sentences on the classes or labels with the largest share of errors.
        faces: video, person, frame and ``said`` of the frames with the largest errors.
    """

    people: list[dict[str, Any]]
    confusions: list[str]
    faces: list[dict[str, Any]]


def worst_people(counted: Counted, headline: Setting) -> pd.DataFrame:
    """One row per person: answers and F1 over them (mean over seeds), worst first."""
    found = people_f1(list(counted.seeds[headline].values()))
    answers = counted.cells[headline].sum(axis=1).astype(int)
    table = pd.DataFrame({"person": counted.people, "answers": answers, "f1": found})
    return table.sort_values(["f1", "person"], ignore_index=True)


def worst_cases(results: Results, folder: Path) -> dict[str, WorstCases]:
    """The worst cases of each task; none of a task without a finished head at the headline.

    Args:
        results: of the run.
        folder: results/<run>.
    """
    alpha = results.config.training.headline_alpha
    found = {}
    for name, task in results.tasks.items():
        files = Layout(folder).evaluation(name)
        counted = read_counts(files.person_counts)
        own = [s for s in counted.heads(results.config.encoder) if s.alpha == alpha]
        if not own:
            continue
        people = worst_people(counted, own[0])
        frames = read_table(files.rows, ["group"])["group"].value_counts()
        people["frames"] = people["person"].map(frames)
        people = people[people["frames"] >= FEWEST_FRAMES].head(FEW)
        found[name] = WorstCases(
            people.to_dict("records"), _confusions(task, alpha), _faces(task, alpha, files)
        )
    return found


def _confusions(task: TaskResults, alpha: float) -> list[str]:
    """What is taken for what most often, as a share of the frames that show it."""
    counts, names = task.counts(alpha), task.task.targets
    rows = []
    if task.task.multilabel:
        for name in names:
            shown = counts.get(f"{name}:1>1", 0) + counts.get(f"{name}:1>0", 0)
            missed = counts.get(f"{name}:1>0", 0)
            rows.append((missed / max(shown, 1), f"{name} is missed in"))
    else:
        for truth in names:
            shown = sum(counts.get(f"{truth}>{decided}", 0) for decided in names)
            others = {d: counts.get(f"{truth}>{d}", 0) for d in names if d != truth}
            most = max(others, key=lambda decided: others[decided])
            rows.append((others[most] / max(shown, 1), f"{truth} is predicted as {most} in"))
    rows.sort(key=lambda row: -row[0])
    return [f"{text} {100 * share:.0f} % of its frames" for share, text in rows[:FEW] if share]


def _faces(task: TaskResults, alpha: float, files: Evaluation) -> list[dict[str, Any]]:
    """The frames with the largest errors of the probabilities, averaged over seeds."""
    columns = [f"score {k}" for k in range(len(task.task.targets))]
    places, total, seeds = pd.DataFrame(), np.zeros(0), 0
    # Seed by seed: all of them at once need gigabytes at full size.
    for seed in sorted(task.heads["seed"].unique().tolist()):
        keys, scores = read_scores(files.scores, method="head", variant="", alpha=alpha, seed=seed)
        if not seeds:
            places, total = keys[KEYS], np.zeros(scores.shape)
        if len(keys) and keys[KEYS].equals(places):  # a head that failed in a fold has fewer
            total += scores
            seeds += 1
    mean = places.join(pd.DataFrame(total / max(seeds, 1), columns=columns))
    rows = read_table(files.rows)
    rows = rows[rows["own_crop"]].astype({"video": str, "person": str})
    rows = rows.merge(mean, on=KEYS)
    labels = rows[list(task.task.columns)].to_numpy()
    given = rows[columns].to_numpy()
    if task.task.multilabel:
        errors = np.where(labels < 0, 0, np.abs(labels - given))
        at = errors.argmax(axis=1)
    else:
        at = labels[:, 0]
        errors = 1 - given
    each = np.arange(len(rows))
    rows = rows.assign(at=at, error=errors[each, at], given=given[each, at])
    rows["decided"] = given.argmax(axis=1)
    if task.task.multilabel:
        rows["is_shown"] = labels[each, at] == 1
    worst = rows.sort_values("error", ascending=False, kind="stable")
    worst = worst.drop_duplicates("group").head(FACES)
    return [
        {key: getattr(row, key) for key in KEYS} | {"said": _said(task, row)}
        for row in worst.itertuples()
    ]


def _said(task: TaskResults, row: Any) -> str:
    target = task.task.targets[row.at]
    if task.task.multilabel:
        annotated = "present" if row.is_shown else "absent"
        return f"{target} annotated as {annotated}, predicted probability {row.given:.2f}"
    decided = task.task.targets[row.decided]
    return f"annotated {target} (predicted probability {row.given:.2f}), predicted {decided}"
