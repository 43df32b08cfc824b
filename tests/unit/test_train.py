"""Whole heads: the same bytes alone, in a grid and after a kill; failures; the choice of epoch."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from forked import forked
from safetensors.torch import load_file
from small_heads import GRID, RECIPE, Killed, data, same, small_table, splits, trained

from clipaffect.config.training import Cvar
from clipaffect.core.metrics import f1_per_target
from clipaffect.core.setting import Setting
from clipaffect.core.store import Store
from clipaffect.core.tasks import AU, EXPR
from clipaffect.training import train_heads as stage
from clipaffect.training.data import Split, TrainingData
from clipaffect.training.history import is_collapsed, probe_steps, spread
from clipaffect.training.mlp_head import evaluator
from clipaffect.training.train_heads import train_heads
from clipaffect.training.trainer import TrainedHead, train_head


def test_training_twice_gives_the_same_bytes_and_seeds_differ(tmp_path: Path) -> None:
    first, again = trained(tmp_path / "a"), trained(tmp_path / "b")
    assert same(first.weights, again.weights)
    assert json.dumps(first.history) == json.dumps(again.history)
    assert not same(first.weights, trained(tmp_path / "c", seed=1).weights)


def test_a_head_alone_has_the_bytes_it_has_in_a_grid(tmp_path: Path) -> None:
    table = small_table(tmp_path / "table")
    alone = GRID.model_copy(update={"alphas": (1.0,), "seeds": (1,), "headline_alpha": 1.0})
    for name, settings in (("grid", GRID), ("alone", alone)):
        train_heads(table, EXPR, settings, 0, Store(tmp_path / name / "store"), tmp_path / name)
    grid, one = (load_file(tmp_path / name / "heads.safetensors") for name in ("grid", "alone"))
    assert {name.split("/")[0] for name in grid} == {
        f"alpha={alpha},seed={seed}" for alpha in ("0.5", "1") for seed in (0, 1)
    }
    assert len(one) == len(grid) / 4
    assert all(torch.equal(grid[name], value) for name, value in one.items())


@pytest.mark.parametrize("select_on", ["last", "inner"])
@pytest.mark.parametrize("epochs_done", [1, 3])
def test_a_head_goes_on_from_its_checkpoint(
    tmp_path: Path, select_on: str, epochs_done: int
) -> None:
    rows, recipe = data(select_on=select_on)
    whole = trained(tmp_path / "whole", select_on=select_on)
    folder = tmp_path / "killed"
    folder.mkdir()
    calls = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == epochs_done:
            raise Killed

    with pytest.raises(Killed):
        train_head(rows, EXPR, recipe, 0.5, 0, folder, stop)
    seen = []
    resumed = train_head(rows, EXPR, recipe, 0.5, 0, folder, lambda: seen.append(1))
    assert len(seen) == recipe.epochs
    assert resumed.samples == (recipe.epochs - epochs_done) * len(rows.rows)
    assert same(whole.weights, resumed.weights)
    assert json.dumps(whole.history) == json.dumps(resumed.history)
    assert resumed.kept == whole.kept


def test_kill_9_in_a_grid_job_ends_in_the_same_bytes(tmp_path: Path) -> None:
    table = small_table(tmp_path / "table")
    settings = GRID.model_copy(update={"epochs": 20})
    train_heads(table, EXPR, settings, 0, Store(tmp_path / "s1"), tmp_path / "whole")
    train, heads = stage.train_head, tmp_path / "s2/heads"

    def halting(rows: TrainingData, *arguments: Any) -> TrainedHead:
        """The second head stops in its tenth epoch, with a checkpoint, until it is killed."""
        if not list(heads.glob("*/*/record.json")):
            return train(rows, *arguments)
        epochs = []

        def stop() -> None:
            epochs.append(1)
            if len(epochs) == 10:
                print("in the middle", flush=True)
                time.sleep(600)

        return train(rows, *arguments[:-1], stop)

    def job() -> None:
        stage.train_head = halting
        train_heads(table, EXPR, settings, 0, Store(tmp_path / "s2"), tmp_path / "killed")

    with forked(job) as killed:
        assert "in the middle\n" in iter(killed.stdout.readline, "")
    train_heads(table, EXPR, settings, 0, Store(tmp_path / "s2"), tmp_path / "killed")
    for name in ("heads.safetensors", "heads.parquet", "history.parquet"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    assert not list((tmp_path / "s2").glob("heads/*/*/checkpoint*"))


def test_one_more_seed_trains_only_that_seed(tmp_path: Path) -> None:
    table, store = small_table(tmp_path / "table"), Store(tmp_path / "store")
    timings = tmp_path / "timings.json"
    train_heads(table, EXPR, GRID, 0, store, tmp_path / "a", timings)
    per_head = json.loads(timings.read_text())["samples"] / 4
    more = GRID.model_copy(update={"seeds": (0, 1, 2)})
    train_heads(table, EXPR, more, 0, store, tmp_path / "b", timings)
    assert json.loads(timings.read_text())["samples"] == 2 * per_head
    train_heads(table, EXPR, more, 0, store, tmp_path / "c", timings)
    assert json.loads(timings.read_text())["samples_per_second"] is None


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"cvar": Cvar(gradient="published")},
        {"loss": "focal"},
        {"loss": "class_balanced"},
        {"loss": "chi_square"},
    ],
)
def test_features_that_overflow_end_the_head_in_its_first_epoch(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    rows, changed = data(**recipe)
    huge = TrainingData(
        rows.features.float() * 1e38, rows.labels, rows.rows, rows.inner, rows.validation
    )
    found = train_head(huge, EXPR, changed, 0.5, 0, tmp_path)
    assert found.status == "non_finite"
    assert [row["epoch"] for row in found.history] == [1]


def test_history_states_what_was_measured(tmp_path: Path) -> None:
    found = trained(tmp_path, select_on="inner")
    history = pd.DataFrame(found.history)
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    assert history["learning_rate"].is_monotonic_decreasing
    assert (history["value"] >= history["mean_loss"] - 1e-6).all()  # CVaR is at least the mean
    assert history["perturbation_norm"].tolist() == pytest.approx([RECIPE.rho] * 4, rel=1e-4)
    assert history[["sharpness", "threshold", "gradient_norm"]].notna().all().all()
    assert history["mean_largest_probability"].between(1 / 8, 1).all()
    best = history["inner_macro_f1"].idxmax()
    assert found.kept == history["epoch"][best]
    last = trained(tmp_path / "last")
    assert last.kept == 4
    assert np.isnan(last.history[0]["inner_macro_f1"])


def test_watched_validation_is_the_score_of_those_weights(tmp_path: Path) -> None:
    found = trained(tmp_path)
    rows, recipe = data()
    head = torch.nn.Module()
    from clipaffect.training.mlp_head import Head

    head = Head(6, 8, recipe.hidden_layers, recipe.width)
    head.load_state_dict(found.weights)
    logits = evaluator(head.eval())(rows.validation.features.float())
    f1 = f1_per_target(rows.validation.labels.numpy(), logits.argmax(1)[:, None].numpy(), EXPR)
    assert found.history[-1]["validation_macro_f1"] == pytest.approx(f1.mean())


def test_validation_changes_nothing_but_what_is_watched(tmp_path: Path) -> None:
    rows, recipe = data()
    other = Split(rows.validation.rows, rows.validation.features * 0, rows.validation.labels)
    changed = TrainingData(rows.features, rows.labels, rows.rows, rows.inner, other)
    found = train_head(changed, EXPR, recipe, 0.5, 0, tmp_path)
    assert same(found.weights, trained(tmp_path / "a").weights)


def test_training_learns_a_separable_problem(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 8, (400, 1)).astype(np.int8)
    x = torch.from_numpy(np.eye(8)[y[:, 0]] + rng.normal(size=(400, 8)) * 0.1).half()
    recipe = RECIPE.model_copy(update={"epochs": 20, "dropout": 0.0})
    _, validation = splits()
    empty = Split(validation.rows[:0], x[:0], validation.labels[:0])
    rows = TrainingData(x, torch.from_numpy(y), np.arange(400), np.arange(0), empty)
    found = train_head(rows, EXPR, recipe, 1.0, 0, tmp_path)
    from clipaffect.training.mlp_head import Head

    head = Head(8, 8, recipe.hidden_layers, recipe.width)
    head.load_state_dict(found.weights)
    assert head.eval()(torch.eye(8)).argmax(1).tolist() == list(range(8))
    assert np.isnan(found.history[-1]["validation_macro_f1"])


def test_a_uniform_head_is_called_collapsed() -> None:
    assert is_collapsed(0.16, EXPR)  # the figure that was measured at alpha 0.1, dropout 0.6
    assert not is_collapsed(0.4, EXPR)
    assert is_collapsed(0.52, AU)
    assert not is_collapsed(0.9, AU)


def test_sharpness_is_measured_at_a_few_steps() -> None:
    for steps in (8, 12, 15, 23, 1000, 1007, 18291):
        assert len(probe_steps(steps)) == 8
    assert probe_steps(5) == set(range(5))
    rows = spread(4096, 8191)
    assert len(rows) == 4096
    assert (rows[0], rows[-1]) == (0, 8190)


@pytest.mark.parametrize("at", ["head.safetensors", "history.parquet", "record.json"])
def test_a_kill_while_a_piece_is_written_costs_no_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    table, store = small_table(tmp_path / "table"), Store(tmp_path / "store")
    train_heads(table, EXPR, GRID, 0, Store(tmp_path / "whole"), tmp_path / "a")
    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if Path(target).name == at:
            raise Killed
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(Killed):
            train_heads(table, EXPR, GRID, 0, store, tmp_path / "b")
    timings = tmp_path / "timings.json"
    train_heads(table, EXPR, GRID, 0, store, tmp_path / "b", timings)
    per_head = 4 * 86  # epochs, rows
    assert json.loads(timings.read_text())["samples"] == 3 * per_head
    for name in ("heads.safetensors", "history.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_names_of_heads() -> None:
    assert Setting(alpha=0.5, seed=3).head_name == "alpha=0.5,seed=3"
    assert Setting(variant="focal", seed=0).head_name == "focal,seed=0"
