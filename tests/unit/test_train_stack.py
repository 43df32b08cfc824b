"""Stacks of heads: the same training as alone, also by the rules of a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pretended_gpu import DEVICE, PretendedGpu, Refused
from small_heads import GRID, Killed, data, same, small_table

from clipaffect.config.training import Cvar, Recipe
from clipaffect.core.errors import UserError
from clipaffect.core.setting import Setting
from clipaffect.core.store import Store
from clipaffect.core.tasks import AU, EXPR, Task
from clipaffect.training.backends import stacked
from clipaffect.training.cost import Timings
from clipaffect.training.losses.base import SingleLosses
from clipaffect.training.losses.registry import build_risk
from clipaffect.training.train_heads import train_heads, train_stacks
from clipaffect.training.trainer import train_head, train_stack


@pytest.mark.parametrize("task", [EXPR, AU], ids=lambda t: t.name)
def test_a_stack_trains_what_each_head_trains_alone(tmp_path: Path, task: Task) -> None:
    rows, recipe = data(task)
    pairs = [(0.5, 1), (1.0, 0), (0.5, 0)]
    stack = train_stack(rows, task, with_recipe(recipe, pairs), "cpu", tmp_path)
    for found, (alpha, seed) in zip(stack, pairs, strict=True):
        folder = tmp_path / f"{alpha}{seed}"
        folder.mkdir()
        alone = train_head(rows, task, recipe, alpha, seed, folder)
        ours, theirs = pd.DataFrame(found.history), pd.DataFrame(alone.history)
        assert ours.columns.tolist() == theirs.columns.tolist()
        # float32 through Adam: compared in float64 step by step in test_fast.py
        for name in ("value", "mean_loss", "gradient_norm", "mean_largest_probability"):
            assert ours[name].tolist() == pytest.approx(theirs[name].tolist(), rel=0.02), name
        assert found.kept == alone.kept
        assert found.weights.keys() == alone.weights.keys()


def test_a_stack_goes_on_from_its_checkpoint_also_after_a_head_failed(tmp_path: Path) -> None:
    rows, recipe = data()
    pairs = with_recipe(recipe, [(0.5, 1), (1.0, 0)])
    make = stacked.make_stack

    def poisoned(*arguments: Any) -> Any:
        stack = make(*arguments)
        step = stack.step

        def broken(*arguments: Any) -> torch.Tensor:
            if int(stack.counts[0]) == 8:  # in the second epoch of six steps
                stack.weights[0][0, 0, 0] = torch.nan
            return step(*arguments)

        stack.step = broken
        return stack

    def stop() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Killed

    for bad in (False, True):
        calls: list[int] = []
        with pytest.MonkeyPatch.context() as patch:
            if bad:
                patch.setattr(stacked, "make_stack", poisoned)
            folders = [tmp_path / f"{name}{bad}" for name in ("whole", "killed")]
            for folder in folders:
                folder.mkdir()
            whole = train_stack(rows, EXPR, pairs, "cpu", folders[0])
            with pytest.raises(Killed):
                train_stack(rows, EXPR, pairs, "cpu", folders[1], stop)
            resumed = train_stack(rows, EXPR, pairs, "cpu", folders[1])
        assert [head.status for head in whole] == ["non_finite" if bad else "ok", "ok"]
        for a, b in zip(whole, resumed, strict=True):
            assert same(a.weights, b.weights)
            assert json.dumps(a.history) == json.dumps(b.history)
            assert a.status == b.status
    assert [row["epoch"] for row in resumed[0].history] == [1, 2]
    assert [row["epoch"] for row in resumed[1].history] == [1, 2, 3, 4]


def test_a_stack_is_stored_head_by_head_and_survives_a_kill_between_them(tmp_path: Path) -> None:
    rows, recipe = data()
    store = Store(tmp_path / "store")
    heads = [Setting(alpha=0.5, seed=0), Setting(alpha=1.0, seed=0), Setting(alpha=1.0, seed=1)]
    keys = {head: {"version": 0, "head": head.head_name} for head in heads}
    arguments = (keys, {"": rows}, EXPR, {"": recipe}, store)
    make = store.get_or_make

    def killed(kind: str, key: dict[str, Any], write: Any) -> Path:
        if key == keys[heads[1]]:
            raise Killed
        return make(kind, key, write)

    store.get_or_make = killed  # type: ignore[method-assign,assignment]
    with pytest.raises(Killed):
        train_stacks("cpu", *arguments, Timings(EXPR, 6))
    assert len(list((tmp_path / "store/stacks").glob("*/*.part"))) == 1
    store.get_or_make = make  # type: ignore[method-assign]
    measured = Timings(EXPR, 6)
    train_stacks("cpu", *arguments, measured)
    assert measured.samples == 0, "the finished stack was stored, not trained again"
    assert all(store.has("heads", key) for key in keys.values())
    assert not list((tmp_path / "store/stacks").glob("*/*.part"))
    more = keys | {Setting(alpha=0.5, seed=1): {"version": 0, "head": "another"}}
    train_stacks("cpu", more, *arguments[1:], measured)
    assert measured.samples == recipe.epochs * len(rows.rows), "only the new head"


def test_training_on_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    table = small_table(tmp_path / "table")
    settings = GRID.model_copy(update={"device": "cuda"})
    with pytest.raises(UserError, match="torch cannot use a GPU"):
        train_heads(table, EXPR, settings, 0, Store(tmp_path / "s"), tmp_path / "out")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"loss": "class_balanced"},
        {"loss": "chi_square"},
        {"perturbation": "sign", "rho": 1e-3},
    ],
    ids=str,
)
@pytest.mark.parametrize("task", [EXPR, AU], ids=lambda t: t.name)
def test_by_the_rules_of_a_gpu_a_stack_trains_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task, change: dict[str, Any]
) -> None:
    """Graphs of full and of last batches, with and without probing, over epochs and rates."""
    rows, recipe = data(task, **change, learning_rate=1e-2, batch=6, epochs=2)
    assert len(rows.rows) % recipe.batch
    pairs = with_recipe(recipe, [(0.5, 1), (1.0, 0)])
    on_cpu = train_stack(rows, task, pairs, "cpu", folder_in(tmp_path))
    with PretendedGpu(monkeypatch):
        there = train_stack(rows, task, pairs, DEVICE, folder_in(tmp_path))
    for one, other in zip(on_cpu, there, strict=True):
        assert same(one.weights, other.weights)
        assert json.dumps(one.history) == json.dumps(other.history)


def test_the_published_search_can_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.from_numpy(np.random.default_rng(0).exponential(size=(3, 9)))
    levels = torch.tensor([[0.5], [0.3], [1.0]], dtype=torch.float64)
    recipe, labels = Recipe(cvar=Cvar(gradient="published")), torch.zeros(3, 9, 1)
    expected = build_risk(recipe, levels, labels, EXPR)(SingleLosses(values, None, labels))
    with PretendedGpu(monkeypatch):
        risk = build_risk(recipe, levels.to(DEVICE), labels, EXPR)
        losses = SingleLosses(values.to(DEVICE), None, labels.to(DEVICE))
        risk(losses)  # makes its tables
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = risk(losses)
        graph.replay()
        assert torch.equal(found.weights.cpu(), expected.weights)
        assert torch.equal(found.threshold.cpu(), expected.threshold)


def test_host_and_gpu_meet_as_often_in_a_long_epoch_as_in_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    met = []
    for batch in (12, 24):  # two shapes each, 8 and 4 steps
        rows, recipe = data(batch=batch, epochs=2)
        with PretendedGpu(monkeypatch) as gpu:
            pairs = with_recipe(recipe, [(0.5, 1)])
            train_stack(rows, EXPR, pairs, DEVICE, folder_in(tmp_path))
        met.append(gpu.crossings)
    assert met[0] == met[1]


def test_a_step_that_a_gpu_would_refuse_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the rules above are rules."""
    with PretendedGpu(monkeypatch) as gpu:
        x = torch.arange(4.0, device=DEVICE)
        with pytest.raises(Refused, match="of the host and of the device"):
            x + torch.ones(4)
        graph = torch.cuda.CUDAGraph()
        for wrong in (
            lambda: x.sum().item(),
            lambda: x[x > 1],
            x.nonzero,
            x.cpu,
            lambda: torch.bincount(x.long()),
            lambda: torch.as_tensor([1.0], device=DEVICE),
            lambda: torch.ones(4).to(DEVICE),
            lambda: torch.tensor([1.0], device=DEVICE),
        ):
            with pytest.raises(Refused, match="meet while"), torch.cuda.graph(graph):
                wrong()
        number, scale = torch.ones((), device=DEVICE), 2.0
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            by_tensor, by_number = x * number, x * scale
        assert by_tensor.cpu().isnan().all(), "nothing is computed before a replay"
        number.fill_(3.0)
        scale = 3.0
        graph.replay()
        assert by_tensor.cpu().tolist() == [0, 3, 6, 9]
        assert by_number.cpu().tolist() == [0, 2, 4, 6], "a number of Python's is frozen"
        assert gpu.crossings


def with_recipe(recipe: Recipe, pairs: list[tuple[float, int]]) -> list[tuple[Recipe, float, int]]:
    return [(recipe, alpha, seed) for alpha, seed in pairs]


def folder_in(parent: Path) -> Path:
    made = parent / str(len(list(parent.iterdir())))
    made.mkdir()
    return made
