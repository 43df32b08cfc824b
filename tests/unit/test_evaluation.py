"""Metrics against their definition or sklearn; references; tidy tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_heads import small_table

from clipaffect.config.models import Probe
from clipaffect.core.metrics import (
    accuracy,
    confusion,
    decide,
    expected_calibration_error,
    f1_per_target,
    mean_known,
    ranking_per_target,
    reliability,
)
from clipaffect.core.parquet import read_table, write_table
from clipaffect.core.setting import Setting
from clipaffect.core.tasks import AU, EXPR
from clipaffect.evaluation.fold_data import Fold, Scored, read_fold
from clipaffect.evaluation.metrics_table import tidy_rows
from clipaffect.evaluation.references import constant_scores, fit_probe
from clipaffect.training.data import Split


def test_expression_f1_counts_all_eight_classes() -> None:
    rng = np.random.default_rng(0)
    labels, decided = rng.integers(0, 6, (200, 1)), rng.integers(0, 7, (200, 1))
    found = f1_per_target(labels.astype(np.int8), decided, EXPR)
    expected = f1_score(labels, decided, labels=range(8), average=None, zero_division=0)
    assert found.tolist() == expected.tolist()
    assert found[:6].min() > 0
    assert found[6] == found[7] == 0  # never annotated; they still count


def test_unit_f1_leaves_out_what_is_not_annotated() -> None:
    rng = np.random.default_rng(1)
    labels, decided = rng.integers(-1, 2, (300, 12)), rng.integers(0, 2, (300, 12))
    labels[:, 5] = -1
    decided[:, 7] = 0
    found = f1_per_target(labels.astype(np.int8), decided, AU)
    for unit in set(range(12)) - {5}:
        known = labels[:, unit] >= 0
        assert found[unit] == f1_score(labels[known, unit], decided[known, unit])
    assert found[5] == found[7] == 0
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


NONE = pd.DataFrame()  # no recordings in two splits


def split_of(labels: np.ndarray, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    features = np.eye(8)[labels[:, 0] % 8] * 3 + rng.normal(size=(len(labels), 8))
    rows = pd.DataFrame({"group": [f"p{k % 10}" for k in range(len(labels))]})
    return Split(rows, torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels))


def test_the_probe_learns_and_gives_probabilities() -> None:
    rng = np.random.default_rng(3)
    train, test = (split_of(rng.integers(0, 8, (400, 1)), seed) for seed in (0, 1))
    found = fit_probe(train, np.arange(400), test, EXPR, Probe())
    assert found.scores.sum(1) == pytest.approx(np.ones(400), abs=1e-5)
    assert accuracy(test.labels.numpy(), decide(found.scores, EXPR)) > 0.8
    assert found.converged
    assert found.rows == 400


def test_the_probe_is_sklearns_on_the_rows_that_heads_train_on() -> None:
    rng = np.random.default_rng(8)
    train, test = (split_of(rng.integers(0, 8, (300, 1)), seed) for seed in (0, 1))
    rows = np.flatnonzero(rng.random(300) < 0.7)
    found = fit_probe(train, rows, test, EXPR, Probe(strengths=(0.03,)))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.03, tol=1e-8, max_iter=9999))
    model.fit(train.features[rows].numpy(), train.labels[rows, 0].numpy())
    assert found.scores == pytest.approx(model.predict_proba(test.features.numpy()), abs=2e-3)
    assert found.strengths == [0.03]


def test_the_strength_is_chosen_on_training_people() -> None:
    # 60 useless features beside 8 that tell the classes apart: only strong regularisation helps.
    rng = np.random.default_rng(9)
    labels = rng.integers(0, 8, (240, 1))
    plain = split_of(labels, 0)
    noise = torch.from_numpy(rng.normal(size=(240, 300)).astype(np.float32)) * 3
    noisy = Split(plain.rows, torch.cat([plain.features, noise], dim=1), plain.labels)
    everybody = np.arange(240)
    probe = Probe(strengths=(0.003, 30.0))
    chosen = fit_probe(noisy, everybody, noisy, EXPR, probe).strengths
    held = StratifiedGroupKFold(4, shuffle=True, random_state=0)
    fitted, asked = next(held.split(labels, labels[:, 0], plain.rows["group"]))
    scores = {}
    for strength in probe.strengths:
        part = Split(plain.rows.iloc[asked], noisy.features[asked], noisy.labels[asked])
        found = fit_probe(noisy, fitted, part, EXPR, Probe(strengths=(strength,)))
        scores[strength] = f1_per_target(labels[asked], decide(found.scores, EXPR), EXPR).mean()
    assert chosen == [max(scores, key=scores.__getitem__)]
    assert abs(scores[0.003] - scores[30.0]) > 0.05  # no near tie
    # Too few people to hold any out: the last one.
    alone = Split(plain.rows.assign(group="p"), plain.features, plain.labels)
    assert fit_probe(alone, everybody, alone, EXPR, probe).strengths == [30.0]


def test_a_probe_that_stops_early_says_so() -> None:
    train = split_of(np.random.default_rng(10).integers(0, 8, (200, 1)), 0)
    found = fit_probe(train, np.arange(200), train, EXPR, Probe(iterations=2))
    assert not found.converged


def test_constant_is_the_largest_training_class() -> None:
    train = split_of(np.array([[2]] * 5 + [[4]] * 3), 0)
    assert decide(constant_scores(train.labels.numpy(), 4, EXPR), EXPR).tolist() == [[2]] * 4


def test_ranking_is_the_share_of_pairs_in_the_right_order() -> None:
    rng = np.random.default_rng(4)
    labels, scores = rng.integers(0, 6, (150, 1)), rng.random((150, 8))
    auc, precision = ranking_per_target(labels, scores, EXPR)
    shown, other = scores[labels[:, 0] == 2, 2], scores[labels[:, 0] != 2, 2]
    assert auc[2] == pytest.approx((shown[:, None] > other[None]).mean())
    order = np.argsort(-scores[:, 2])
    hits = (labels[order, 0] == 2).cumsum()
    at_hits = labels[order, 0] == 2
    assert precision[2] == pytest.approx((hits / np.arange(1, 151))[at_hits].mean())
    assert np.isnan(auc[6:]).all()
    assert np.isnan(precision[6:]).all()
    assert mean_known(auc) == pytest.approx(auc[:6].mean())
    assert np.isnan(mean_known(auc[6:]))


def test_ranking_of_units_leaves_out_what_is_not_annotated() -> None:
    rng = np.random.default_rng(5)
    labels, scores = rng.integers(-1, 2, (200, 12)), rng.random((200, 12))
    labels[:, 3] = 1
    auc, _ = ranking_per_target(labels, scores, AU)
    shown, other = (scores[labels[:, 0] == value, 0] for value in (1, 0))
    assert auc[0] == pytest.approx((shown[:, None] > other[None]).mean())
    assert np.isnan(auc[3])


def test_calibration_of_answers_whose_truth_is_known() -> None:
    rng = np.random.default_rng(6)
    said = rng.random((100_000, 12))
    labels = (rng.random(said.shape) < said).astype(int)
    # As often there as said: an error of the bins' sampling alone.
    assert expected_calibration_error(reliability(labels, said, AU)) < 0.005
    # Squared, 1/3 on average where 1/2 is true: the mean of p - p^2 is 1/6.
    error = expected_calibration_error(reliability(labels, said**2, AU))
    assert error == pytest.approx(1 / 6, abs=0.005)
    # A class that is always said with 0.9 and is right in 3 of 4 frames.
    scores = np.full((400, 8), 0.1 / 7)
    scores[:, 1] = 0.9
    classes = np.where(np.arange(400) % 4 == 0, 2, 1)[:, None]
    bins = reliability(classes, scores, EXPR)
    assert bins[:, 0].sum() == 400
    assert expected_calibration_error(bins) == pytest.approx(0.15)
    # The borders belong to the lower bin, 0 and 1 are inside.
    edges = reliability(np.array([[1] * 12]), np.array([[0.0, 1 / 15, 1.0] * 4]), AU)
    assert edges[:, 0].tolist() == [8] + [0] * 13 + [4]


def test_a_probe_knows_only_annotated_rows() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, (200, 12)).astype(np.int8)
    features = torch.from_numpy(rng.normal(size=(200, 4)) + labels[:, :4]).float()
    labels[rng.random((200, 12)) < 0.3] = -1
    unit = 2
    known = labels[:, unit] >= 0
    people = pd.DataFrame({"group": ["p"] * 200})
    queries = Split(people, features, torch.from_numpy(labels))
    found = fit_probe(queries, np.arange(200), queries, AU, Probe()).scores[:, unit]
    alone = labels.copy()
    alone[:, :] = 1  # what is not asked about
    alone[:, unit] = labels[:, unit]
    part = Split(
        queries.rows[known], features[torch.from_numpy(known)], torch.from_numpy(alone[known])
    )
    other = fit_probe(part, np.arange(known.sum()), queries, AU, Probe()).scores[:, unit]
    assert found == pytest.approx(other, abs=1e-6)
    assert 0.05 < found.mean() < 0.95


def test_rankings_are_sklearns_and_over_folds_their_mean() -> None:
    rng = np.random.default_rng(6)
    labels = [rng.integers(0, 2, (80, 12)).astype(np.int8) for _ in range(2)]
    scores = {k + 1: rng.random((80, 12)) * 0.7 + 0.3 * own for k, own in enumerate(labels)}
    functions = {"auc": roc_auc_score, "average_precision": average_precision_score}

    def fold(number: int, own: np.ndarray) -> Fold:
        return Fold(number, 80, pd.DataFrame(index=range(80)), own, None, None, own)

    def values(found: list[dict], number: int, metric: str) -> dict[str, float]:
        return {
            r["target"]: r["value"] for r in found if (r["fold"], r["metric"]) == (number, metric)
        }

    alone = list(
        tidy_rows(Scored(Setting("head", "e"), {0: scores[1]}), [fold(0, labels[0])], AU, NONE)
    )
    folds = [fold(k + 1, own) for k, own in enumerate(labels)]
    pooled = list(tidy_rows(Scored(Setting("head", "e"), scores), folds, AU, NONE))
    for metric, function in functions.items():
        own = [
            [function(labels[k][:, unit], scores[k + 1][:, unit]) for unit in range(12)]
            for k in range(2)
        ]
        assert list(values(alone, 0, metric).values()) == pytest.approx(own[0])
        assert values(alone, 0, f"macro_{metric}")[""] == pytest.approx(np.mean(own[0]))
        assert list(values(pooled, 2, metric).values()) == pytest.approx(own[1])
        assert list(values(pooled, 0, metric).values()) == pytest.approx(np.mean(own, axis=0))


def test_the_constant_reference_knows_only_rows_with_a_face(tmp_path: Path) -> None:
    table = small_table(tmp_path / "table")
    rows = read_table(table / "rows.parquet")
    faceless = (rows["split"] == "train") & (rows["frame"] < 30)
    rows["status"] = np.where(faceless, "no_face", "ok")
    rows.loc[faceless, "label"] = 7  # the largest class of all rows, not of those with a face
    kept = ~faceless.to_numpy()
    rows["feature_row"] = np.where(kept, np.cumsum(kept) - 1, -1)
    write_table(table / "rows.parquet", rows)
    features = np.load(table / "features.npy")
    np.save(table / "features.npy", features[kept])
    trained = read_fold(table, EXPR, "leave_out", 0).trained
    expected = rows.loc[(rows["split"] == "train") & kept, "label"]
    assert trained[:, 0].tolist() == expected.tolist()
    assert np.bincount(trained[:, 0]).argmax() != 7
