"""The reference step: SAM by hand, BatchNorm, radius zero, user modules."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clipaffect.config.training import Recipe
from clipaffect.core.tasks import EXPR
from clipaffect.training.backends.autograd import WeighedObjective
from clipaffect.training.losses.exact_cvar import Cvar
from clipaffect.training.mlp_head import DropoutMasks, Head
from clipaffect.training.sam import Evaluated, frozen_statistics, training_step


def toy(n: int = 65, d: int = 6) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, (n, 1))
    features = rng.normal(size=(n, d)) + labels * 0.5
    return torch.from_numpy(features), torch.from_numpy(labels.astype(np.int8))


def objective(head: nn.Module, alpha: float = 0.5) -> Callable[[int], Evaluated]:
    x, y = toy()
    weighed = WeighedObjective(Cvar(alpha), EXPR, Recipe())
    return lambda sam_pass: weighed(head(x), y)


def of(value: Tensor) -> Evaluated:
    number = float(value.detach())
    return Evaluated(value, number, number, float("nan"), torch.empty(0), torch.empty(0))


QUADRATIC = torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64))


class Bowl(nn.Module):
    """loss = w.A.w / 2, gradient A.w."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))

    def forward(self) -> Tensor:
        return self.w @ QUADRATIC @ self.w / 2


@pytest.mark.parametrize("perturbation", ["l2", "sign"])
def test_sam_on_a_quadratic_by_hand(perturbation: str) -> None:
    # SAM's gradient is A.(w + epsilon)
    bowl = Bowl()
    start = bowl.w.detach().clone()
    trace = training_step(
        bowl, torch.optim.SGD([bowl.w], lr=0.1), lambda _: of(bowl()), 0.3, perturbation, True
    )
    gradient = QUADRATIC @ start
    epsilon = 0.3 * (gradient / gradient.norm() if perturbation == "l2" else gradient.sign())
    shifted = start + epsilon
    assert torch.allclose(bowl.w, start - 0.1 * QUADRATIC @ shifted, atol=1e-12)
    assert trace.record.gradient_norm == pytest.approx(float(gradient.norm()))
    assert trace.record.perturbation_norm == pytest.approx(float(epsilon.norm()))
    rise = float(shifted @ QUADRATIC @ shifted / 2 - start @ QUADRATIC @ start / 2)
    assert trace.record.sharpness == pytest.approx(rise)
    assert trace.second is not None
    assert trace.second.value - trace.first.value == pytest.approx(rise)
    assert torch.allclose(trace.update_gradient[0], QUADRATIC @ shifted)


def test_rho_zero_is_the_base_optimiser_bit_for_bit() -> None:
    plain, sam = Head(6, 8, 2, 16, seed=3).double(), Head(6, 8, 2, 16, seed=3).double()
    one, two = (torch.optim.AdamW(h.parameters(), lr=1e-2) for h in (plain, sam))
    calls = []
    for _ in range(4):
        one.zero_grad()
        objective(plain)(0).surrogate.backward()
        one.step()

        def counted(sam_pass: int) -> Evaluated:
            calls.append(sam_pass)
            return objective(sam)(sam_pass)

        training_step(sam, two, counted, rho=0.0)
    assert calls == [0] * 4
    for p, q in zip(plain.state_dict().values(), sam.state_dict().values(), strict=True):
        assert torch.equal(p, q)


def test_batchnorm_statistics_follow_the_first_pass_only() -> None:
    head = Head(6, 8, 1, 16, seed=0).double().train()
    expected = copy.deepcopy(head)
    expected(toy()[0])  # one update by torch's own BatchNorm1d
    optimiser = torch.optim.SGD(head.parameters(), lr=0.0)
    training_step(head, optimiser, objective(head), rho=0.5, probe=True)
    for name, value in expected.norms[0].named_buffers():
        assert torch.equal(value, dict(head.norms[0].named_buffers())[name])


def test_frozen_statistics_normalise_by_the_batch() -> None:
    x, _ = toy()
    head = Head(6, 8, 1, 16, seed=0).double().train()
    with frozen_statistics(head):
        frozen = head(x)
    assert torch.equal(head(x), frozen)


def test_perturbation_has_length_rho_and_is_undone() -> None:
    head = Head(6, 8, 1, 16, seed=0).double().train()
    before = [p.detach().clone() for p in head.parameters()]
    seen = []

    def watched(sam_pass: int) -> Evaluated:
        moved = [p.detach() - b for p, b in zip(head.parameters(), before, strict=True)]
        seen.append(float(torch.cat([m.flatten() for m in moved]).norm()))
        return objective(head)(sam_pass)

    training_step(head, torch.optim.SGD(head.parameters(), lr=0.0), watched, rho=0.7)
    assert seen == pytest.approx([0.0, 0.7], abs=1e-9)
    for p, b in zip(head.parameters(), before, strict=True):
        assert torch.equal(p, b)


def test_initialisation_is_he_uniform_and_torchs_for_biases() -> None:
    head = Head(300, 8, 1, 200, seed=0)
    weight, bias = (p.detach() for p in head.linears[0].parameters())
    assert float(weight.abs().max()) == pytest.approx((6 / 300) ** 0.5, rel=1e-3)
    assert float(weight.std()) == pytest.approx((2 / 300) ** 0.5, rel=0.02)
    assert float(bias.abs().max()) == pytest.approx(300**-0.5, rel=0.05)


def test_folded_evaluation_is_the_modules_own() -> None:
    from clipaffect.training.mlp_head import folded_logits

    head = Head(6, 8, 2, 16, seed=0).double().train()
    for _ in range(5):
        head(toy()[0])
    head.eval()
    x = toy(9)[0]
    assert torch.allclose(folded_logits(head.folded(), x), head(x), atol=1e-12)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.6])
def test_masks_drop_the_stated_share_and_keep_the_mean(rate: float) -> None:
    like = torch.zeros(1)
    (mask,) = DropoutMasks(1, rate, 1, 512)(step=5, sam_pass=0, batch=400, like=like)
    share = float((mask == 0).float().mean())
    # 204,800 draws: four standard deviations
    assert share == pytest.approx(rate, abs=4 * (rate * (1 - rate) / mask.numel()) ** 0.5)
    assert float(mask.max()) == pytest.approx(1 / (1 - rate))


def test_masks_are_keyed_by_seed_step_pass_and_layer() -> None:
    def kept(seed: int, step: int, passes: int = 2) -> Tensor:
        return DropoutMasks(seed, 0.5, 2, 64).scaled(step, passes, 8, torch.float32)

    first, *others = [*kept(1, 3).flatten(0, 1), kept(2, 3)[0, 0], kept(1, 4)[0, 0]]
    assert len(others) == 5
    assert not any(torch.equal(first, other) for other in others)
    assert torch.equal(kept(1, 3, passes=1)[0], kept(1, 3)[0])  # with and without SAM
    assert DropoutMasks(1, 0.0, 2, 64)(3, 0, 8, torch.zeros(1)) is None
