"""Metrics against their definition, written out; references; tidy tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from clipaffect.config.models import Probe
from clipaffect.evaluation.metrics import accuracy, confusion, decide, f1_per_target
from clipaffect.evaluation.references import constant_scores, probe_scores
from clipaffect.table import Split
from clipaffect.tasks import AU, EXPR


def f1_by_hand(truth: np.ndarray, decided: np.ndarray) -> float:
    hits = int((truth & decided).sum())
    wrong = int((truth & ~decided).sum() + (~truth & decided).sum())
    return 2 * hits / (2 * hits + wrong) if 2 * hits + wrong else 0.0


def test_expression_f1_counts_all_eight_classes() -> None:
    rng = np.random.default_rng(0)
    labels, decided = rng.integers(0, 6, (200, 1)), rng.integers(0, 7, (200, 1))
    found = f1_per_target(labels, decided, EXPR)
    expected = [f1_by_hand(labels[:, 0] == c, decided[:, 0] == c) for c in range(8)]
    assert found.tolist() == pytest.approx(expected)
    assert found[6] == found[7] == 0  # never annotated; they still count


def test_unit_f1_leaves_out_what_is_not_annotated() -> None:
    rng = np.random.default_rng(1)
    labels, decided = rng.integers(-1, 2, (300, 12)), rng.integers(0, 2, (300, 12))
    labels[:, 5] = -1
    found = f1_per_target(labels, decided, AU)
    for unit in range(12):
        known = labels[:, unit] >= 0
        by_hand = f1_by_hand(labels[known, unit] == 1, decided[known, unit] == 1)
        assert found[unit] == pytest.approx(by_hand)
    known = labels >= 0
    assert accuracy(labels, decided) == pytest.approx((labels == decided)[known].mean())


def test_confusion_counts_every_annotated_label_once() -> None:
    rng = np.random.default_rng(2)
    labels, decided = rng.integers(0, 8, (100, 1)), rng.integers(0, 8, (100, 1))
    table = confusion(labels, decided, EXPR)
    assert table[2, 5] == ((labels == 2) & (decided == 5)).sum()
    assert table.sum() == 100
    labels, decided = rng.integers(-1, 2, (100, 12)), rng.integers(0, 2, (100, 12))
    table = confusion(labels, decided, AU)
    assert table[3, 1, 0] == ((labels[:, 3] == 1) & (decided[:, 3] == 0)).sum()


def test_decisions() -> None:
    assert decide(np.array([[0.1, 0.7, 0.2]]), EXPR).tolist() == [[1]]
    assert decide(np.array([[0.5, 0.49]]), AU).tolist() == [[1, 0]]


def test_all_positive_scores_the_known_figure_at_aff_wild2s_prevalence() -> None:
    # F1 of "always present" at prevalence p is 2p / (1 + p); 0.295 over Aff-Wild2's training units.
    prevalence = np.array([11.8, 5.0, 15.4, 26.6, 39.7, 34.4, 24.5, 2.8, 3.1, 2.6, 62.7, 7.4]) / 100
    labels = (np.linspace(0, 1, 5000, endpoint=False)[:, None] < prevalence).astype(int)
    train = Split(pd.DataFrame(), torch.zeros(1, 1), torch.from_numpy(labels))
    decided = decide(constant_scores(train.labels.numpy(), 5000, AU), AU)
    assert f1_per_target(labels, decided, AU).mean() == pytest.approx(0.295, abs=0.001)


def split_of(labels: np.ndarray, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    features = np.eye(8)[labels[:, 0] % 8] * 3 + rng.normal(size=(len(labels), 8))
    rows = pd.DataFrame({"video": ["v"] * len(labels)})
    return Split(rows, torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels))


def test_the_probe_learns_and_gives_probabilities() -> None:
    rng = np.random.default_rng(3)
    train, test = (split_of(rng.integers(0, 8, (400, 1)), seed) for seed in (0, 1))
    scores = probe_scores(train, test, EXPR, Probe())
    assert scores.sum(1) == pytest.approx(np.ones(400), abs=1e-5)
    assert accuracy(test.labels.numpy(), decide(scores, EXPR)) > 0.8


def test_constant_is_the_largest_training_class() -> None:
    train = split_of(np.array([[2]] * 5 + [[4]] * 3), 0)
    assert decide(constant_scores(train.labels.numpy(), 4, EXPR), EXPR).tolist() == [[2]] * 4
