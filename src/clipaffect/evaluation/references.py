"""The baselines for a head: constants, a linear probe on the same features, zero-shot CLIP."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from clipaffect.config.models import Probe
from clipaffect.core.tasks import NOT_ANNOTATED, Task
from clipaffect.training.data import Split

PARTS = 4  # of the training people; the strength is chosen on one of them


def constant_scores(labels: np.ndarray, rows: int, task: Task) -> np.ndarray:
    """Probabilities (rows, targets) of always predicting the most frequent training label.

    Of classes: the largest. Of labels (units): every one present, the best constant under F1.

    Args:
        labels: (n, 1) or (n, targets) int8 of the training rows.
        rows: how many predictions.
        task: the task.
    """
    scores = np.zeros((rows, len(task.targets)), np.float32)
    if task.multilabel:
        scores[:] = 1.0
    else:
        counts = np.bincount(labels[:, 0], minlength=len(task.targets))
        scores[:, counts.argmax()] = 1.0
    return scores


@dataclass(frozen=True)
class LinearProbe:
    """Scores of a linear probe, and how it was fitted.

    Attributes:
        scores: (n, targets) float32, probabilities on the validation rows.
        rows: number of training rows.
        strengths: chosen inverse regularisation strength, of all classes together or of each label.
        converged: whether every fit converged within ``Probe.iterations``.
    """

    scores: np.ndarray
    rows: int
    strengths: list[float]
    converged: bool


def fit_probe(
    train: Split, rows: np.ndarray, validation: Split, task: Task, probe: Probe
) -> LinearProbe:
    """Logistic regression on standardised features, of the rows that heads train on.

    The strength is the one with the best F1 on a quarter of the training people; then all rows are
    fitted. With fewer than ``PARTS`` people, or a class that only that quarter shows, the last
    strength is used.

    Args:
        train: the training split of a table.
        rows: of ``train``, those to fit (``training_data``).
        validation: the split to score.
        task: the task.
        probe: strengths to choose from, and the largest number of iterations.
    """
    x, y = train.features[rows].float().numpy(), train.labels[rows].numpy()
    groups = train.rows["group"].to_numpy().astype(str)[rows]
    queries = validation.features.float().numpy()
    scores = np.zeros((len(queries), len(task.targets)), np.float32)
    if not task.multilabel:
        model, strength, converged = _fit(x, y[:, 0], groups, "f1_macro", probe)
        scores[:, model.classes_] = model.predict_proba(queries)
        return LinearProbe(scores, len(x), [strength], converged)
    strengths, every = [], True
    for unit in range(len(task.targets)):
        known = y[:, unit] != NOT_ANNOTATED
        if (y[known, unit] == 1).all():  # nothing to tell apart
            scores[:, unit] = 1.0
            continue
        own = x if known.all() else x[known]
        model, strength, converged = _fit(own, y[known, unit], groups[known], "f1", probe)
        scores[:, unit] = model.predict_proba(queries)[:, list(model.classes_).index(1)]
        strengths.append(strength)
        every &= converged
    return LinearProbe(scores, len(x), strengths, every)


def _fit(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, score: str, probe: Probe
) -> tuple[Any, float, bool]:
    """The fitted model, its strength, and whether it converged."""
    # Half a second to import; scores and post-processing import this module and fit no probe.
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    strength = _strength(x, y, groups, score, probe)
    logistic = LogisticRegression(C=strength, max_iter=probe.iterations)
    model = make_pipeline(StandardScaler(), logistic)
    with _stops_early():
        model.fit(x, y)
    return model, strength, bool((logistic.n_iter_ < probe.iterations).all())


def _strength(x: np.ndarray, y: np.ndarray, groups: np.ndarray, score: str, probe: Probe) -> float:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.metrics import get_scorer  # noqa: PLC0415
    from sklearn.model_selection import StratifiedGroupKFold  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    few = np.unique(y, return_counts=True)[1].max() < PARTS or len(np.unique(groups)) < PARTS
    if len(probe.strengths) == 1 or few:
        return probe.strengths[-1]
    parts = StratifiedGroupKFold(PARTS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a class with fewer than PARTS rows
        fitted, held = next(parts.split(x, y, groups))
    if set(y[fitted]) != set(y):
        return probe.strengths[-1]
    scaler = StandardScaler().fit(x[fitted])
    inputs, queries = scaler.transform(x[fitted]), scaler.transform(x[held])
    # From the strongest regularisation on, each fit starts from the one before.
    model = LogisticRegression(max_iter=probe.iterations, warm_start=True)
    found = {}
    for strength in sorted(probe.strengths):
        with _stops_early():
            model.set_params(C=strength).fit(inputs, y[fitted])
        found[strength] = get_scorer(score)(model, queries, y[held])
    return max(found, key=lambda strength: found[strength])


@contextmanager
def _stops_early() -> Iterator[None]:
    """Accept a fit that has not converged: the report says so."""
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def zero_shot_scores(features: torch.Tensor, prompts: dict[str, torch.Tensor]) -> np.ndarray:
    """Probabilities (n, targets) of embeddings (n, d): softmax over classes, or over the two
    sides of each label.
    """
    faces = normalize(features.float(), dim=1)
    logits = prompts["scale"] * faces @ prompts["present"].T
    if "absent" not in prompts:
        return torch.softmax(logits, dim=1).numpy()
    return torch.sigmoid(logits - prompts["scale"] * faces @ prompts["absent"].T).numpy()
