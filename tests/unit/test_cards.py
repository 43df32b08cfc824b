"""Cards: gains by class, one traced step, slices of the loss; sentences follow their tables."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from clipaffect.config.training import Recipe
from clipaffect.core.tasks import AU, EXPR, Task
from clipaffect.studies.card import Card, CardSection, in_words, write_card_page
from clipaffect.studies.cvar_gain import between_answer, gain_answer
from clipaffect.studies.slice_heads import (
    _rise,
    directions,
    mean_loss,
    moved,
    rise_along_gradient,
    slices_answer,
)
from clipaffect.studies.traced_step import layer_table, number_table, step_answer, trace_first_step
from clipaffect.training.backends.one_head import make_learner
from clipaffect.training.data import Split, TrainingData, batches
from clipaffect.training.history import learning_rate
from clipaffect.training.mlp_head import Head


def split_of(task: Task, rows: int = 96, seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    shape = (rows, len(task.targets)) if task.multilabel else (rows, 1)
    labels = rng.integers(0, 2 if task.multilabel else len(task.targets), shape)
    frame = pd.DataFrame(
        {"group": "p", "video": "v", "person": "", "frame": np.arange(1, rows + 1)}
    )
    features = torch.from_numpy(rng.normal(size=(rows, 16)).astype(np.float16))
    return Split(frame, features, torch.from_numpy(labels.astype(np.int8)))


def data_of(task: Task) -> TrainingData:
    train = split_of(task)
    return TrainingData(train.features, train.labels, np.arange(96), np.arange(0), train)


@pytest.mark.parametrize("task", [EXPR, AU])
def test_the_traced_step_is_the_runs_own(task: Task) -> None:
    recipe = Recipe(hidden_layers=2, width=16, batch=32, rho=0.05, dropout=0.5)
    data = data_of(task)
    traced = trace_first_step(data, split_of(task).rows, task, recipe, 0.3, 7)
    fast = make_learner(data, task, recipe, 0.3, 7)
    chosen = batches(data.rows, 32, 7, 0)[0]
    record = fast.step(
        data.features[chosen].float(), data.labels[chosen], 0, learning_rate(recipe, 0), True
    )
    for name in ("mean_loss", "value", "threshold", "gradient_norm", "sharpness"):
        assert getattr(traced.trace.record, name) == pytest.approx(getattr(record, name), rel=2e-3)
    after = dict(zip(traced.names, traced.after, strict=True))
    for name, value in fast.head_state().items():
        if name in after and name.startswith("output"):
            assert after[name].float().numpy() == pytest.approx(value.numpy(), abs=2e-4)


@pytest.mark.parametrize("task", [EXPR, AU])
def test_the_steps_numbers_agree_with_each_other(task: Task) -> None:
    recipe = Recipe(hidden_layers=1, width=16, batch=32, rho=1e-4, dropout=0.0, weight_decay=0.0)
    traced = trace_first_step(data_of(task), split_of(task).rows, task, recipe, 0.25, 0)
    value = number_table(traced, 0.25, recipe).set_index("what")["value"]
    losses = np.sort(traced.losses["loss"])[::-1]
    worst = losses[: len(losses) // 4]
    assert value["CVaR by its definition"] == pytest.approx(worst.mean())
    assert value["CVaR by its weights"] == pytest.approx(worst.mean())
    assert value["objective"] == pytest.approx(worst.mean())
    # The largest product with g of all steps of this length is rho |g| (Foret et al., eq. 2).
    assert value["rise foreseen"] == pytest.approx(1e-4 * value["gradient"])
    assert value["rise found"] == pytest.approx(value["rise foreseen"], rel=0.02)
    assert value["perturbation"] == pytest.approx(1e-4)
    # AdamW's first step moves a weight by the rate, or not at all.
    layers = layer_table(traced).set_index("weights of")
    count = layers.loc["output.weight", "count"]
    assert layers.loc["output.weight", "update"] == pytest.approx(
        recipe.learning_rate * np.sqrt(count), rel=0.05
    )
    assert layers.loc["all", "gradient"] == pytest.approx(value["gradient"])
    # Without dropout both passes are the same but for epsilon.
    assert value["angle by epsilon"] == pytest.approx(value["angle"], abs=1e-6)
    assert value["angle"] < 1
    said = step_answer("X", traced, 0.25)
    assert f"{len(worst)} of {len(losses)} losses carry the weight" in said


def test_the_angle_of_the_sentence_is_epsilons_alone() -> None:
    recipe = Recipe(hidden_layers=2, width=16, batch=32, rho=1e-6, dropout=0.5)
    traced = trace_first_step(data_of(EXPR), split_of(EXPR).rows, EXPR, recipe, 0.5, 0)
    value = number_table(traced, 0.5, recipe).set_index("what")["value"]
    assert value["angle by epsilon"] < 0.1
    assert value["angle"] > 10  # other dropout masks
    assert "the gradient is turned by 0 degrees" in step_answer("EXPR", traced, 0.5)


def test_a_step_without_sam_or_single_losses_is_told(tmp_path: Path) -> None:
    recipe = Recipe(hidden_layers=0, width=16, batch=32, rho=0.0, dropout=0.0)
    traced = trace_first_step(data_of(EXPR), split_of(EXPR).rows, EXPR, recipe, 1.0, 0)
    assert "SAM" not in step_answer("EXPR", traced, 1.0)
    code = tmp_path / "own.py"
    code.write_text(
        "import torch\nclass Own:\n    def __call__(self, logits, labels):\n"
        "        return torch.nn.functional.cross_entropy(logits, labels[:, 0].long())\n"
    )
    own = recipe.model_copy(update={"loss": f"{code}:Own"})
    traced = trace_first_step(data_of(EXPR), split_of(EXPR).rows, EXPR, own, float("nan"), 0)
    assert traced.losses.empty
    assert step_answer("EXPR", traced, float("nan")).startswith("EXPR: The update takes")


def test_directions_are_as_long_as_what_they_move() -> None:
    layers = Head(16, 8, 2, 12, seed=1).folded()
    for direction in directions(layers, 2, 0):
        for (weight, _), own in zip(layers, direction, strict=True):
            assert own.norm(dim=1).numpy() == pytest.approx(weight.norm(dim=1).numpy(), rel=1e-5)
    first, second = directions(layers, 2, 0)
    assert not torch.equal(first[0], second[0])


@pytest.mark.parametrize("task", [EXPR, AU])
def test_the_rise_is_the_gradients_for_a_small_step(task: Task) -> None:
    head = Head(16, len(task.targets), 1, 12, seed=1).double()
    layers, split = [(w.float(), b.float()) for w, b in head.folded()], split_of(task)
    split = Split(split.rows, split.features, split.labels.long())
    radius = 1e-2
    rise = rise_along_gradient(layers, split, task, radius)
    # No direction of that length rises more, to first order.
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        drawn = [torch.randn(w.shape, generator=generator) for w, _ in layers]
        norm = float(torch.cat([d.flatten() for d in drawn]).norm())
        there = moved(layers, drawn, radius / norm)
        assert float(mean_loss(there, split, task) - mean_loss(layers, split, task)) < rise
    assert rise > 0


def heads_table(own: float, plain: float) -> pd.DataFrame:
    rows = [
        {
            "recipe": name,
            "rho": rho,
            "seed": seed,
            "rise_random": rise + seed / 100,
            "rise_gradient": rise,
            "macro_f1": 0.5 - rise / 10,
        }
        for name, rho, rise in (
            ("the run's own", 0.05, own),
            ("no-sam", 0.0, plain),
            ("a", 0.1, 0.1),
            ("b", 0.2, 0.2),
            ("c", 0.3, 0.9),
        )
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows)


def test_the_slices_answer_follows_its_table() -> None:
    said = slices_answer("EXPR", heads_table(0.3, 0.5))
    assert "0.3 along the gradient (0.5 without it; less in 2 of 2 seeds)" in said
    assert "over 5 recipes flatter heads score better" in said
    turned = heads_table(0.5, 0.3).assign(macro_f1=lambda t: t["rise_random"])
    said = slices_answer("EXPR", turned)
    assert "less in 0 of 2 seeds" in said
    assert "flatter heads score worse" in said
    own = heads_table(0.3, 0.5)
    assert "no heads with and without SAM" in slices_answer("EXPR", own[own["recipe"] != "no-sam"])


def gains(sign: float) -> tuple[pd.DataFrame, pd.Series]:
    names = [f"c{k}" for k in range(8)]
    table = pd.DataFrame(
        {
            "target": names,
            "frames": np.arange(10, 90, 10),
            "difference": sign * np.linspace(0.08, -0.06, 8),
        }
    )
    whole = table["difference"].mean()
    overall = pd.Series(
        {"alpha": 0.5, "difference": whole, "low": whole - 0.01, "high": whole + 0.01}
    )
    return table, overall


def test_the_gains_answer_follows_its_table() -> None:
    table, overall = gains(1)
    said = gain_answer("AU", table, overall)
    assert "differs from ERM by +0.010 (95 % interval +0.000 to +0.020)" in said
    # 4 x (0.08 + 0.06 + 0.04 + 0.02) / 32, and the rest.
    assert "The 4 rarest of 8 classes or labels contribute +0.025, the others -0.015" in said
    assert "higher for rare ones (Kendall's tau of difference and frequency -1.00)" in said
    said = gain_answer("AU", *gains(-1))
    assert "higher for frequent ones" in said
    assert "rarest" not in gain_answer("AU", table[:1], overall)
    zero = table.assign(difference=0.0)
    assert "all differences are equal" in gain_answer("AU", zero, overall)


def test_between_tasks_is_described_and_not_tested() -> None:
    _, low = gains(-1)
    _, high = gains(1)
    said = between_answer({"EXPR": low, "AU": high})
    assert said.startswith("CVaR changes AU by +0.010 and EXPR by -0.010.")
    assert between_answer({"EXPR": high, "AU": low}).startswith("CVaR changes EXPR by +0.010")


@pytest.mark.parametrize(
    ("value", "column", "text"),
    [
        (0.25, "share_of_tail", "25.0 %"),
        (0.02, "difference", "+0.020"),
        (0.00004, "p_adjusted", "4e-05"),
        (0.00004, "loss", "4e-05"),
        (1234567, "frames", "1,234,567"),
        (-0.00004, "low", "-0.000"),
        (float("nan"), "low", "–"),
        (True, "ok", "yes"),
        ("<b>", "name", "<b>"),
        (np.float64(0.5), "f1", "0.500"),
        (np.int64(3), "f1", "3"),
    ],
)
def test_cells_in_words(value: object, column: str, text: str) -> None:
    assert in_words(value, column) == text


def test_a_card_escapes_what_is_in_it(tmp_path: Path) -> None:
    table = pd.DataFrame({"video": ["<script>x</script>"], "share": [0.5]})
    card = Card(
        "Why <b>?", "lead", {"EXPR": "EXPR: </p>"}, [CardSection("T", "t", "c", table)], "note"
    )
    write_card_page(card, "run & co", tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "<script>x" not in page
    assert "&lt;script&gt;x" in page
    assert "50.0 %" in page
    assert json.loads((tmp_path / "answer.json").read_text())["answers"] == {"EXPR": "EXPR: </p>"}
    assert (tmp_path / "tables/t.csv").read_text().startswith("video,share\n")


def test_the_rise_is_from_the_middle_to_half_a_step_on_both_sides() -> None:
    steps = np.linspace(-1, 1, 9)
    own = {"recipe": "a", "seed": 0}
    lines = pd.DataFrame(
        {"split": "train", "step": steps, "loss": 3 + steps**2 + steps / 10, **own}
    )
    other = lines.assign(split="validation", loss=9.0)
    found = _rise(pd.concat([lines, other]), SimpleNamespace(**own))
    assert found == pytest.approx(0.25)
