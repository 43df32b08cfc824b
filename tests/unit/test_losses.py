"""CVaR against a linear program, scipy's bounded search and closed forms; masked losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize_scalar

from clipaffect.training.losses import cvar, cvar_weights, expression_losses, unit_losses

ALPHAS = (0.01, 0.1, 0.25, 1 / 3, 0.5, 0.77, 0.9, 1.0)


def losses_of(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).exponential(size=n))


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("n", [1, 2, 7, 32, 33])
def test_cvar_solves_the_dual_linear_program(alpha: float, n: int) -> None:
    # max w.l subject to sum w = 1, 0 <= w <= 1 / (alpha n)
    losses = losses_of(n)
    best = linprog(-losses.numpy(), A_eq=np.ones((1, n)), b_eq=[1], bounds=(0, 1 / (alpha * n)))
    if alpha * n < 1:  # the program's bound allows the largest loss alone
        assert float(cvar(losses, alpha)[0]) == pytest.approx(float(losses.max()), abs=1e-12)
    assert float(cvar(losses, alpha)[0]) == pytest.approx(-best.fun, abs=1e-9)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_cvar_is_the_minimum_over_lambda(alpha: float) -> None:
    losses = losses_of(32)

    def primal(level: float) -> float:
        return float(level + torch.relu(losses - level).mean() / alpha)

    found = minimize_scalar(primal, bounds=(-1, 10), method="bounded", options={"xatol": 1e-10})
    value, threshold = cvar(losses, alpha)
    assert float(value) == pytest.approx(found.fun, abs=1e-7)
    assert primal(threshold) == pytest.approx(float(value), abs=1e-12)


def test_limits() -> None:
    losses = losses_of(50)
    assert float(cvar(losses, 1.0)[0]) == pytest.approx(float(losses.mean()), abs=1e-15)
    assert float(cvar(losses, 1e-9)[0]) == float(losses.max())
    assert float(cvar(losses[:1], 0.3)[0]) == float(losses[0])
    value, threshold = cvar(losses[:0], 0.5)
    assert float(value) == 0
    assert np.isnan(threshold)


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=40),
    st.floats(0.001, 1.0),
)
@settings(max_examples=200, deadline=None)
def test_weights_are_a_distribution_that_never_prefers_a_smaller_loss(
    values: list[float], alpha: float
) -> None:
    losses = torch.tensor(values, dtype=torch.float64)
    weights = cvar_weights(losses, alpha)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-9)
    assert float(weights.min()) >= 0
    by_loss = weights[torch.argsort(losses, descending=True, stable=True)]
    assert bool((by_loss.diff() <= 1e-15).all())


def test_ties_keep_a_gradient() -> None:
    losses = torch.ones(8, dtype=torch.float64, requires_grad=True)
    cvar(losses, 0.25)[0].backward()
    assert float(losses.grad.sum()) == pytest.approx(1)


@pytest.mark.parametrize("alpha", [0.1, 0.37, 0.5, 1.0])
@pytest.mark.parametrize("multilabel", [False, True])
def test_gradient_by_finite_differences(alpha: float, multilabel: bool) -> None:
    rng = np.random.default_rng(1)
    logits = torch.from_numpy(rng.normal(size=(6, 4))).requires_grad_()
    if multilabel:
        labels = torch.from_numpy(rng.integers(-1, 2, (6, 4)))
        single = unit_losses
    else:
        labels = torch.from_numpy(rng.integers(0, 4, (6, 1)))
        single = expression_losses
    assert torch.autograd.gradcheck(lambda x: cvar(single(x, labels), alpha)[0], logits, eps=1e-6)


def test_not_annotated_units_are_left_out_element_by_element() -> None:
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[1, 0, -1, -1], [-1, -1, -1, -1], [0, 1, 1, 0]])
    losses = unit_losses(logits, labels)
    assert losses.shape == (6,)
    losses.sum().backward()
    assert torch.equal(logits.grad != 0, labels != -1)
    expected = -torch.log(torch.sigmoid(logits[0, 0]))
    assert float(losses[0].detach()) == pytest.approx(float(expected.detach()), abs=1e-12)


def test_expression_loss_is_the_negative_log_probability() -> None:
    logits = torch.randn(5, 8, dtype=torch.float64)
    labels = torch.tensor([[0], [7], [3], [3], [1]])
    expected = [-float(torch.log_softmax(logits[k], 0)[labels[k, 0]]) for k in range(5)]
    assert expression_losses(logits, labels).tolist() == pytest.approx(expected, abs=1e-12)
