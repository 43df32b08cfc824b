"""Splits made of whole people, and k-fold evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import f1_score
from small_heads import no_copies, small_table

from clipaffect.config.data import Splitting
from clipaffect.config.models import Probe, SubmissionEntry
from clipaffect.config.training import Training
from clipaffect.core.errors import UserError
from clipaffect.core.parquet import read_table, write_table
from clipaffect.core.store import Store
from clipaffect.core.tasks import AU, EXPR, Task
from clipaffect.dataset.make_splits import check_leaks, make_splits
from clipaffect.evaluation.evaluate_heads import evaluate_heads
from clipaffect.evaluation.fit_references import fit_references
from clipaffect.features.build_table import folds_of
from clipaffect.features.columns import schema
from clipaffect.submission.submitted_heads import submitted_heads
from clipaffect.submission.write_submission import write_submission
from clipaffect.training.build_head import build_head
from clipaffect.training.data import read_split
from clipaffect.training.train_final_heads import train_final_heads
from clipaffect.training.train_heads import finished_heads, load_head, train_heads

SMALL = Training(
    width=8,
    hidden_layers=1,
    epochs=2,
    learning_rate=0.003,
    alphas=(0.5, 1.0),
    seeds=(0, 1),
    parts=2,
)


def drawn_labels(task: Task, people: int = 40, seed: int = 0) -> pd.DataFrame:
    """Rows of people who show some classes more than others."""
    rng = np.random.default_rng(seed)
    parts = []
    for person in range(people):
        count = int(rng.integers(5, 60))
        rows = pd.DataFrame({"group": f"p{person}", "frame": np.arange(count)})
        if task.multilabel:
            for place, name in enumerate(task.targets):
                rows[name] = (rng.random(count) < 0.5 / (place + 1)).astype(int)
        else:
            rows["label"] = rng.choice(8, count, p=rng.dirichlet(np.ones(8) * 2))
        parts.append(rows)
    found = pd.concat(parts, ignore_index=True).assign(split="train", annotated=True)
    return found


def test_parts_are_whole_people_alike_in_their_classes() -> None:
    labels = {"EXPR": drawn_labels(EXPR), "AU": drawn_labels(AU)}
    tasks = (EXPR, AU)
    how = Splitting(by="folds", folds=4, seed=3)
    made = make_splits(labels, tasks, how)
    seen: dict[str, set[str]] = {}
    for rows in made.values():
        assert sorted(rows["split"].unique()) == [f"fold {k}" for k in range(1, 5)]
        for group, split in rows.groupby("group")["split"]:
            seen.setdefault(group, set()).update(split)
    assert all(len(splits) == 1 for splits in seen.values())  # the same for both tasks
    check_leaks(made)
    shares = pd.crosstab(made["EXPR"]["split"], made["EXPR"]["label"], normalize="columns")
    rng = np.random.default_rng(0)
    worst = []
    for _ in range(100):  # random deals of people differ more
        part = dict(zip(seen, rng.permutation(np.arange(len(seen)) % 4), strict=True))
        deal = labels["EXPR"]["group"].map(part)
        worst.append(pd.crosstab(deal, labels["EXPR"]["label"], normalize="columns").std().mean())
    assert shares.std().mean() < np.percentile(worst, 5)
    again = make_splits(labels, tasks, how)
    pd.testing.assert_frame_equal(made["AU"], again["AU"])
    other = make_splits(labels, tasks, how.model_copy(update={"seed": 4}))
    assert (other["EXPR"]["split"] != made["EXPR"]["split"]).any()
    held = make_splits(labels, tasks, how.model_copy(update={"by": "hold_out"}))
    share = (held["EXPR"]["split"] == "validation").mean()
    assert 0.15 < share < 0.35


def test_people_alone_in_their_row_are_dealt_alike_too() -> None:
    labels = {"EXPR": drawn_labels(EXPR).assign(group=lambda rows: rows.index.astype(str))}
    made = make_splits(labels, (EXPR,), Splitting(by="folds", folds=5))
    counts = pd.crosstab(made["EXPR"]["split"], made["EXPR"]["label"])
    assert (counts.max() - counts.min()).max() <= 1


def test_a_leak_names_who_leaks() -> None:
    rows = pd.DataFrame({"group": ["ann", "ann", "bea"], "split": ["train", "validation", "train"]})
    with pytest.raises(UserError, match=r"1 people.*EXPR: ann .*train and validation"):
        check_leaks({"EXPR": rows})


def folded(table: Path, folds: int = 3) -> Path:
    """The table of test_train with its videos dealt to folds, its rows in order again."""
    rows = read_table(table / "rows.parquet")
    features = np.load(table / "features.npy")
    number = pd.factorize(rows["group"])[0] % folds + 1
    rows["split"] = [f"fold {k}" for k in number]
    order = rows.sort_values(["split", "video", "frame"]).index.to_numpy()
    rows = rows.loc[order].reset_index(drop=True).assign(feature_row=np.arange(len(rows)))
    write_table(table / "rows.parquet", rows)
    np.save(table / "features.npy", features[order])
    return table


@pytest.fixture
def folds(tmp_path: Path) -> Path:
    return folded(small_table(tmp_path / "table", n=240))


def test_a_fold_is_scored_by_rows_that_are_in_no_other(folds: Path) -> None:
    assert folds_of(folds) == [1, 2, 3]
    everything = read_table(folds / "rows.parquet")
    for fold in (1, 2, 3):
        train = read_split(folds, EXPR, "train", fold)
        validation = read_split(folds, EXPR, "validation", fold)
        assert len(train.rows) + len(validation.rows) == len(everything)
        assert not set(train.rows["group"]) & set(validation.rows["group"])
        features = np.load(folds / "features.npy")
        own = everything["split"] == f"fold {fold}"
        np.testing.assert_array_equal(train.features.numpy(), features[~own])
        np.testing.assert_array_equal(validation.features.numpy(), features[own])


def bundles_of(table: Path, folder: Path, settings: Training = SMALL) -> list[Path]:
    for part in range(settings.parts):
        train_heads(table, EXPR, settings, part, Store(folder / "store"), folder / str(part))
    return [folder / str(part) for part in range(settings.parts)]


def test_a_folds_head_is_the_head_of_that_split(folds: Path, tmp_path: Path) -> None:
    weights: dict = {}
    for bundle in bundles_of(folds, tmp_path / "folds"):
        weights |= load_file(bundle / "heads.safetensors")
    assert len({name.split("/")[0] for name in weights}) == 12  # 2 alphas, 2 seeds, 3 folds
    rows = read_table(folds / "rows.parquet")
    features = np.load(folds / "features.npy")
    rows["split"] = np.where(rows["split"] == "fold 2", "validation", "train")
    order = rows.sort_values(["split"], kind="stable").index.to_numpy()
    plain = tmp_path / "plain"
    plain.mkdir()
    write_table(plain / "rows.parquet", rows.loc[order].assign(feature_row=np.arange(len(rows))))
    np.save(plain / "features.npy", features[order])
    expected: dict = {}
    for bundle in bundles_of(plain, tmp_path / "one"):
        expected |= load_file(bundle / "heads.safetensors")
    assert len(expected) * 3 == len(weights)
    for name, value in expected.items():
        head, key = name.split("/")
        assert value.equal(weights[f"{head},fold=2/{key}"])


def test_k_fold_metrics_are_those_of_the_pooled_scores(folds: Path, tmp_path: Path) -> None:
    bundles = bundles_of(folds, tmp_path)
    reference, out = tmp_path / "probe.parquet", tmp_path / "out"
    fit_references(folds, EXPR, "x", Probe(strengths=(0.1,), iterations=20), SMALL, None, reference)
    evaluate_heads(
        SMALL, "leave_out", "x", EXPR, folds, bundles, [reference], no_copies(tmp_path), out
    )
    rows = read_table(folds / "rows.parquet").set_index(["video", "person", "frame"])
    scores = read_table(out / "scores.parquet")
    metrics = read_table(out / "metrics.parquet").query("metric == 'macro_f1'")
    own = scores.query("method == 'head' and alpha == 0.5 and seed == 1")
    assert len(own) == len(rows)  # every frame once
    truth = rows.loc[list(zip(own["video"], own["person"], own["frame"], strict=True)), "label"]
    decided = np.stack(own["scores"].to_list()).argmax(1)
    kept = metrics.query("method == 'head' and alpha == 0.5 and seed == 1").set_index("fold")
    expected = f1_score(truth, decided, labels=range(8), average="macro", zero_division=0)
    assert kept.loc[0, "value"] == pytest.approx(expected)
    for fold in (1, 2, 3):
        at = (own["fold"] == fold).to_numpy()
        expected = f1_score(
            truth[at], decided[at], labels=range(8), average="macro", zero_division=0
        )
        assert kept.loc[fold, "value"] == pytest.approx(expected)
    assert set(metrics.query("method == 'linear_probe'")["fold"]) == {0, 1, 2, 3}
    frames = json.loads((out / "frames.json").read_text())
    assert frames["folds"] == [1, 2, 3]
    assert frames["with_crop"] == len(rows)


def test_a_reference_is_scored_on_its_own_frames(folds: Path, tmp_path: Path) -> None:
    # Imported features may be there for other frames than an encoder's: no row may be mistaken.
    other = tmp_path / "other"
    other.mkdir()
    rows, features = read_table(folds / "rows.parquet"), np.load(folds / "features.npy")
    lost = np.random.default_rng(0).random(len(rows)) < 0.2
    rows["status"] = np.where(lost, "no_feature", "ok")
    rows["feature_row"] = np.where(lost, -1, np.cumsum(~lost) - 1)
    write_table(other / "rows.parquet", rows)
    np.save(other / "features.npy", features[~lost])
    bundles, paths = bundles_of(folds, tmp_path), []
    for name, table in (("whole", folds), ("some", other)):
        paths.append(tmp_path / f"{name}.parquet")
        fit_references(
            table, EXPR, name, Probe(strengths=(0.1,), iterations=20), SMALL, None, paths[-1]
        )
    evaluate_heads(
        SMALL,
        "leave_out",
        "whole",
        EXPR,
        folds,
        bundles,
        paths,
        no_copies(tmp_path),
        tmp_path / "out",
    )
    metrics = read_table(tmp_path / "out/metrics.parquet").query("fold == 0")
    truth = rows.set_index(["video", "person", "frame"])["label"]
    for name, path in zip(("whole", "some"), paths, strict=True):
        scored = read_table(path)
        keys = list(zip(scored["video"], scored["person"], scored["frame"], strict=True))
        decided = np.stack(scored["scores"].to_list()).argmax(1)
        own = metrics.query(f"method == 'linear_probe' and encoder == '{name}'")
        value = own.query("metric == 'accuracy'")["value"].item()
        assert value == pytest.approx((truth[keys].to_numpy() == decided).mean())
        assert own.query("metric == 'frames'")["value"].item() == len(scored)


def frames_to_predict(folder: Path) -> tuple[Path, np.ndarray]:
    """A shard of embeddings of five frames, which ``test.parquet`` lists, and the features."""
    features = np.random.default_rng(3).normal(size=(5, 6)).astype(np.float16)
    keys = pa.table(
        {
            "video": ["t"] * 5,
            "person": [""] * 5,
            "frame": pa.array(range(1, 6), "i4"),
            "status": ["ok"] * 5,
        }
    )
    column = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), 6)
    shard = folder / "shard.parquet"
    pq.write_table(keys.append_column("feature", column).cast(schema(6, "x")), shard)
    wanted = keys.select(["video", "person", "frame"]).to_pandas()
    locations = [f"t/{k:05d}.jpg" for k in wanted["frame"]]
    write_table(folder / "test.parquet", wanted.assign(location=locations))
    return shard, features


def test_final_heads_are_those_of_a_table_that_is_all_training(folds: Path, tmp_path: Path) -> None:
    choices = tmp_path / "choices.json"
    choices.write_text(
        json.dumps({"final": [{"step": "average_encoders", "choice": {"with": ["y"]}}]})
    )
    other = small_table(tmp_path / "other", n=90, d=4)
    train_final_heads(
        {"x": folds, "y": other, "z": tmp_path},
        EXPR,
        SMALL,
        choices,
        Store(tmp_path / "s"),
        tmp_path,
    )
    final = load_file(tmp_path / "heads.safetensors")
    assert {name.split("/")[0] for name in final} == {"x", "y"}
    for name, table in (("x", folds), ("y", other)):
        rows = read_table(table / "rows.parquet")
        write_table(table / "rows.parquet", rows.assign(split="train"))
        own = {}
        for bundle in bundles_of(table, tmp_path / name):
            own |= load_file(bundle / "heads.safetensors")
        for key, value in final.items():
            features, seed, tensor = key.split("/")
            if features == name:
                assert torch.equal(value, own[f"alpha=0.5,{seed}/{tensor}"])


def test_a_submission_is_the_mean_of_every_folds_heads(folds: Path, tmp_path: Path) -> None:
    bundles = bundles_of(folds, tmp_path)
    shard, features = frames_to_predict(tmp_path)
    chosen = submitted_heads(SubmissionEntry(), "x", {"x": 6}, EXPR, SMALL, bundles, None, None)
    write_submission(
        EXPR, chosen, "leave_out", tmp_path / "test.parquet", {"x": [shard]}, folds, tmp_path
    )
    listed = finished_heads(bundles).query("alpha == 0.5")
    assert len(listed) == 6
    with torch.no_grad():
        answers = [
            torch.softmax(load_head(row, EXPR, SMALL, 6)(torch.from_numpy(features).float()), -1)
            for _, row in listed.iterrows()
        ]
    expected = torch.stack(answers).mean(0).argmax(-1).tolist()
    lines = (tmp_path / "predictions.txt").read_text().splitlines()[1:]
    assert [int(line.split(",")[1]) for line in lines] == expected
    assert len(json.loads((tmp_path / "coverage.json").read_text())["heads"]["x"]) == 6


def test_a_submission_takes_the_steps_of_the_report(folds: Path, tmp_path: Path) -> None:
    """Recomputed by hand: final heads, mean of seeds, moving mean, temperature, prior."""
    shard, features = frames_to_predict(tmp_path)
    prior = np.arange(1, 9) / 36
    choices = [
        {"step": "average_seeds", "choice": {}},
        {"step": "smooth", "choice": {"kind": "mean", "width": 3}},
        {"step": "temperature", "choice": {"temperature": 0.5}},
        {"step": "adjust", "choice": {"tau": 1.5, "prior": prior.tolist()}},
    ]
    (tmp_path / "choices.json").write_text(json.dumps({"final": choices}))
    none, store = tmp_path / "none.json", Store(tmp_path / "s")
    none.write_text('{"final": []}')
    train_final_heads({"x": folds}, EXPR, SMALL, none, store, tmp_path / "final")
    entry = SubmissionEntry()
    chosen = submitted_heads(entry, "x", {"x": 6}, EXPR, SMALL, [], tmp_path, tmp_path / "final")
    write_submission(
        EXPR, chosen, "leave_out", tmp_path / "test.parquet", {"x": [shard]}, folds, tmp_path
    )
    weights = load_file(tmp_path / "final/heads.safetensors")
    each = []
    for seed in SMALL.seeds:
        head = build_head(SMALL.recipes()[""], 6, 8, seed).eval()
        prefix = f"x/seed={seed}/"
        own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        head.load_state_dict(own)
        with torch.no_grad():
            each.append(torch.softmax(head(torch.from_numpy(features).float()), -1).numpy())
    mean = np.mean(each, axis=0)
    smooth = np.stack([mean[max(0, k - 1) : k + 2].mean(axis=0) for k in range(5)])
    expected = (np.log(smooth) / 0.5 - 1.5 * np.log(prior)).argmax(1).tolist()
    lines = (tmp_path / "predictions.txt").read_text().splitlines()[1:]
    assert [int(line.split(",")[1]) for line in lines] == expected
    coverage = json.loads((tmp_path / "coverage.json").read_text())
    assert coverage["heads_trained_on"] == "everybody"
    assert coverage["steps"] == choices


def test_a_failed_fold_leaves_no_pooled_score(folds: Path, tmp_path: Path) -> None:
    bundles = bundles_of(folds, tmp_path)
    listed = read_table(bundles[0] / "heads.parquet")
    failed = listed["head"].iloc[0]
    listed.loc[0, "status"] = "non_finite"
    write_table(bundles[0] / "heads.parquet", listed)
    evaluate_heads(
        SMALL, "leave_out", "x", EXPR, folds, bundles, [], no_copies(tmp_path), tmp_path / "out"
    )
    metrics = read_table(tmp_path / "out/metrics.parquet").query("metric == 'macro_f1'")
    row = listed.iloc[0]
    own = metrics.query(f"method == 'head' and alpha == {row['alpha']} and seed == {row['seed']}")
    assert failed.endswith(f"fold={row['fold']}")
    assert 0 not in set(own["fold"])
    assert set(own["fold"]) == {1, 2, 3} - {row["fold"]}
