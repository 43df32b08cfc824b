"""Post-processing steps: each is chosen on scored training rows, and applied to any others.

Scores are probabilities (S, n, targets) of S seeds; ``average_seeds`` leaves one. A step's choice
is a small dictionary that JSON can hold; nothing else is needed to apply it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from clipaffect.core.metrics import THRESHOLD, decide, f1_per_target
from clipaffect.core.tasks import NOT_ANNOTATED, Task
from clipaffect.postprocess.smoothing import WINDOWS, Window, smooth

COLUMNS = [
    "step",
    "seeds",
    "people",
    "macro_f1",
    "low",
    "high",
    "calibration_error",
    "gain",
    "gain_low",
    "gain_high",
    "p",
    "p_adjusted",
    "inner_macro_f1",
    "choice",
]


STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # of the logit adjustment
GRID = 1000  # thresholds between 0 and 1
TINY = 1e-12
Choice = dict[str, Any]
Runs = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Rows:
    """The rows that scores belong to.

    Attributes:
        labels: (n, 1) classes or (n, targets) bits; -1 is not annotated.
        runs: see ``smoothing.sequences``.
        task: the task.
        others: (S, n, targets) scores of the same rows by heads on other encoders, by name; NaN
            where that encoder saw no face or a seed's head did not finish.
    """

    labels: np.ndarray
    runs: Runs
    task: Task
    others: dict[str, np.ndarray] = field(default_factory=dict)

    def macro_f1(self, scores: np.ndarray) -> float:
        """Macro F1 of (S, n, targets), mean over seeds."""
        found = [f1_per_target(self.labels, decide(own, self.task), self.task) for own in scores]
        return float(np.mean(found))


def _logits(scores: np.ndarray, task: Task) -> np.ndarray:
    """Logits whose softmax (classes) or sigmoid (labels) the scores are."""
    scores = np.clip(scores.astype(np.float64), TINY, 1 - TINY)
    return np.log(scores) - np.log1p(-scores) if task.multilabel else np.log(scores)


def _probabilities(logits: np.ndarray, task: Task) -> np.ndarray:
    if task.multilabel:
        return np.asarray(1 / (1 + np.exp(-logits)))
    logits = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(logits / logits.sum(axis=-1, keepdims=True))


def choose_encoders(scores: np.ndarray, rows: Rows) -> Choice:
    """The other encoders to average with for the highest macro F1; the fewest in a tie."""
    sets = [
        list(names)
        for count in range(len(rows.others) + 1)
        for names in combinations(rows.others, count)
    ]
    found = [rows.macro_f1(average_encoders(scores, {"with": names}, rows)) for names in sets]
    return {"with": sets[int(np.argmax(found))]}


def average_encoders(scores: np.ndarray, choice: Choice, rows: Rows) -> np.ndarray:
    """Average the probabilities seed by seed, over the encoders that saw the frame."""
    return np.asarray(np.nanmean([scores, *(rows.others[name] for name in choice["with"])], axis=0))


def choose_smoothing(scores: np.ndarray, rows: Rows) -> Choice:
    """The window with the highest macro F1; the first in a tie, so none if none helps."""
    found = [rows.macro_f1(smooth(scores, rows.runs, window)) for window in WINDOWS]
    return asdict(WINDOWS[int(np.argmax(found))])


def choose_temperature(scores: np.ndarray, rows: Rows) -> Choice:
    """The temperature with the lowest log loss (Guo et al. 2017, section 4.2)."""
    logits = _logits(scores, rows.task)

    def loss(log_temperature: float) -> float:
        found = _probabilities(logits / np.exp(log_temperature), rows.task)
        if rows.task.multilabel:
            known = rows.labels != NOT_ANNOTATED
            right = np.where(rows.labels == 1, found, 1 - found)[:, known]
        else:
            right = np.take_along_axis(found, rows.labels[None].astype(int), axis=-1)
        return float(-np.log(np.maximum(right, TINY)).mean())

    best = minimize_scalar(loss, bounds=(-3, 3), method="bounded")
    return {"temperature": float(np.exp(best.x))}


def choose_adjustment(scores: np.ndarray, rows: Rows) -> Choice:
    """Choose the strength of the logit adjustment for classes, or a threshold for each label.

    Logit adjustment (Menon et al. 2021, eq. 10) takes tau log(prior) from every logit.
    """
    if rows.task.multilabel:
        return {"thresholds": [_threshold(scores, rows, k) for k in range(len(rows.task.targets))]}
    counts = np.bincount(rows.labels[:, 0], minlength=len(rows.task.targets))
    prior = np.maximum(counts, 1) / np.maximum(counts, 1).sum()
    choices = [{"tau": tau, "prior": prior.tolist()} for tau in STRENGTHS]
    found = [rows.macro_f1(adjust(scores, choice, rows)) for choice in choices]
    return choices[int(np.argmax(found))]


def _threshold(scores: np.ndarray, rows: Rows, target: int) -> float:
    """The threshold with the highest mean F1 of a label over seeds; in a tie, that nearest 0.5.

    From histograms: at threshold t/GRID the frames of the bins from t on are called present.
    """
    known = rows.labels[:, target] != NOT_ANNOTATED
    truth = rows.labels[known, target] == 1
    if not truth.any():
        return THRESHOLD
    found = np.zeros(GRID + 1)
    for own in scores[:, known, target]:
        # Up to rounding of a float32: a score of t/GRID is at its threshold, not below.
        place = np.floor(own.astype(np.float64) * GRID + 1e-4).astype(int)
        there, hits = (np.bincount(place, w, GRID + 1)[::-1].cumsum()[::-1] for w in (None, truth))
        found += 2 * hits / (there + truth.sum())
    equal = np.flatnonzero(found >= found.max() - TINY)
    return float(equal[np.abs(equal / GRID - THRESHOLD).argmin()] / GRID)


def average(scores: np.ndarray, choice: Choice, rows: Rows) -> np.ndarray:
    """Average the probabilities over seeds, keeping one."""
    return np.asarray(scores.mean(axis=0, keepdims=True))


def apply_smoothing(scores: np.ndarray, choice: Choice, rows: Rows) -> np.ndarray:
    """Smooth each person's scores in each video."""
    return smooth(scores, rows.runs, Window(**choice))


