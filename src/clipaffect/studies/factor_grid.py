"""The counts of each combination of a study's factors, person by person."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from clipaffect.config.factors import Combination
from clipaffect.config.studies import Planned
from clipaffect.core.errors import UserError
from clipaffect.core.frame_status import KEYS, FrameStatus
from clipaffect.core.layout import Evaluation, Layout, Study
from clipaffect.core.metrics import decide
from clipaffect.core.parquet import read_table
from clipaffect.core.setting import Setting
from clipaffect.core.split_names import TRAIN
from clipaffect.core.tasks import NOT_ANNOTATED, Task
from clipaffect.evaluation.fold_data import read_scores
from clipaffect.evaluation.person_counts import cluster_counts, count_array, macro_f1
from clipaffect.features.build_table import folds_of, read_annotated
from clipaffect.postprocess.smoothing import Window, sequences, smooth

TINY = 1e-6
Runs = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Scores:
    """The validation rows of a study, with access to the probabilities.

    Attributes:
        rows: (n,) group, video, person, frame.
        labels: (n, 1) or (n, targets).
        runs: each person's rows in the order of frames.
        prior: (n, targets) shares of the labels that the row's heads were trained on.
        people: names of the groups.
        evaluations: of each encoder.
        task: the task.
    """

    rows: pd.DataFrame
    labels: np.ndarray
    runs: Runs
    prior: np.ndarray
    people: list[str]
    evaluations: dict[str, Evaluation]
    task: Task

    def of(self, setting: Setting) -> dict[int, np.ndarray]:
        """Probabilities (n, targets) by seed.

        Raises:
            UserError: they are of other frames than the first encoder's.
        """
        path = self.evaluations[setting.encoder].scores
        where = {k: v for k, v in setting.columns().items() if k != "encoder"}
        frame, scores = read_scores(path, **where)
        found = {}
        for seed in frame["seed"].unique():
            own = (frame["seed"] == seed).to_numpy()
            keys = frame.loc[own, KEYS].reset_index(drop=True)
            if not keys.astype(str).equals(self.rows[KEYS].astype(str)):
                raise UserError(
                    "these scores cover other frames than those of the study's first encoder",
                    where=path,
                    fix="use only encoders that see the same frames in a study",
                )
            found[int(seed)] = scores[own]
        return found

    def counts(self, decisions: np.ndarray) -> np.ndarray:
        """(people, targets, 3) of decisions."""
        groups = self.rows["group"].to_numpy()
        counted = cluster_counts(self.labels, decisions, groups, self.task)
        return count_array(counted, self.people, self.task.targets)


def read_study_scores(planned: Planned, folder: Path, out: Path, task: Task) -> Scores:
    """The rows and places of a study's scores.

    Args:
        planned: the study.
        folder: ``results/<run>``.
        out: the study's folder, with ``on/<encoder>/evaluation``.
        task: the task.
    """
    evaluations = {name: Study(out).on(name).evaluation(task.name) for name in planned.encoders()}
    rows = read_table(next(iter(evaluations.values())).rows)
    table = Layout(folder).table(planned.config.encoder, task.name).folder
    prior = np.zeros((len(rows), len(task.targets)))
    for fold in folds_of(table):
        known, labels = read_annotated(table, task, TRAIN, fold)
        trained = labels[(known["status"] == FrameStatus.OK).to_numpy()]
        prior[(rows["fold"] == fold).to_numpy()] = label_shares(trained, task)
    return Scores(
        rows[["group", *KEYS]],
        rows[list(task.columns)].to_numpy(),
        sequences(rows),
        prior,
        sorted(rows["group"].astype(str).unique()),
        evaluations,
        task,
    )


def label_shares(labels: np.ndarray, task: Task) -> np.ndarray:
    """(targets,) frequency of each class, or of each label among the frames that annotate it."""
    if not task.multilabel:
        counts = np.bincount(labels[:, 0], minlength=len(task.targets))
        return np.asarray(counts / counts.sum())
    known = labels != NOT_ANNOTATED
    return np.asarray((labels == 1).sum(axis=0) / np.maximum(known.sum(axis=0), 1))


def decide_beside_prior(scores: np.ndarray, prior: np.ndarray, task: Task) -> np.ndarray:
    """Decisions from probabilities (n, targets) relative to shares (targets,) or (n, targets).

    The class with the largest p / prior (logit adjustment with tau = 1, Menon et al. 2021, eq. 10);
    a label is present where its probability is at least its share.
    """
    prior = np.clip(prior, TINY, 1)
    if task.multilabel:
        return (scores >= prior).astype(np.int64)
    return np.asarray((scores / prior).argmax(axis=1)[:, None])


def count_combinations(scores: Scores, every: list[Combination]) -> list[dict[int, np.ndarray]]:
    """For each combination, the counts (people, targets, 3) by seed; empty if no head finished."""
    found: list[dict[int, np.ndarray]] = [{} for _ in every]
    heads: dict[Setting, list[int]] = {}
    for number, own in enumerate(every):
        heads.setdefault(own.setting, []).append(number)
    for head, numbers in heads.items():
        for seed, probabilities in scores.of(head).items():
            smoothed: dict[int, np.ndarray] = {}
            for number in numbers:
                own = every[number]
                if own.smooth not in smoothed:
                    window = Window("mean", own.smooth) if own.smooth > 1 else Window("none", 0)
                    smoothed[own.smooth] = smooth(probabilities, scores.runs, window)
                found[number][seed] = scores.counts(_decide(smoothed[own.smooth], own, scores))
    return found


def _decide(probabilities: np.ndarray, combination: Combination, scores: Scores) -> np.ndarray:
    if combination.decision == "prior":
        return decide_beside_prior(probabilities, scores.prior, scores.task)
    return decide(probabilities, scores.task)


def mean_f1(counts: dict[int, np.ndarray]) -> float:
    """Macro F1, mean over seeds; NaN if no head finished."""
    if not counts:
        return float("nan")
    return float(np.mean([macro_f1(own.sum(axis=0)) for own in counts.values()]))
