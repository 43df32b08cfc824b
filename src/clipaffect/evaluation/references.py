"""The baselines for a head: constants, a linear probe on the same features, zero-shot CLIP."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from clipaffect.config.models import Probe
from clipaffect.core.tasks import NOT_ANNOTATED, Task
from clipaffect.training.data import Split


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


def _fit(features: np.ndarray, labels: np.ndarray, probe: Probe) -> Any:
    # Half a second to import; scores and post-processing import this module and fit no probe.
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=probe.strength, max_iter=probe.iterations)
    )
    with warnings.catch_warnings():
        # Stopping early is a stated setting (probe.iterations), not a mistake.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features, labels)


def probe_scores(train: Split, validation: Split, task: Task, probe: Probe) -> np.ndarray:
    """Probabilities (n, targets) on the validation split by logistic regression.

    Features are standardised by the training split; the strength is fixed beforehand.
    """
    x, y = train.features.float().numpy(), train.labels.numpy()
    queries = validation.features.float().numpy()
    scores = np.zeros((len(queries), len(task.targets)), np.float32)
    if not task.multilabel:
        model = _fit(x, y[:, 0], probe)
        scores[:, model.classes_] = model.predict_proba(queries)
        return scores
    for unit in range(len(task.targets)):
        known = y[:, unit] != NOT_ANNOTATED
        if (y[known, unit] == 1).all():  # nothing to tell apart
            scores[:, unit] = 1.0
            continue
        model = _fit(x if known.all() else x[known], y[known, unit], probe)
        scores[:, unit] = model.predict_proba(queries)[:, list(model.classes_).index(1)]
    return scores


def zero_shot_scores(features: torch.Tensor, prompts: dict[str, torch.Tensor]) -> np.ndarray:
    """Probabilities (n, targets) of embeddings (n, d): softmax over classes, or over the two
    sides of each label.
    """
    faces = normalize(features.float(), dim=1)
    logits = prompts["scale"] * faces @ prompts["present"].T
    if "absent" not in prompts:
        return torch.softmax(logits, dim=1).numpy()
    return torch.sigmoid(logits - prompts["scale"] * faces @ prompts["absent"].T).numpy()