def scale(scores: np.ndarray, choice: Choice, rows: Rows) -> np.ndarray:
    """Divide the logits by the temperature."""
    return _probabilities(_logits(scores, rows.task) / choice["temperature"], rows.task)


def adjust(scores: np.ndarray, choice: Choice, rows: Rows) -> np.ndarray:
    """Shift the logits, so that the usual decision (the largest, or 0.5) is the chosen one."""
    if rows.task.multilabel:
        # 1 and 0 would decide nothing: a label that is never, or always, called present.
        limits = np.clip(choice["thresholds"], TINY, 1 - TINY)
        shift = np.log(limits) - np.log1p(-limits)
    else:
        shift = choice["tau"] * np.log(choice["prior"])
    return _probabilities(_logits(scores, rows.task) - shift, rows.task)


def apply_steps(
    scores: np.ndarray, steps: Sequence[tuple[str, Choice]], rows: Rows
) -> list[np.ndarray]:
    """Scores (S, n, targets) before the first of some chosen steps and after each."""
    found = [scores]
    for name, choice in steps:
        _, apply = STEPS[name]
        found.append(apply(found[-1], choice, rows))
    return found


STEPS: dict[
    str,
    tuple[Callable[[np.ndarray, Rows], Choice], Callable[[np.ndarray, Choice, Rows], np.ndarray]],
] = {
    "average_encoders": (choose_encoders, average_encoders),
    "average_seeds": (lambda scores, rows: {}, average),
    "smooth": (choose_smoothing, apply_smoothing),
    "temperature": (choose_temperature, scale),
    "adjust": (choose_adjustment, adjust),
}
