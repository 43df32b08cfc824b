"""Risks against a linear program, scipy's searches, torchvision, closed forms and differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize, minimize_scalar

from clipaffect.core.tasks import AU, EXPR
from clipaffect.encoders.torchvision_ops import ensure_torchvision
from clipaffect.training.losses.base import Risk, SingleLosses, Weighted, single_losses
from clipaffect.training.losses.chi_square import ChiSquare
from clipaffect.training.losses.class_balanced import ClassBalanced
from clipaffect.training.losses.cvar import PublishedCvar
from clipaffect.training.losses.exact_cvar import Cvar
from clipaffect.training.losses.focal import Focal

ALPHAS = (0.01, 0.1, 0.25, 1 / 3, 0.5, 0.77, 0.9, 1.0)


def losses_of(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).exponential(size=n))


def weigh(risk: Risk, values: torch.Tensor, known: torch.Tensor | None = None) -> Weighted:
    labels = torch.zeros(*values.shape, 1, dtype=torch.int8)
    return risk(SingleLosses(values, known, labels))


def cvar(values: torch.Tensor, alpha: float) -> float:
    return float(weigh(Cvar(alpha), values).value)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("n", [1, 2, 7, 32, 33])
def test_cvar_solves_the_dual_linear_program(alpha: float, n: int) -> None:
    # max w.l subject to sum w = 1, 0 <= w <= 1 / (alpha n)
    losses = losses_of(n)
    best = linprog(-losses.numpy(), A_eq=np.ones((1, n)), b_eq=[1], bounds=(0, 1 / (alpha * n)))
    if alpha * n < 1:  # the program's bound allows the largest loss alone
        assert cvar(losses, alpha) == pytest.approx(float(losses.max()), abs=1e-12)
    assert cvar(losses, alpha) == pytest.approx(-best.fun, abs=1e-9)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_cvar_is_the_minimum_over_lambda(alpha: float) -> None:
    losses = losses_of(32)

    def primal(level: float) -> float:
        return float(level + torch.relu(losses - level).mean() / alpha)

    found = minimize_scalar(primal, bounds=(-1, 10), method="bounded", options={"xatol": 1e-10})
    weighed = weigh(Cvar(alpha), losses)
    assert float(weighed.value) == pytest.approx(found.fun, abs=1e-7)
    assert primal(float(weighed.threshold)) == pytest.approx(float(weighed.value), abs=1e-12)


def test_limits() -> None:
    losses = losses_of(50)
    assert cvar(losses, 1.0) == pytest.approx(float(losses.mean()), abs=1e-15)
    assert cvar(losses, 1e-9) == float(losses.max())
    assert cvar(losses[:1], 0.3) == float(losses[0])


@pytest.mark.parametrize(
    "risk", [Cvar(0.4), PublishedCvar(0.5), Focal(2.0), ChiSquare(0.7)], ids=lambda r: str(type(r))
)
def test_what_is_not_annotated_has_no_weight(risk: Risk) -> None:
    values, known = losses_of(40), torch.arange(40) % 3 > 0
    values = values * known
    masked, short = weigh(risk, values, known), weigh(risk, values[known])
    assert float(masked.value) == pytest.approx(float(short.value), abs=1e-12)
    assert torch.allclose(masked.weights[known], short.weights, atol=1e-12)
    assert not masked.weights[~known].any()
    nothing = weigh(risk, values * 0, known & False)
    assert float(nothing.value) == 0
    assert not nothing.weights.any()
    assert np.isnan(float(nothing.threshold))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40), st.floats(0.001, 1.0))
@settings(max_examples=200, deadline=None)
def test_cvar_weights_are_a_distribution_that_never_prefers_a_smaller_loss(
    values: list[float], alpha: float
) -> None:
    losses = torch.tensor(values, dtype=torch.float64)
    weights = weigh(Cvar(alpha), losses).weights
    assert float(weights.sum()) == pytest.approx(1, abs=1e-9)
    assert float(weights.min()) >= 0
    by_loss = weights[torch.argsort(losses, descending=True, stable=True)]
    assert bool((by_loss.diff() <= 1e-15).all())


def test_ties_keep_a_gradient() -> None:
    assert float(weigh(Cvar(0.25), torch.ones(8)).weights.sum()) == pytest.approx(1)


def test_a_stack_of_levels_gives_what_each_gives_alone() -> None:
    losses = torch.stack([losses_of(33, seed) for seed in range(3)])
    known = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (3, 33))).bool()
    levels = torch.tensor([[0.1], [0.5], [1.0]], dtype=torch.float64)
    for mask in (None, known):
        stacked = weigh(Cvar(levels), losses if mask is None else losses * mask, mask)
        for k in range(3):
            row = None if mask is None else mask[k]
            alone = weigh(
                Cvar(float(levels[k])), losses[k] if row is None else losses[k] * row, row
            )
            assert torch.equal(stacked.weights[k], alone.weights)
            assert float(stacked.value[k]) == float(alone.value)
            assert float(stacked.threshold[k]) == float(alone.threshold)


@pytest.mark.parametrize(
    "risk", [Cvar(0.37), Focal(2.0), Focal(1.0), Focal(0.5), ChiSquare(0.3), ChiSquare(5.0)]
)
def test_weights_are_the_values_derivative(risk: Risk) -> None:
    losses, step = losses_of(12), 1e-6
    weights = weigh(risk, losses).weights
    for k in range(len(losses)):
        bump = torch.zeros_like(losses)
        bump[k] = step
        up, down = (float(weigh(risk, losses + sign * bump).value) for sign in (1, -1))
        assert (up - down) / (2 * step) == pytest.approx(float(weights[k]), abs=1e-7)


def test_published_gradient_is_exact_where_alpha_n_is_whole_and_floor_or_ceil_elsewhere() -> None:
    losses = losses_of(32)
    exact, published = weigh(Cvar(0.5), losses), weigh(PublishedCvar(0.5), losses)
    assert torch.allclose(exact.weights, published.weights, atol=1e-15)
    assert float(exact.value) == pytest.approx(float(published.value), abs=1e-12)
    total = float(weigh(PublishedCvar(0.1), losses).weights.sum())
    assert min(abs(total - 3 / 3.2), abs(total - 4 / 3.2)) < 1e-12


def test_published_search_gives_tied_losses_all_or_no_weight() -> None:
    # the search stops just below the maximum: 8 tied losses at alpha 0.5 weigh 2 together
    total = float(weigh(PublishedCvar(0.5), torch.ones(8, dtype=torch.float64)).weights.sum())
    assert total in (0.0, pytest.approx(2.0))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "risk", [Cvar(0.4), Cvar(1.0), PublishedCvar(0.5), Focal(2.0), ChiSquare(0.7)]
)
def test_a_loss_that_is_no_number_makes_the_risk_none(risk: Risk, bad: float) -> None:
    losses = losses_of(9)
    losses[3] = bad
    assert not np.isfinite(float(weigh(risk, losses).value))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_torchvisions(gamma: float) -> None:
    ensure_torchvision()
    from torchvision.ops import sigmoid_focal_loss

    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(9, 12))).requires_grad_()
    labels = torch.from_numpy(rng.integers(0, 2, (9, 12)))
    expected = sigmoid_focal_loss(logits, labels.double(), alpha=-1, gamma=gamma, reduction="mean")
    (gradient,) = torch.autograd.grad(expected, logits)
    losses = single_losses(logits, labels, AU, "elements", True)
    weighed = Focal(gamma)(losses)
    assert float(weighed.value) == pytest.approx(float(expected.detach()), abs=1e-12)
    (found,) = torch.autograd.grad((weighed.weights * losses.values).sum(), logits)
    assert torch.allclose(found, gradient, atol=1e-12)


def test_focal_at_a_certain_answer_is_zero_and_finite() -> None:
    weighed = weigh(Focal(0.5), torch.zeros(3, dtype=torch.float64))
    assert float(weighed.value) == 0
    assert bool(weighed.weights.isfinite().all())


@pytest.mark.parametrize("radius", [0.01, 0.3, 1.0, 4.0, 100.0])
@pytest.mark.parametrize("n", [2, 5, 30])
def test_chi_square_is_the_dual_minimum_and_the_best_weights_in_the_ball(
    radius: float, n: int
) -> None:
    losses = losses_of(n, seed=n).numpy()

    def dual(eta: float) -> float:
        spread = np.sqrt((np.maximum(losses - eta, 0) ** 2).mean())
        return eta + np.sqrt(1 + radius) * spread

    low = losses.max() - 100 / np.sqrt(radius)
    found = minimize_scalar(
        dual, bounds=(low, losses.max()), method="bounded", options={"xatol": 1e-10}
    )
    weighed = weigh(ChiSquare(radius), torch.from_numpy(losses))
    assert float(weighed.value) == pytest.approx(found.fun, abs=1e-6)
    q = weighed.weights.numpy()
    assert q.sum() == pytest.approx(1)
    assert n * ((q - 1 / n) ** 2).sum() <= radius + 1e-9
    if n == 5:
        ball = {"type": "ineq", "fun": lambda p: radius - n * ((p - 1 / n) ** 2).sum()}
        whole = {"type": "eq", "fun": lambda p: p.sum() - 1}
        best = minimize(
            lambda p: -(p @ losses),
            np.full(n, 1 / n),
            bounds=[(0, 1)] * n,
            constraints=[ball, whole],
            method="SLSQP",
            tol=1e-12,
        )
        assert float(weighed.value) == pytest.approx(-best.fun, abs=1e-5)


@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=12),
    st.floats(0.01, 50),
)
@settings(max_examples=200, deadline=None)
def test_chi_square_with_ties_stays_in_the_ball_and_above_the_mean(
    values: list[float], radius: float
) -> None:
    losses = torch.tensor(values, dtype=torch.float64)
    weighed = weigh(ChiSquare(radius), losses)
    n, q = len(values), weighed.weights
    assert float(q.sum()) == pytest.approx(1, abs=1e-9)
    assert n * float(((q - 1 / n) ** 2).sum()) <= radius + 1e-6
    assert float(losses.mean()) - 1e-9 <= float(weighed.value) <= float(losses.max()) + 1e-9


def test_class_balanced_weights_by_the_effective_number() -> None:
    labels = torch.tensor([[0]] * 90 + [[1]] * 10, dtype=torch.int8)
    risk = ClassBalanced(labels, EXPR, beta=0.9)
    logits = torch.zeros(100, 8, dtype=torch.float64)
    weights = risk(single_losses(logits, labels, EXPR, "elements", True)).weights
    effective = [(1 - 0.9**count) / 0.1 for count in (90, 10)]
    assert float(weights[-1] / weights[0]) == pytest.approx(effective[0] / effective[1])
    assert float(weights.sum()) == pytest.approx(1)
    alike = ClassBalanced(labels, EXPR, beta=0.0)
    weights = alike(single_losses(logits, labels, EXPR, "elements", True)).weights
    assert weights.tolist() == pytest.approx([0.01] * 100)


def test_class_balanced_takes_each_units_own_counts() -> None:
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(
        (rng.uniform(size=(400, 12)) < np.linspace(0.05, 0.6, 12)).astype(int)
    )
    labels[rng.uniform(size=labels.shape) < 0.1] = -1
    risk = ClassBalanced(labels, AU, beta=1 - 1e-9)  # inverse frequency
    logits = torch.from_numpy(rng.normal(size=(400, 12)))
    losses = single_losses(logits, labels, AU, "elements", False)
    by_unit = risk(losses).weights.view(400, 12)
    for unit in range(12):
        known = labels[:, unit] >= 0
        ones, zeros = (by_unit[labels[:, unit] == bit, unit] for bit in (1, 0))
        assert float(ones.sum()) == pytest.approx(float(zeros.sum()), rel=1e-5)
        assert float(by_unit[~known, unit].abs().sum()) == 0
    expected = (by_unit.flatten() * losses.values).sum()
    assert float(risk(losses).value) == pytest.approx(float(expected))
    assert float(by_unit.sum()) == pytest.approx(1, rel=1e-6)
