"""Steps after the head: each against its formula, and chosen on training people alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score, precision_recall_curve
from small_heads import no_copies, small_table
from test_splits import SMALL, bundles_of, folded

from clipaffect.config.models import Evaluation, Postprocess
from clipaffect.config.training import Training
from clipaffect.core.errors import UserError
from clipaffect.core.metrics import decide, expected_calibration_error, reliability
from clipaffect.core.parquet import read_table, write_table
from clipaffect.core.store import Store
from clipaffect.core.tasks import AU, EXPR, Task
from clipaffect.evaluation.evaluate_heads import evaluate_heads
from clipaffect.postprocess import cross_fitting as cross
from clipaffect.postprocess.cross_fitting import _deal, cross_fit
from clipaffect.postprocess.encoder_ensemble import _placed
from clipaffect.postprocess.postprocess_scores import _steps, postprocess_scores
from clipaffect.postprocess.smoothing import Window, sequences, smooth
from clipaffect.postprocess.steps import (
    STRENGTHS,
    Rows,
    adjust,
    average,
    average_encoders,
    choose_adjustment,
    choose_encoders,
    choose_smoothing,
    choose_temperature,
    scale,
)
from clipaffect.training.data import Split

TWO = Task("labels", ("a", "b"), True)
EVALUATION = Evaluation(resamples=1000)


def rows_of(*videos: str, frames: int = 9) -> pd.DataFrame:
    parts = [pd.DataFrame({"video": v, "person": "", "frame": range(frames)}) for v in videos]
    return pd.concat(parts, ignore_index=True)


def test_a_mean_is_over_the_frames_that_are_there() -> None:
    rows = rows_of("v").iloc[[0, 1, 2, 5, 8]].reset_index(drop=True)
    scores = np.array([[[1.0], [0.0], [0.5], [0.2], [0.9]]])
    found = smooth(scores, sequences(rows), Window("mean", 3))[0, :, 0]
    # Frame 0 has one neighbour, 5 and 8 none within one frame.
    assert found == pytest.approx([0.5, 0.5, 0.25, 0.2, 0.9])
    assert np.array_equal(smooth(scores, sequences(rows), Window("none", 0)), scores)


def test_people_do_not_mix_and_order_does_not_count() -> None:
    rng = np.random.default_rng(0)
    rows = rows_of("v", "w", frames=40)
    scores = rng.random((2, 80, 3))
    window = Window("gaussian", 2)
    found = smooth(scores, sequences(rows), window)
    alone = smooth(scores[:, :40], sequences(rows.iloc[:40]), window)
    assert np.allclose(found[:, :40], alone)
    order = rng.permutation(80)
    shuffled = smooth(scores[:, order], sequences(rows.iloc[order].reset_index(drop=True)), window)
    assert np.allclose(shuffled, found[:, order])
    # What does not change stays, probabilities sum to 1.
    assert np.allclose(smooth(np.full((1, 80, 2), 0.3), sequences(rows), window), 0.3)
    shares = scores / scores.sum(axis=-1, keepdims=True)
    assert np.allclose(smooth(shares, sequences(rows), window).sum(axis=-1), 1)


def test_a_gaussian_is_the_sum_written_out() -> None:
    rows = rows_of("v", frames=30).drop(index=[4, 5, 17]).reset_index(drop=True)
    scores = np.random.default_rng(1).random((1, 27, 1))
    found = smooth(scores, sequences(rows), Window("gaussian", 2))[0, :, 0]
    frames = rows["frame"].to_numpy()
    away = frames[:, None] - frames[None]
    weights = np.exp(-(away**2) / 8) * (np.abs(away) <= 8)  # scipy cuts at 4 deviations
    assert found == pytest.approx(weights @ scores[0, :, 0] / weights.sum(axis=1), abs=1e-9)


def test_smoothing_is_chosen_where_it_helps_and_left_where_not() -> None:
    rng = np.random.default_rng(2)
    rows = rows_of(*"abcdefgh", frames=60)
    truth = (np.arange(480) // 15 % 2)[:, None]
    task = Task("two", ("x", "y"), False)
    at = Rows(truth, sequences(rows), task)
    noisy = np.clip(0.5 + (truth - 0.5) * 0.5 + rng.normal(0, 0.5, (480, 1)), 0.01, 0.99)
    noisy = np.concatenate([1 - noisy, noisy], axis=1)[None]
    choice = choose_smoothing(noisy, at)
    assert choice["kind"] != "none"
    assert 2 <= choice["width"] <= 15
    sure = np.concatenate([1 - truth, truth], axis=1)[None] * 0.8 + 0.1
    assert choose_smoothing(sure, at) == {"kind": "none", "width": 0}


def softmax(logits: np.ndarray) -> np.ndarray:
    found = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return found / found.sum(axis=-1, keepdims=True)


def test_the_temperature_that_was_put_in_comes_out() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 1.5, (20_000, 8))
    labels = np.array([rng.choice(8, p=p) for p in softmax(logits)])[:, None]
    scores = softmax(logits * 2.5)[None]  # far too sure
    at = Rows(labels, [], EXPR)
    choice = choose_temperature(scores, at)
    assert choice["temperature"] == pytest.approx(2.5, rel=0.05)
    found = scale(scores, choice, at)
    assert np.allclose(found[0], softmax(logits * 2.5 / choice["temperature"]), atol=2e-3)
    assert np.array_equal(decide(found[0], EXPR), decide(scores[0], EXPR))
    units = rng.normal(0, 1.5, (5_000, 12))
    shown = (rng.random(units.shape) < 1 / (1 + np.exp(-units))).astype(int)
    shown[rng.random(units.shape) < 0.2] = -1
    said = 1 / (1 + np.exp(-units * 0.5))[None]
    assert choose_temperature(said, Rows(shown, [], AU))["temperature"] == pytest.approx(
        0.5, rel=0.05
    )


def test_a_threshold_is_the_best_of_all(task: Task = TWO) -> None:
    rng = np.random.default_rng(4)
    scores = rng.random((1, 400, 2)).round(3)
    labels = (rng.random((400, 2)) < scores[0] ** 2).astype(int)
    labels[rng.random((400, 2)) < 0.1] = -1
    at = Rows(labels, [], task)
    choice = choose_adjustment(scores, at)
    for k, threshold in enumerate(choice["thresholds"]):
        known = labels[:, k] >= 0
        precision, recall, _ = precision_recall_curve(labels[known, k], scores[0, known, k])
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        own = f1_score(labels[known, k], scores[0, known, k] >= threshold)
        assert own == pytest.approx(f1.max())
    decided = decide(adjust(scores, choice, at)[0], task)
    expected = scores[0] >= np.array(choice["thresholds"])
    assert (decided == expected).mean() > 0.998  # a score at its very threshold may round


def test_labels_that_thresholds_cannot_help_keep_one_half() -> None:
    labels = np.array([[0, 1]] * 5 + [[0, 0]] * 5)
    scores = np.array([[[0.2, 0.9]] * 5 + [[0.3, 0.1]] * 5])
    choice = choose_adjustment(scores, Rows(labels, [], TWO))
    assert choice["thresholds"] == [0.5, 0.5]  # never shown; separated by any threshold


def test_the_logit_adjustment_takes_the_prior_away() -> None:
    rng = np.random.default_rng(5)
    prior = np.array([0.86, *[0.02] * 7])
    labels = rng.choice(8, 6000, p=prior)[:, None]
    evidence = rng.normal(0, 1, (6000, 8))
    evidence[np.arange(6000), labels[:, 0]] += 2
    scores = softmax(evidence + np.log(prior))[None]
    at = Rows(labels, [], EXPR)
    choice = choose_adjustment(scores, at)
    assert 0 < choice["tau"] < 1.5
    found = adjust(scores, choice, at)
    counts = np.bincount(labels[:, 0], minlength=8) / 6000
    expected = softmax(evidence + np.log(prior) - choice["tau"] * np.log(counts))
    assert np.allclose(found[0], expected, atol=1e-4)
    assert at.macro_f1(found) > at.macro_f1(scores) + 0.05
    # Every class as frequent as any other: nothing to take away.
    even = np.arange(6000)[:, None] % 8
    assert choose_adjustment(softmax(evidence)[None], Rows(even, [], EXPR))["tau"] == 0


def test_seeds_are_averaged() -> None:
    scores = np.random.default_rng(6).random((3, 5, 2))
    assert np.allclose(average(scores, {}, Rows(np.zeros((5, 2)), [], TWO))[0], scores.mean(axis=0))


def test_encoders_are_averaged_where_it_helps() -> None:
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 8, (3000, 1))
    truth = np.eye(8)[labels[:, 0]]
    own, good, noise = (
        softmax(truth * strength + rng.normal(0, 1, (2, 3000, 8))) for strength in (1, 1, 0)
    )
    at = Rows(labels, [], EXPR, {"noise": noise, "good": good})
    choice = choose_encoders(own, at)
    assert choice == {"with": ["good"]}
    assert at.macro_f1(average_encoders(own, choice, at)) > at.macro_f1(own) + 0.03
    assert choose_encoders(own, Rows(labels, [], EXPR, {"noise": noise})) == {"with": []}
    # A frame that the other encoder did not see, and a seed whose head failed, keep their own.
    good[:, :5], good[1] = np.nan, np.nan
    found = average_encoders(own, choice, at)
    assert np.array_equal(found[:, :5], own[:, :5])
    assert np.array_equal(found[1], own[1])
    assert np.allclose(found[0, 5:], (own[0, 5:] + good[0, 5:]) / 2)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return small_table(tmp_path / "table", n=300)


def test_nobody_is_scored_by_heads_that_saw_the_part(table: Path, tmp_path: Path) -> None:
    first = cross_fit(table, EXPR, 0, SMALL, 3, Store(tmp_path / "store"))
    assert first.scores.shape == (2, len(first.rows), 8)
    features = np.load(table / "features.npy")
    rows = read_table(table / "rows.parquet")
    moved = rows["group"] == first.rows["group"].astype(str).iloc[0]
    features[moved] += 3
    np.save(table / "features.npy", features)
    again = cross_fit(table, EXPR, 0, SMALL, 3, Store(tmp_path / "store"))
    same = (again.scores == first.scores).all(axis=(0, 2))
    by_person = pd.Series(same).groupby(first.rows["group"].astype(str)).mean()
    # Another head scores the other parts; in the person's own part nothing has changed but itself.
    stayed = set(by_person.index[by_person == 1])
    changed = set(by_person.index[by_person < 0.5])
    assert stayed | changed == set(by_person.index)
    assert str(rows.loc[moved, "group"].iloc[0]) in changed
    assert stayed


def evaluated(table: Path, folder: Path) -> Path:
    bundles = bundles_of(table, folder)
    evaluate_heads(
        SMALL, "leave_out", "x", EXPR, table, bundles, [], no_copies(folder), folder / "scored"
    )
    return folder / "scored"


def run(
    table: Path,
    scored: Path,
    folder: Path,
    how: Postprocess,
    settings: Training = SMALL,
    others: Sequence[Path] = (),
):
    postprocess_scores(
        settings,
        how,
        EVALUATION,
        "x",
        EXPR,
        table,
        list(others),
        scored,
        Store(folder / "store"),
        folder / "out",
    )
    steps = read_table(folder / "out/steps.parquet")
    return steps, json.loads((folder / "out/choices.json").read_text())


def test_choices_do_not_depend_on_what_is_reported(table: Path, tmp_path: Path) -> None:
    scored = evaluated(table, tmp_path)
    steps, choices = run(table, scored, tmp_path, Postprocess())
    assert list(steps["step"]) == ["heads alone", *Postprocess().steps]
    assert choices["seeds"] == [0, 1]
    rows = read_table(scored / "rows.parquet")
    write_table(scored / "rows.parquet", rows.assign(label=(rows["label"] + 1) % 8))
    other, again = run(table, scored, tmp_path, Postprocess())
    assert again == choices
    assert list(other["inner_macro_f1"]) == list(steps["inner_macro_f1"])
    assert other["macro_f1"].iloc[0] < steps["macro_f1"].iloc[0]


def test_the_last_scores_give_the_last_macro_f1(table: Path, tmp_path: Path) -> None:
    scored = evaluated(table, tmp_path)
    how = Postprocess(steps=("smooth", "adjust"), folds=2)
    steps, _ = run(table, scored, tmp_path, how)
    assert list(steps["seeds"]) == [2, 2, 2]
    last = read_table(tmp_path / "out/scores.parquet")
    rows = read_table(scored / "rows.parquet").set_index(["video", "frame"])["label"]
    found = []
    for _, part in last.groupby("seed"):
        truth = rows.loc[pd.MultiIndex.from_frame(part[["video", "frame"]])]
        said = np.stack(part["scores"].to_list()).argmax(axis=1)
        found.append(f1_score(truth, said, average="macro", labels=range(8), zero_division=0))
    assert np.mean(found) == pytest.approx(steps["macro_f1"].iloc[-1])
    alone = read_table(scored / "metrics.parquet").query(
        "method == 'head' and alpha == 0.5 and metric == 'macro_f1'"
    )
    assert alone["value"].mean() == pytest.approx(steps["macro_f1"].iloc[0])


def test_another_encoders_heads_are_averaged_frame_by_frame(table: Path, tmp_path: Path) -> None:
    """Its table lacks some frames and has others in another order; the sum is written out here."""
    other = small_table(tmp_path / "other", n=300)
    features = np.load(other / "features.npy")
    np.save(
        other / "features.npy", features + np.sin(np.arange(features.size)).reshape(features.shape)
    )
    rows = read_table(other / "rows.parquet")
    unseen = (rows["split"] == "validation") & (rows["frame"] % 7 == 0)
    rows.loc[unseen, ["status", "feature_row"]] = ["no_face", -1]
    write_table(other / "rows.parquet", rows)
    scored = evaluated(table, tmp_path)
    how = Postprocess(steps=("average_encoders",), encoders=("y",), folds=2)
    steps, choices = run(table, scored, tmp_path, how, others=[other])
    assert choices["steps"] == [{"fold": 0, "step": "average_encoders", "choice": {"with": ["y"]}}]
    keys = ["seed", "video", "person", "frame"]
    evaluate_heads(
        SMALL,
        "leave_out",
        "y",
        EXPR,
        other,
        bundles_of(other, tmp_path / "y"),
        [],
        no_copies(tmp_path),
        tmp_path / "scored_y",
    )
    own, theirs = (
        read_table(folder / "scores.parquet")
        .query("method == 'head' and alpha == 0.5")
        .set_index(keys)["scores"]
        for folder in (scored, tmp_path / "scored_y")
    )
    averaged = read_table(tmp_path / "out/scores.parquet").set_index(keys)["scores"]
    assert len(averaged) == len(own) > len(theirs)
    for key, values in averaged.items():
        both = [own[key], theirs[key]] if key in theirs.index else [own[key]]
        assert values == pytest.approx(np.mean(both, axis=0), abs=1e-6)
    assert steps["step"].tolist() == ["heads alone", "average_encoders"]


def _check_final(scored: Path, choices: dict) -> None:
    """The adjustment of heads for everybody is the best one on all out-of-fold scores."""
    average, smoothing, temperature, adjustment = (own["choice"] for own in choices["final"])
    assert average == {}
    rows = read_table(scored / "rows.parquet")
    scores = read_table(scored / "scores.parquet").query("method == 'head' and alpha == 0.5")
    keys = ["video", "frame"]
    mean = scores.groupby(keys)["scores"].apply(lambda own: np.mean(np.stack(own.tolist()), axis=0))
    rows = rows.set_index(keys).loc[mean.index]
    values = np.stack(mean.tolist())
    at = Rows(rows[["label"]].to_numpy(), sequences(mean.reset_index().assign(person="")), EXPR)
    values = smooth(values[None], at.runs, Window(**smoothing))[0]
    logits = np.log(np.clip(values, 1e-12, 1)) / temperature["temperature"]
    prior = rows["label"].value_counts(normalize=True).sort_index().to_numpy()
    assert adjustment["prior"] == pytest.approx(prior)
    reached = {
        tau: f1_score(rows["label"], (logits - tau * np.log(prior)).argmax(1), average="macro")
        for tau in STRENGTHS
    }
    assert reached[adjustment["tau"]] == pytest.approx(max(reached.values()))


def test_every_fold_has_choices_of_its_own(table: Path, tmp_path: Path) -> None:
    folded(table)
    scored = evaluated(table, tmp_path)
    steps, choices = run(table, scored, tmp_path, Postprocess(folds=2))
    assert [(c["fold"], c["step"]) for c in choices["steps"]] == [
        (fold, step) for fold in (1, 2, 3) for step in Postprocess().steps
    ]
    assert len(json.loads(steps["choice"].iloc[2])) == 3
    _check_final(scored, choices)
    rows = read_table(tmp_path / "out/scores.parquet")
    assert len(rows) == 300
    assert set(rows["fold"]) == {1, 2, 3}


def test_too_few_people_are_a_note_and_no_end_of_the_run(table: Path, tmp_path: Path) -> None:
    scored = evaluated(table, tmp_path)
    rows = read_table(table / "rows.parquet")
    rows["group"] = rows["split"]  # one person trains, one is scored
    write_table(table / "rows.parquet", rows)
    steps, choices = run(table, scored, tmp_path, Postprocess())
    assert len(steps) == 0
    assert "1 training people or source videos cannot be divided into 3 parts" in choices["note"]


def test_a_gpu_that_is_not_there_is_an_error_and_no_note(table: Path, tmp_path: Path) -> None:
    scored = evaluated(table, tmp_path)
    there = SMALL.model_copy(update={"device": "cuda"})
    with pytest.raises(UserError, match="torch cannot use a GPU"):
        run(table, scored, tmp_path, Postprocess(), there)
    assert not (tmp_path / "out/steps.parquet").exists()


def test_another_variant_does_not_stop_the_headlines_steps(table: Path, tmp_path: Path) -> None:
    scored = evaluated(table, tmp_path)
    (tmp_path / "broken.py").write_text("raise RuntimeError")
    broken = {"mine": {"loss": f"{tmp_path / 'broken.py'}:Loss"}}
    steps, _ = run(
        table, scored, tmp_path, Postprocess(), SMALL.model_copy(update={"variants": broken})
    )
    assert len(steps) == 5


def test_training_people_are_dealt_whole_with_all_their_videos() -> None:
    count = 24 * 16
    rows = pd.DataFrame(
        {
            "group": [f"p{k // 32}" for k in range(count)],
            "person": "",
            "video": [f"v{k // 16}" for k in range(count)],
            "frame": np.arange(count),
        }
    )
    labels = torch.from_numpy((np.arange(count)[:, None] % 8).astype(np.int8))
    train = Split(rows, torch.zeros(count, 2), labels)
    part = _deal(train, EXPR, 3)
    assert set(part) == {1, 2, 3}
    assert (rows.assign(part=part).groupby("group")["part"].nunique() == 1).all()
    assert (rows.groupby("group")["video"].nunique() == 2).all()


def test_a_seed_that_fails_on_one_part_is_in_no_choice(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, calls = cross._heads, []

    def failing(*arguments: object) -> list:
        heads = make(*arguments)
        calls.append(1)
        return [None, heads[1]] if len(calls) == 2 else heads

    monkeypatch.setattr(cross, "_heads", failing)
    found = cross_fit(table, EXPR, 0, SMALL, 3, Store(tmp_path / "store"))
    assert len(calls) == 3
    assert found.seeds == [1]
    assert found.scores.shape[0] == 1
    assert np.isfinite(found.scores).all()


def test_another_encoders_seeds_are_placed_by_their_number() -> None:
    rows = rows_of("v", frames=3)
    scores = np.arange(6.0).reshape(2, 3, 1)
    found = _placed(rows, scores, [1, 2], rows.iloc[[2, 0]], [2, 0])
    assert np.isnan(found[1]).all()
    assert found[0, :, 0].tolist() == [5, 3]


def test_a_steps_calibration_error_is_the_mean_over_its_seeds() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, (90, 1)).astype(np.int8)
    sure = np.full((90, 8), 0.01)
    sure[np.arange(90), labels[:, 0]] = 0.93
    scores = np.stack([sure, rng.dirichlet(np.ones(8), 90)])
    groups = np.array([f"p{k % 9}" for k in range(90)])
    table = _steps(["heads"], [scores], labels, groups, EXPR, 1000)
    errors = [expected_calibration_error(reliability(labels, one, EXPR)) for one in scores]
    assert abs(errors[0] - errors[1]) > 0.05
    assert table["calibration_error"].item() == pytest.approx(np.mean(errors))
