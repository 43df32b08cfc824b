"""Heads on permuted labels score at chance, and the test of that sees a leak."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_heads import small_table

from clipaffect.config.training import Training
from clipaffect.core.parquet import read_table, write_table
from clipaffect.core.store import Store
from clipaffect.core.tasks import AU, EXPR
from clipaffect.studies import permute_labels as permute_labels_module
from clipaffect.studies.negative_control import control_answer
from clipaffect.studies.permute_labels import chance, permute_labels, permuted

SMALL = Training(width=8, hidden_layers=1, epochs=2, alphas=(0.5, 1.0), seeds=(0, 1), parts=1)
GROUPS = np.array(["a"] * 3 + ["b"] * 5 + ["c"] * 2)


def test_everybody_gets_another_persons_values_in_their_order() -> None:
    values = np.arange(10)[:, None]
    people = {"a": [0, 1, 2], "b": [3, 4, 5, 6, 7], "c": [8, 9]}
    for seed in range(20):
        found = permuted(values, GROUPS, np.random.default_rng(seed))[:, 0]
        givers = []
        for name, rows in people.items():
            own = found[name == GROUPS].tolist()
            (giver,) = [other for other, theirs in people.items() if own[0] in theirs]
            givers.append(giver)
            assert giver != name
            start = people[giver].index(own[0])
            around = np.roll(people[giver], -start)
            assert own == np.resize(around, len(rows)).tolist()
        assert sorted(givers) == ["a", "b", "c"]


def people_of(rng: np.random.Generator, people: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Groups and labels (n, 1) of people who show a class for some frames at a time."""
    groups, labels = [], []
    for person in range(people):
        own = np.repeat(rng.integers(0, 8, 12), rng.integers(2, 9, 12))
        groups += [f"p{person}"] * len(own)
        labels.append(own)
    return np.array(groups), np.concatenate(labels)[:, None]


def test_the_test_keeps_its_level_and_sees_a_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permute_labels_module, "EXCHANGES", 99)
    rng, small = np.random.default_rng(3), []
    for _ in range(40):
        groups, labels = people_of(rng)
        _, guesses = people_of(rng)
        said = np.resize(guesses, labels.shape)
        small.append(chance(labels, [said], groups, EXPR).p < 0.1)
    assert np.mean(small) <= 0.25  # 0.1, with a deviation of 0.05 over 40
    groups, labels = people_of(rng)
    leaked = np.where(rng.random(labels.shape) < 0.2, labels, np.resize(guesses, labels.shape))
    found = chance(labels, [leaked, leaked], groups, EXPR)
    assert found.p == 0.01
    assert found.score > found.high > found.mean > found.low


@pytest.mark.parametrize("task", [EXPR, AU], ids=lambda task: task.name)
def test_a_head_on_permuted_labels_is_at_chance_and_cached(task, tmp_path: Path) -> None:
    table = small_table(tmp_path / "table", n=240, task=task)
    rows = read_table(table / "rows.parquet")
    people = [f"{s}{k % 9}" for s, k in zip(rows["split"], rows["frame"], strict=True)]
    write_table(table / "rows.parquet", rows.assign(group=people))
    store, out = Store(tmp_path / "store"), tmp_path / "control.parquet"
    permute_labels(SMALL, task, table, store, out)
    found = read_table(out)
    assert len(found) == 1
    assert found["p"].item() > 0.01
    first = out.read_bytes()
    entries = sorted((tmp_path / "store").rglob("head.safetensors"))
    assert len(entries) == 2
    permute_labels(SMALL, task, table, store, out)
    assert out.read_bytes() == first
    assert sorted((tmp_path / "store").rglob("head.safetensors")) == entries


def test_labels_of_one_person_cannot_be_permuted(tmp_path: Path) -> None:
    table = small_table(tmp_path / "table", n=120)
    rows = read_table(table / "rows.parquet")
    write_table(table / "rows.parquet", rows.assign(group=rows["split"].astype(str)))
    permute_labels(SMALL, EXPR, table, Store(tmp_path / "store"), tmp_path / "out.parquet")
    found = read_table(tmp_path / "out.parquet")
    assert found.empty
    assert "not tested" in control_answer("EXPR", found)


def test_the_answer_says_yes_or_no() -> None:
    row = {"score": 0.1, "mean": 0.09, "low": 0.05, "high": 0.14, "p": 0.4}
    assert "EXPR: at chance: yes." in control_answer("EXPR", pd.DataFrame([row]))
    leak = control_answer("EXPR", pd.DataFrame([row | {"score": 0.4, "p": 0.001}]))
    assert "at chance: no." in leak
    assert "do not use the scores" in leak
    assert json.dumps(leak)
