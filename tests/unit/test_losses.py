"""Single losses by their formulas; masks; the hand-written derivative against autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clipaffect.core.tasks import AU, EXPR
from clipaffect.training.losses.base import logit_gradient, single_losses


def test_expression_loss_is_the_negative_log_probability() -> None:
    logits = torch.randn(5, 8, dtype=torch.float64)
    labels = torch.tensor([[0], [7], [3], [3], [1]], dtype=torch.int8)
    expected = [-float(torch.log_softmax(logits[k], 0)[labels[k, 0]]) for k in range(5)]
    found = single_losses(logits, labels, EXPR, "elements", True)
    assert found.values.tolist() == pytest.approx(expected, abs=1e-12)
    assert found.known is None


def test_not_annotated_units_are_left_out_element_by_element() -> None:
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[1, 0, -1, -1], [-1, -1, -1, -1], [0, 1, 1, 0]])
    losses = single_losses(logits, labels, AU, "elements", False)
    assert losses.known.tolist() == (labels != -1).flatten().tolist()
    losses.values.sum().backward()
    assert torch.equal(logits.grad != 0, labels != -1)
    expected = -torch.log(torch.sigmoid(logits[0, 0]))
    assert float(losses.values[0].detach()) == pytest.approx(float(expected.detach()), abs=1e-12)


def test_a_frames_units_are_averaged_over_those_annotated() -> None:
    logits = torch.randn(3, 12, dtype=torch.float64)
    labels = torch.tensor([[1, 0, *[-1] * 10], [-1] * 12, [0, 1] * 6])
    losses = single_losses(logits, labels, AU, "samples", False)
    elements = single_losses(logits, labels, AU, "elements", False).values.view(3, 12)
    assert losses.known.tolist() == [True, False, True]
    assert float(losses.values[0]) == pytest.approx(float(elements[0, :2].mean()))
    assert float(losses.values[2]) == pytest.approx(float(elements[2].mean()))


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("over", ["elements", "samples"])
def test_unit_gradient_is_autograds(over: str, missing: bool) -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(7, 12))).requires_grad_()
    labels = torch.from_numpy(rng.integers(-1 if missing else 0, 2, (7, 12)).astype(np.int8))
    losses = single_losses(logits, labels, AU, over, not missing)
    weights = torch.from_numpy(rng.uniform(size=losses.values.shape))
    (expected,) = torch.autograd.grad((weights * losses.values).sum(), logits)
    found = logit_gradient(logits.detach(), labels, weights, AU, over, not missing)
    assert torch.allclose(found, expected, atol=1e-15)


def test_expression_gradient_is_autograds_also_for_a_stack() -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(3, 7, 8))).requires_grad_()
    labels = torch.from_numpy(rng.integers(0, 8, (3, 7, 1)).astype(np.int8))
    losses = single_losses(logits, labels, EXPR, "elements", True)
    weights = torch.from_numpy(rng.uniform(size=(3, 7)))
    (expected,) = torch.autograd.grad((weights * losses.values).sum(), logits)
    found = logit_gradient(logits.detach(), labels, weights, EXPR, "elements", True)
    assert torch.allclose(found, expected, atol=1e-15)
