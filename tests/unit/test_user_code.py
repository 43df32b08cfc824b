"""Heads and losses from a file of one's own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_heads import GRID, Killed, same, small_table, splits, trained

from clipaffect.core.errors import UserError
from clipaffect.core.parquet import read_table
from clipaffect.core.store import Store
from clipaffect.core.tasks import EXPR
from clipaffect.training.data import training_data
from clipaffect.training.mlp_head import evaluator
from clipaffect.training.train_heads import finished_heads, load_head, train_heads
from clipaffect.training.trainer import train_head

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
    table = small_table(tmp_path / "table")
    settings = GRID.model_copy(
        update={
            "variants": {
                "thin": {"head": f"{path}:Thin", "loss": f"{path}:Smooth"},
                "thin_cvar": {"head": f"{path}:Thin"},
            }
        }
    )
    train_heads(table, EXPR, settings, 0, Store(tmp_path / "store"), tmp_path / "out")
    listed = read_table(tmp_path / "out/heads.parquet").set_index("head")
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


def test_an_edited_file_trains_again(tmp_path: Path) -> None:
    path = write_loss(tmp_path)
    table, store = small_table(tmp_path / "table"), Store(tmp_path / "store")
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
        ("absent.py:Thin", "the file does not exist"),
        ("mine.py:Missing", "the file does not define 'Missing'"),
        ("mine.py:Wrong", r"shape \(4, 3\), expected \(4, 8\)"),
        ("broken.py:Thin", "the file raises an error when it is imported: ZeroDivisionError"),
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
        train_heads(small_table(tmp_path / "t"), EXPR, settings, 0, Store(store), tmp_path / "o")
    assert not store.exists()


def test_a_loss_that_is_not_finite_stops_that_head_alone(tmp_path: Path) -> None:
    table = small_table(tmp_path / "table")
    settings = GRID.model_copy(
        update={"variants": {"bad": {"loss": f"{write_loss(tmp_path)}:Broken"}}}
    )
    train_heads(table, EXPR, settings, 0, Store(tmp_path / "store"), tmp_path / "out")
    heads = read_table(tmp_path / "out/heads.parquet").set_index("head")
    assert heads.loc["bad,seed=0", "status"] == "non_finite"
    assert heads.loc["bad,seed=0", "kept_epoch"] == 1
    assert (heads[heads["variant"] == ""]["status"] == "ok").all()
    history = read_table(tmp_path / "out/history.parquet")
    broken = history[history["head"] == "bad,seed=0"]
    assert broken["epoch"].tolist() == [1, 2]
    assert not math.isfinite(broken["value"].iloc[-1])
    listed = finished_heads([tmp_path / "out"])
    for _, row in listed[listed["status"] == "ok"].iterrows():
        assert not load_head(row, EXPR, settings, 6).training
