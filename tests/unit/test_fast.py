"""The hand-written and the stacked step against the autograd reference, in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.optim.adamw import adamw

from clipaffect.config.training import Recipe
from clipaffect.core.tasks import AU, EXPR, Task
from clipaffect.training.backends.autograd import AutogradLearner, build_objective
from clipaffect.training.backends.cpu import FastLearner
from clipaffect.training.backends.one_head import make_learner
from clipaffect.training.backends.philox import philox_uint16
from clipaffect.training.backends.sam_products import DenseProduct, LowRankProduct
from clipaffect.training.backends.stacked import make_stack, stack_key
from clipaffect.training.backends.stacked_masks import StackedMasks
from clipaffect.training.backends.stacked_step import FIELDS, StackedStep
from clipaffect.training.cost import executed_per_sample
from clipaffect.training.data import Split, TrainingData
from clipaffect.training.losses.base import SingleLosses
from clipaffect.training.losses.exact_cvar import Cvar
from clipaffect.training.losses.registry import build_risk
from clipaffect.training.mlp_head import DropoutMasks, Head
from clipaffect.training.sam import StepRecord
from clipaffect.training.step_cost import step_cost

ROWS, INPUTS, STEPS = 200, 16, 20
CASES: dict[str, dict[str, Any]] = {
    "as recommended": {},
    "sign": {"perturbation": "sign", "rho": 1e-3},
    "without SAM": {"rho": 0.0},
    "without dropout": {"dropout": 0.0},
    "no hidden layer": {"hidden_layers": 0},
    "focal": {"loss": "focal"},
    "class balanced": {"loss": "class_balanced"},
    "chi square": {"loss": "chi_square"},
    "per sample": {"loss_over": "samples"},
    "low rank": {"batch": 4},  # a twelfth of the width: perturbed weights are never written
    "low rank, one layer": {"batch": 4, "hidden_layers": 1, "dropout": 0.0},
}


def data(task: Task, missing: bool = True) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(ROWS, INPUTS)))
    if task.multilabel:
        labels = rng.integers(-1 if missing else 0, 2, (ROWS, 12))
    else:
        labels = rng.integers(0, 8, (ROWS, 1))
    return features, torch.from_numpy(labels.astype(np.int8))


def head(task: Task, recipe: Recipe, seed: int, dtype: torch.dtype = torch.float64) -> Head:
    made = Head(INPUTS, len(task.targets), recipe.hidden_layers, recipe.width, seed)
    return made.to(dtype).train()


def fast(task: Task, recipe: Recipe, labels: Tensor, alpha: float, seed: int) -> FastLearner:
    risk = build_risk(recipe, alpha, labels, task)
    return FastLearner(head(task, recipe, seed), risk, task, recipe, seed)


def rows_of(seed: int, step: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng((seed, step)).integers(0, ROWS, 29))


def assert_alike(
    found: StepRecord, expected: StepRecord, bn_sign: bool = False, near: float = 1e-9
) -> None:
    for name, value in asdict(expected).items():
        other = asdict(found)[name]
        assert math.isnan(value) == math.isnan(other), name
        # The sign of a gradient that is zero but for rounding (a bias before BatchNorm) is noise.
        tolerance = 1e-3 if bn_sign and name in ("perturbation_norm",) else near
        assert math.isnan(value) or other == pytest.approx(value, abs=tolerance), name


@pytest.mark.parametrize("task", [EXPR, AU], ids=lambda t: t.name)
@pytest.mark.parametrize("case", CASES)
def test_fast_step_follows_the_reference(task: Task, case: str) -> None:
    recipe = Recipe(width=32, **CASES[case])
    x, y = data(task)
    reference = AutogradLearner(
        head(task, recipe, 3), build_objective(recipe, 0.37, y, task), recipe, 3
    )
    learner = fast(task, recipe, y, 0.37, 3)
    for step in range(STEPS):
        at = rows_of(3, step)
        found, expected = (
            one.step(x[at], y[at], step, 1e-3, step % 3 == 0) for one in (learner, reference)
        )
        assert_alike(found, expected, bn_sign=case == "sign")
    for name, value in reference.head_state().items():
        assert torch.allclose(learner.head_state()[name], value, atol=1e-9), name
    assert torch.allclose(learner.logits(x), reference.logits(x), atol=1e-9)


@pytest.mark.parametrize("task", [EXPR, AU], ids=lambda t: t.name)
@pytest.mark.parametrize("case", CASES)
def test_stacked_step_follows_the_fast_step(task: Task, case: str) -> None:
    recipe = Recipe(width=32, **CASES[case])
    x, y = data(task)
    pairs = [(0.5, 4), (1.0, 2), (0.37, 2)]
    levels = torch.tensor([[alpha] for alpha, _ in pairs], dtype=torch.float64)
    risk = build_risk(recipe, levels, y, task)
    heads = [head(task, recipe, seed) for _, seed in pairs]
    seeds = [seed for _, seed in pairs]
    stack = StackedStep(heads, seeds, risk, task, [recipe] * 3, task is EXPR, "cpu")
    stack.rate.fill_(1e-3)
    masks = StackedMasks(stack.seeds, recipe, stack.bias)
    alone = [fast(task, recipe, y, alpha, seed) for alpha, seed in pairs]
    for step in range(STEPS):
        at = torch.stack([rows_of(2, step), rows_of(4, step)])  # seeds in ascending order
        (drop,) = masks.of_steps(step, [29])
        records = stack.step(x[at], y[at], drop, step % 3 == 0)
        for k, (_, seed) in enumerate(pairs):
            one = rows_of(seed, step)
            expected = alone[k].step(x[one], y[one], step, 1e-3, step % 3 == 0)
            found = StepRecord(**dict(zip(FIELDS, records[:, k].tolist(), strict=True)))
            assert_alike(found, expected, bn_sign=case == "sign")
    for k, learner in enumerate(alone):
        state = stack.head_state(k)
        assert state.keys() == learner.head_state().keys()
        for name, value in learner.head_state().items():
            assert torch.allclose(state[name].to(value.dtype), value, atol=1e-9), name
        assert torch.allclose(stack.logits(x)[k], learner.logits(x), atol=1e-9)


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("task", [EXPR, AU], ids=lambda t: t.name)
def test_a_stack_of_losses_and_radii_trains_what_each_head_trains_alone(
    task: Task, float64: None
) -> None:
    x, y = data(task, missing=False)
    changes: list[dict[str, Any]] = [
        {},
        {},
        {"cvar": {"gradient": "published"}},
        {"cvar": {"gradient": "published"}, "rho": 0.2},
        {"loss": "focal", "rho": 0.5},
    ]
    recipes = [Recipe(width=32, batch=29, **change) for change in changes]
    whole = 8 / 29 if task is EXPR else 0.25  # of a batch's losses: both searches weigh the same
    assert len({stack_key(recipe) for recipe in recipes}) == 1
    heads = list(zip(recipes, (0.5, 1.0, 1.0, whole, math.nan), (3, 1, 1, 3, 1), strict=True))
    rows = TrainingData(x, y, np.arange(ROWS), np.arange(0), Split(pd.DataFrame(), x[:0], y[:0]))
    stack = make_stack(rows, task, heads, "cpu")
    masks = StackedMasks(stack.seeds, recipes[0], stack.bias)
    stack.rate.fill_(1e-3)
    alone = [make_learner(rows, task, *each) for each in heads]
    for step in range(5):
        at = torch.stack([rows_of(1, step), rows_of(3, step)])
        (drop,) = masks.of_steps(step, [29])
        records = stack.step(x[at], y[at], drop, step == 0)
        for k, (own, _, seed) in enumerate(heads):
            one = rows_of(seed, step)
            record = alone[k].step(x[one], y[one], step, 1e-3, step == 0)
            found = StepRecord(**dict(zip(FIELDS, records[:, k].tolist(), strict=True)))
            if own.cvar.gradient == "published":  # anywhere between two losses, to 1e-5
                assert found.threshold == pytest.approx(record.threshold, abs=0.5)
                record = replace(record, threshold=found.threshold, value=found.value)
            assert_alike(found, record, near=1e-5)


@pytest.mark.parametrize("missing", [False, True])
def test_the_searches_of_a_stack_end_where_scipys_may(missing: bool) -> None:
    """Within its tolerance of the minimum; the loss at the minimum may have weight or not."""
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.exponential(size=(60, 40)))
    known = torch.from_numpy(rng.random((60, 40)) < 0.7) if missing else None
    levels = rng.choice([0.1, 0.37, 0.5, 0.9, 1.0], 60)
    if known is not None:
        known[7] = False
    values[9, 3] = torch.inf
    labels = torch.zeros(60, 40, 1)
    recipe = Recipe(cvar={"gradient": "published"})
    stacked = build_risk(recipe, torch.from_numpy(levels)[:, None], labels, AU)
    found = stacked(SingleLosses(values, known, labels))
    for k, alpha in enumerate(levels.tolist()):
        mask = None if known is None else known[k]
        single = SingleLosses(values[k] if mask is None else values[k] * mask, mask, labels[k])
        alone = build_risk(recipe, alpha, labels, AU)(single)
        assert torch.allclose(found.value[k], alone.value, atol=2e-5, equal_nan=True), k
        assert found.threshold[k].isnan() == alone.threshold.isnan()
        if not alone.weights.isfinite().all() or (mask is not None and not mask.any()):
            assert torch.allclose(found.weights[k], alone.weights, equal_nan=True)
            continue
        share = alpha * (40 if mask is None else int(mask.sum()))
        if share % 1 < 1e-9 or alpha == 1:  # the minimum lies between two losses
            assert torch.allclose(found.weights[k], alone.weights), k
        else:
            above = float(found.weights[k].sum()) * share
            assert above == pytest.approx(math.floor(share)) or above == pytest.approx(
                math.ceil(share)
            )


def test_the_searches_of_a_stack_weigh_as_much_as_scipys_on_average() -> None:
    """At alpha n = 6.4 scipy's gives 7 losses weight in 0.37 of all batches."""
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.exponential(size=(400, 32)))
    labels, recipe = torch.zeros(400, 32, 1), Recipe(cvar={"gradient": "published"})
    levels = torch.full((400, 1), 0.2, dtype=torch.float64)
    found = build_risk(recipe, levels, labels, EXPR)(SingleLosses(values, None, labels))
    alone = build_risk(recipe, 0.2, labels, EXPR)
    theirs = [alone(SingleLosses(own, None, own[:, None])).weights.sum() for own in values]
    assert float(found.weights.sum(-1).mean()) == pytest.approx(
        float(torch.stack(theirs).mean()), abs=0.03
    )


