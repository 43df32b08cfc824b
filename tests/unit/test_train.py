"""Whole heads: the same bytes alone, in a grid and after a kill; failures; the choice of epoch."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from clipaffect.config.training import Cvar, Recipe, Training
from clipaffect.errors import UserError
from clipaffect.evaluation.metrics import f1_per_target
from clipaffect.store import Store
from clipaffect.table import Split
from clipaffect.tables import read_frame, write_frame
from clipaffect.tasks import AU, EXPR, Task
from clipaffect.training import train_stack as train_stack_module
from clipaffect.training.cost import Timings
from clipaffect.training.data import TrainingData, training_data
from clipaffect.training.history import is_collapsed, probe_steps, spread
from clipaffect.training.learner import evaluator
from clipaffect.training.stage import HeadId, finished_heads, load_head, train_heads, train_stacks
from clipaffect.training.train import TrainedHead, train_head
from clipaffect.training.train_stack import train_stack

GRID = Training(hidden_layers=2, width=16, epochs=4, batch=16, alphas=(0.5, 1.0), seeds=(0, 1),
                parts=1)  # fmt: skip
RECIPE = GRID.recipes()[""]


def write_table(folder: Path, task: Task = EXPR, n: int = 130, d: int = 6) -> Path:
    """A table of two splits whose labels can be read off the features."""
    rng = np.random.default_rng(0)
    split = np.where(np.arange(n) < n * 2 // 3, "train", "validation")
    rows = pd.DataFrame(
        {"split": split, "group": [f"{s}{k % 5}" for k, s in enumerate(split)],
         "video": [f"{s}{k % 5}" for k, s in enumerate(split)], "person": "",
         "frame": np.arange(n, dtype=np.int32), "status": "ok"}
    )  # fmt: skip
    if task.multilabel:
        labels = rng.integers(0, 2, (n, 12))
        features = labels[:, :d] + rng.normal(size=(n, d)) * 0.5
    else:
        labels = np.arange(n)[:, None] % 8
        features = rng.normal(size=(n, d)) + labels * 0.5
    for name, column in zip(task.columns, labels.T, strict=True):
        rows[name] = column
    rows = rows.sort_values(["split", "video", "frame"], ignore_index=True)
    rows["feature_row"] = np.arange(n)
    write_frame(folder / "rows.parquet", rows)
    np.save(folder / "features.npy", features.astype(np.float16))
    return folder


def splits(task: Task = EXPR) -> tuple[Split, Split]:
    import tempfile

    from clipaffect.table import read_split

    with tempfile.TemporaryDirectory() as folder:
        table = write_table(Path(folder), task)
        return tuple(read_split(table, task, name) for name in ("train", "validation"))  # type: ignore[return-value]


def data(task: Task = EXPR, **recipe: Any) -> tuple[TrainingData, Recipe]:
    changed = RECIPE.model_copy(update=recipe)
    return training_data(*splits(task), task, changed), changed


def trained(folder: Path, alpha: float = 0.5, seed: int = 0, **recipe: Any) -> TrainedHead:
    folder.mkdir(parents=True, exist_ok=True)
    rows, changed = data(**recipe)
    return train_head(rows, EXPR, changed, alpha, seed, folder)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_training_twice_gives_the_same_bytes_and_seeds_differ(tmp_path: Path) -> None:
    first, again = trained(tmp_path / "a"), trained(tmp_path / "b")
    assert same(first.weights, again.weights)
    assert json.dumps(first.history) == json.dumps(again.history)
    assert not same(first.weights, trained(tmp_path / "c", seed=1).weights)


def test_a_head_alone_has_the_bytes_it_has_in_a_grid(tmp_path: Path) -> None:
    table = write_table(tmp_path / "table")
    alone = GRID.model_copy(update={"alphas": (1.0,), "seeds": (1,), "headline_alpha": 1.0})
    for name, settings in (("grid", GRID), ("alone", alone)):
        train_heads(table, EXPR, settings, 0, Store(tmp_path / name / "store"), tmp_path / name)
    grid, one = (load_file(tmp_path / name / "heads.safetensors") for name in ("grid", "alone"))
    assert {name.split("/")[0] for name in grid} == {
        f"alpha={alpha},seed={seed}" for alpha in ("0.5", "1") for seed in (0, 1)
    }
    assert len(one) == len(grid) / 4
    assert all(torch.equal(grid[name], value) for name, value in one.items())


class Killed(Exception):
    """Stands for a kill between two epochs."""


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
    table = write_table(tmp_path / "table")
    settings = GRID.model_copy(update={"epochs": 60})
    train_heads(table, EXPR, settings, 0, Store(tmp_path / "s1"), tmp_path / "whole")
    code = """
        import sys
        from pathlib import Path
        from clipaffect.config.training import Training
        from clipaffect.store import Store
        from clipaffect.tasks import EXPR
        from clipaffect.training.stage import train_heads
        table, settings, store, out = sys.argv[1:]
        train_heads(Path(table), EXPR, Training.model_validate_json(settings), 0,
                    Store(Path(store)), Path(out))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(table),
               settings.model_dump_json(), str(tmp_path / "s2"), str(tmp_path / "killed")]  # fmt: skip  # noqa: E501
    kills, heads = 0, tmp_path / "s2/heads"
    for wait_for in (1, 2):  # finished heads when the kill comes
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as job:
            while job.poll() is None:
                # os.walk passes over folders that the job renames meanwhile; glob would raise.
                paths = [Path(top) / name for top, _, names in os.walk(heads) for name in names]
                finished = sum(path.name == "record.json" for path in paths)
                halfway = any(path.match("*.part/check*") for path in paths)
                if finished >= wait_for and halfway:
                    job.kill()
                    kills += 1
                    break
    assert kills
    subprocess.run(command, check=True, capture_output=True)
    for name in ("heads.safetensors", "heads.parquet", "history.parquet"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    assert not list((tmp_path / "s2").glob("heads/*/*/checkpoint*"))


def test_one_more_seed_trains_only_that_seed(tmp_path: Path) -> None:
    table, store = write_table(tmp_path / "table"), Store(tmp_path / "store")
    timings = tmp_path / "timings.json"
    train_heads(table, EXPR, GRID, 0, store, tmp_path / "a", timings)
    per_head = json.loads(timings.read_text())["samples"] / 4
    more = GRID.model_copy(update={"seeds": (0, 1, 2)})
    train_heads(table, EXPR, more, 0, store, tmp_path / "b", timings)
    assert json.loads(timings.read_text())["samples"] == 2 * per_head
    train_heads(table, EXPR, more, 0, store, tmp_path / "c", timings)
    assert json.loads(timings.read_text())["samples_per_second"] is None


def test_a_loss_that_is_not_finite_stops_that_head_alone(tmp_path: Path) -> None:
    table = write_table(tmp_path / "table")
    settings = GRID.model_copy(
        update={"variants": {"bad": {"loss": f"{write_loss(tmp_path)}:Broken"}}}
    )
    train_heads(table, EXPR, settings, 0, Store(tmp_path / "store"), tmp_path / "out")
    heads = read_frame(tmp_path / "out/heads.parquet").set_index("head")
    assert heads.loc["bad,seed=0", "status"] == "non_finite"
    assert heads.loc["bad,seed=0", "kept_epoch"] == 1
    assert (heads[heads["variant"] == ""]["status"] == "ok").all()
    history = read_frame(tmp_path / "out/history.parquet")
    broken = history[history["head"] == "bad,seed=0"]
    assert broken["epoch"].tolist() == [1, 2]
    assert not math.isfinite(broken["value"].iloc[-1])
    listed = finished_heads([tmp_path / "out"])
    for _, row in listed[listed["status"] == "ok"].iterrows():
        assert not load_head(row, EXPR, settings, 6).training


@pytest.mark.parametrize(
    "recipe",
    [{}, {"cvar": Cvar(gradient="published")}, {"loss": "focal"}, {"loss": "class_balanced"},
     {"loss": "chi_square"}],
)  # fmt: skip
def test_features_that_overflow_end_the_head_in_its_first_epoch(
    tmp_path: Path, recipe: dict[str, Any]
) -> None:
    rows, changed = data(**recipe)
    huge = TrainingData(rows.features.float() * 1e38, rows.labels, rows.rows, rows.inner,
                        rows.validation)  # fmt: skip
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
    from clipaffect.training.head import Head

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
    from clipaffect.training.head import Head

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


@pytest.mark.parametrize("task", [EXPR, AU], ids=lambda t: t.name)
def test_a_stack_trains_what_each_head_trains_alone(tmp_path: Path, task: Task) -> None:
    rows, recipe = data(task)
    pairs = [(0.5, 1), (1.0, 0), (0.5, 0)]
    stack = train_stack(rows, task, recipe, pairs, "cpu", tmp_path)
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
    pairs = [(0.5, 1), (1.0, 0)]
    make = train_stack_module.make_stack

    def poisoned(*arguments: Any) -> Any:
        stack = make(*arguments)
        step = stack.step

        def broken(features: torch.Tensor, labels: torch.Tensor, probe: bool) -> torch.Tensor:
            if int(stack.number) == 8:  # in the second epoch of six steps
                stack.weights[0, 0] = torch.nan
            return step(features, labels, probe)

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
                patch.setattr(train_stack_module, "make_stack", poisoned)
            folders = [tmp_path / f"{name}{bad}" for name in ("whole", "killed")]
            for folder in folders:
                folder.mkdir()
            whole = train_stack(rows, EXPR, recipe, pairs, "cpu", folders[0])
            with pytest.raises(Killed):
                train_stack(rows, EXPR, recipe, pairs, "cpu", folders[1], stop)
            resumed = train_stack(rows, EXPR, recipe, pairs, "cpu", folders[1])
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
    heads = [HeadId("", 0.5, 0), HeadId("", 1.0, 0), HeadId("", 1.0, 1)]
    keys = {head: {"version": 0, "head": head.name} for head in heads}
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
    more = keys | {HeadId("", 0.5, 1): {"version": 0, "head": "another"}}
    train_stacks("cpu", more, *arguments[1:], measured)
    assert measured.samples == recipe.epochs * len(rows.rows), "only the new head"


def test_training_on_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    table = write_table(tmp_path / "table")
    settings = GRID.model_copy(update={"device": "cuda"})
    with pytest.raises(UserError, match="torch finds no GPU"):
        train_heads(table, EXPR, settings, 0, Store(tmp_path / "s"), tmp_path / "out")


USER_CODE = """
import torch
from torch import nn
from torch.nn import functional


class Thin(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(inputs, 12), nn.BatchNorm1d(12), nn.ReLU(),
                                   nn.Dropout(0.4))
        self.outer = nn.Linear(12, outputs)

    def forward(self, features):
        return self.outer(self.inner(features))


class Wrong(Thin):
    def forward(self, features):
        return self.outer(self.inner(features))[:, :3]


class Smooth:
    def __call__(self, logits, labels):
        return functional.cross_entropy(logits, labels[:, 0].long(), label_smoothing=0.1)


class Empty(nn.Identity):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, features):
        return features.repeat(1, 4)[:, :self.outputs]


class Vector:
    def __call__(self, logits, labels):
        return functional.cross_entropy(logits, labels[:, 0].long(), reduction="none")


class Number:
    def __call__(self, logits, labels):
        return 1.0


class Needs:
    def __init__(self, weight):
        pass


class Noisy:
    def __call__(self, logits, labels):
        noise = torch.randn_like(logits)
        return functional.cross_entropy(logits + noise, labels[:, 0].long())


class Broken:
    calls = 0

    def __call__(self, logits, labels):
        Broken.calls += 1  # three a step with its probe; an epoch has 6 steps here
        return logits.sum() * (float("inf") if Broken.calls > 23 else 1.0)
"""


def write_loss(folder: Path) -> Path:
    path = folder / "mine.py"
    path.write_text(USER_CODE)
    return path


def test_a_users_head_and_loss_are_trained_resumed_and_loaded(tmp_path: Path) -> None:
    path = write_loss(tmp_path)
    table = write_table(tmp_path / "table")
    settings = GRID.model_copy(
        update={"variants": {"thin": {"head": f"{path}:Thin", "loss": f"{path}:Smooth"},
                             "thin_cvar": {"head": f"{path}:Thin"}}}
    )  # fmt: skip
    train_heads(table, EXPR, settings, 0, Store(tmp_path / "store"), tmp_path / "out")
    listed = read_frame(tmp_path / "out/heads.parquet").set_index("head")
    assert {"thin,seed=0", "thin_cvar,alpha=0.5,seed=1"} < set(listed.index)
    assert (listed["status"] == "ok").all()
    heads = {
        row["head"]: load_head(row, EXPR, settings, 6)
        for _, row in finished_heads([tmp_path / "out"]).iterrows()
    }
    assert type(heads["thin,seed=0"]).__name__ == "Thin"
    assert evaluator(heads["thin,seed=0"])(torch.zeros(3, 6)).shape == (3, 8)

    recipe = settings.recipes()["thin"]
    rows = training_data(*splits(), EXPR, recipe)
    (tmp_path / "a").mkdir()
    calls = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise Killed

    with pytest.raises(Killed):
        train_head(rows, EXPR, recipe, float("nan"), 0, tmp_path / "a", stop)
    resumed = train_head(rows, EXPR, recipe, float("nan"), 0, tmp_path / "a")
    saved = load_file(tmp_path / "out/heads.safetensors")
    for name, value in resumed.weights.items():
        assert torch.equal(saved[f"thin,seed=0/{name}"], value)


def test_a_users_loss_that_draws_is_reproducible(tmp_path: Path) -> None:
    loss = f"{write_loss(tmp_path)}:Noisy"
    first, again = (trained(tmp_path / name, loss=loss) for name in ("a", "b"))
    assert same(first.weights, again.weights)


@pytest.mark.parametrize("at", ["head.safetensors", "history.parquet", "record.json"])
def test_a_kill_while_a_piece_is_written_costs_no_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    table, store = write_table(tmp_path / "table"), Store(tmp_path / "store")
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


def test_an_edited_file_trains_again(tmp_path: Path) -> None:
    path = write_loss(tmp_path)
    table, store = write_table(tmp_path / "table"), Store(tmp_path / "store")
    settings = GRID.model_copy(update={"variants": {"thin": {"head": f"{path}:Thin"}}})
    train_heads(table, EXPR, settings, 0, store, tmp_path / "a")
    path.write_text(USER_CODE.replace("12", "10"))
    train_heads(table, EXPR, settings, 0, store, tmp_path / "b")
    shapes = [
        load_file(tmp_path / name / "heads.safetensors")["thin,alpha=1,seed=0/outer.weight"].shape
        for name in ("a", "b")
    ]
    assert shapes == [(8, 12), (8, 10)]


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("absent.py:Thin", "no such file"),
        ("mine.py:Missing", "there is no 'Missing' in the file"),
        ("mine.py:Wrong", r"shape \(4, 3\), not \(4, 8\)"),
        ("broken.py:Thin", "the file fails when it is run: ZeroDivisionError"),
        ("mine.py:Smooth", "TypeError"),
        ("mine.py:Empty", "empty parameter list"),
        ("mine.py:Vector", "scalar"),
        ("mine.py:Number", "EXPR: AttributeError"),
        ("mine.py:Needs", "EXPR: TypeError"),
    ],
)
def test_user_code_that_cannot_be_used_is_refused_before_any_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_loss(tmp_path)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    is_loss = reference.split(":")[1] in ("Vector", "Number", "Needs")
    bad = {"loss" if is_loss else "head": reference}
    settings = GRID.model_copy(update={"variants": {"bad": bad}})
    store = tmp_path / "store"
    with pytest.raises(UserError, match=words):
        train_heads(write_table(tmp_path / "t"), EXPR, settings, 0, Store(store), tmp_path / "o")
    assert not store.exists()


def test_names_of_heads() -> None:
    assert HeadId("", 0.5, 3).name == "alpha=0.5,seed=3"
    assert HeadId("focal", float("nan"), 0).name == "focal,seed=0"