def test_a_step_keeps_to_its_budget_of_operations_and_bytes() -> None:
    recipe = Recipe(width=768, batch=32, rho=0.5, dropout=0.6)
    cost = step_cost(recipe, heads=50, seeds=5)
    assert cost.operations <= 220
    assert cost.bytes <= 5e9
    # As described: one pass is forward, weight gradients and, past the first layer, inputs; the
    # low-rank form saves the first pass's gradients of hidden layers and adds small products.
    assert cost.flop == pytest.approx(50 * 32 * executed_per_sample(recipe, 768, 8), rel=0.01)


@pytest.mark.parametrize("count", [1, 16, 17, 1000])
def test_philox_in_torch_is_numpys(count: int) -> None:
    keys, counters = torch.tensor([0, 3, 2**31 - 1]), torch.tensor([0, 2**40 + 7])
    found = philox_uint16(keys, counters, count).numpy()
    for block, counter in zip(found, counters.tolist(), strict=True):
        for row, key in zip(block, keys.tolist(), strict=True):
            generator = np.random.Philox(key=key, counter=[0, 0, 0, counter])
            assert (row == generator.random_raw(-(-count // 4)).view(np.uint16)[:count]).all()


def test_masks_of_a_block_of_steps_are_those_of_one_head_to_the_bit() -> None:
    recipe = Recipe(width=24, hidden_layers=2, dropout=0.6)
    masks = StackedMasks([4, 9], recipe, torch.zeros(()))
    sizes = [5, 5, 5, 3]
    for step, (size, drop) in enumerate(zip(sizes, masks.of_steps(7, sizes), strict=True), 7):
        for own, seed in zip(drop, (4, 9), strict=True):
            alone = DropoutMasks(seed, 0.6, 2, 24).scaled(step, 2, size, torch.float32)
            assert torch.equal(own, alone)


@pytest.mark.parametrize("task", [EXPR, AU], ids=lambda t: t.name)
def test_rho_zero_is_torchs_fused_adamw_on_the_gradient_bit_for_bit(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(width=32, rho=0.0, weight_decay=0.01)
    x, y = data(task)
    learner = fast(task, recipe, y, 0.5, 0)
    weights = torch.nn.Parameter(learner.weights.clone())
    optimiser = torch.optim.AdamW([weights], lr=1e-3, weight_decay=0.01, fused=True)
    gradients: list[Tensor] = []

    def seen(parameters: list[Tensor], updates: list[Tensor], *rest: Any, **settings: Any) -> None:
        gradients.insert(0, torch.cat(updates))  # layers come from the last to the first
        adamw(parameters, updates, *rest, **settings)

    monkeypatch.setattr("clipaffect.training.fused_adamw.adamw", seen)
    monkeypatch.setattr(FastLearner, "_ascend", None)  # there is no first pass to take
    for step in range(3):
        gradients.clear()
        learner.step(x[rows_of(0, step)], y[rows_of(0, step)], step, 1e-3, False)
        weights.grad = torch.cat(gradients)
        optimiser.step()
        assert torch.equal(learner.weights, weights.detach())


def test_a_low_rank_product_is_the_dense_one() -> None:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=shape))

    weight, bias = draw(40, 30), draw(40)
    dense, low = DenseProduct(weight, False), LowRankProduct(weight, False)
    x, dz, again, d_again = draw(5, 30), draw(5, 40), draw(5, 30), draw(5, 40)
    dz -= dz.mean(0)  # as behind a BatchNorm
    norms = []
    for product in (dense, low):
        product.begin()
        product.forward(x, bias, False)
        norms.append(product.first_gradient(x, dz))
        product.perturb(0.3, False)
    assert norms == pytest.approx([float((dz.T @ x).pow(2).sum())] * 2, rel=1e-12)
    moved = weight + 0.3 * dz.T @ x
    for product in (dense, low):
        for inputs in (x, again):  # the first layer's inputs do not change between the passes
            found = product.forward(inputs, bias + 1, True)
            assert torch.allclose(found, inputs @ moved.T + bias + 1, atol=1e-12)
        assert torch.allclose(product.backward(d_again, True), d_again @ moved, atol=1e-12)
        assert torch.allclose(product.backward(d_again, False), d_again @ weight, atol=1e-12)


@pytest.mark.parametrize("mean", [0.0, 30.0, 1000.0])
def test_a_low_rank_step_keeps_float32s_precision_where_gradients_cancel(mean: float) -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(32, 256)) + mean)
    y = torch.from_numpy(rng.integers(0, 8, (32, 1)).astype(np.int8))
    found = []
    for batch, dtype in ((32, torch.float32), (32, torch.float64), (64, torch.float64)):
        recipe = Recipe(width=256, hidden_layers=2, batch=batch, dropout=0.0)
        made = Head(256, 8, 2, 256, 1).to(dtype).train()
        learner = FastLearner(made, Cvar(0.5), EXPR, recipe, 0)
        found.append(learner.step(x.to(dtype), y, 0, 1e-3, True))
    low32, low64, dense = found
    assert low64.gradient_norm == pytest.approx(dense.gradient_norm, rel=1e-9)
    assert low64.sharpness == pytest.approx(dense.sharpness, rel=1e-6)
    # the products themselves lose digits to the mean, in either form
    tolerance = 1e-5 * max(1.0, mean / 10)
    assert low32.gradient_norm == pytest.approx(dense.gradient_norm, rel=tolerance)


@pytest.mark.parametrize("seed", range(8))
def test_a_batch_of_one_picture_repeated_is_no_error(seed: int) -> None:
    recipe = Recipe(width=256, hidden_layers=3, batch=4)
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 256)) * 10).float()
    made = Head(256, 8, 3, 256, seed).train()
    learner = FastLearner(made, Cvar(0.5), EXPR, recipe, seed)
    record = learner.step(x.repeat(4, 1), torch.zeros(4, 1, dtype=torch.int8), 0, 1e-3, True)
    assert math.isfinite(record.gradient_norm)


@pytest.mark.parametrize("batch", [4, 64])
def test_bf16_products_stay_near_float32(batch: int) -> None:
    x, y = data(EXPR)
    norms = []
    for products in ("fp32", "bf16"):
        recipe = Recipe(width=32, products=products, batch=batch)
        made = head(EXPR, recipe, 0, torch.float32)
        learner = FastLearner(made, Cvar(0.5), EXPR, recipe, 0)
        norms.append(learner.step(x.float(), y, 0, 1e-3, False).gradient_norm)
    assert norms[0] != norms[1]
    assert norms[1] == pytest.approx(norms[0], rel=0.02)


def test_a_batch_in_which_nothing_is_annotated_moves_nothing_but_the_decay() -> None:
    recipe = Recipe(width=32, weight_decay=0.0)
    x, y = data(AU)
    learner = fast(AU, recipe, y, 0.5, 0)
    before = learner.weights.clone()
    record = learner.step(x[:20], torch.full_like(y[:20], -1), 0, 1e-3, False)
    assert torch.equal(learner.weights, before)
    assert record.value == 0
    assert math.isnan(record.mean_loss)
