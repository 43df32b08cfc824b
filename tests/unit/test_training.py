"""The training step and loop: SAM, BatchNorm, masks, batches, the same bytes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from clipaffect.config.models import Training
from clipaffect.tasks import AU, EXPR
from clipaffect.training.head import DropoutMasks, Head
from clipaffect.training.losses import cvar, expression_losses
from clipaffect.training.sam import sam_step
from clipaffect.training.train import batches, train_head

SETTINGS = Training(hidden_layers=2, width=16, epochs=3, batch=16, alphas=(0.5, 1.0))


def toy(n: int = 65, d: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, (n, 1))
    features = rng.normal(size=(n, d)) + labels * 0.5
    return torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels)


def test_sam_on_a_quadratic_by_hand() -> None:
    # loss = w.A.w / 2, gradient A.w; SAM's gradient is A.(w + rho A.w / |A.w|)
    a = torch.diag(torch.tensor([1.0, 4.0], dtype=torch.float64))
    w = nn.Parameter(torch.tensor([2.0, 1.0], dtype=torch.float64))
    start = w.detach().clone()
    record = sam_step(
        [w], lambda _: (w @ a @ w / 2)[None], torch.optim.SGD([w], lr=0.1), alpha=1.0, rho=0.3
    )
    gradient = a @ start
    shifted = start + 0.3 * gradient / gradient.norm()
    assert torch.allclose(w, start - 0.1 * a @ shifted, atol=1e-15)
    assert record.gradient_norm == pytest.approx(float(gradient.norm()))
    assert record.perturbed_cvar == pytest.approx(float(shifted @ a @ shifted / 2))


def test_rho_zero_is_the_base_optimiser_bit_for_bit() -> None:
    x, y = toy()
    plain, sam = Head(6, 8, 2, 16, seed=3), Head(6, 8, 2, 16, seed=3)
    one, two = (torch.optim.AdamW(h.parameters(), lr=1e-2) for h in (plain, sam))
    calls = []
    for _ in range(4):
        one.zero_grad()
        cvar(expression_losses(plain(x), y), 0.5)[0].backward()
        one.step()

        def losses(sam_pass: int) -> torch.Tensor:
            calls.append(sam_pass)
            return expression_losses(sam(x), y)

        sam_step(list(sam.parameters()), losses, two, alpha=0.5, rho=0.0)
    assert calls == [0] * 4
    for p, q in zip(plain.state_dict().values(), sam.state_dict().values(), strict=True):
        assert torch.equal(p, q)


def test_batchnorm_statistics_follow_the_first_pass_only() -> None:
    x, y = toy()
    head = Head(6, 8, 1, 16, seed=0).train()
    expected = copy.deepcopy(head)
    expected(x)  # one update by torch's own BatchNorm1d
    optimiser = torch.optim.SGD(head.parameters(), lr=0.0)
    sam_step(
        list(head.parameters()),
        lambda k: expression_losses(head(x, update_statistics=k == 0), y),
        optimiser,
        alpha=1.0,
        rho=0.5,
    )
    for name, value in expected.norms[0].named_buffers():
        assert torch.equal(value, dict(head.norms[0].named_buffers())[name])


def test_second_pass_normalises_by_the_batch() -> None:
    x, _ = toy()
    head = Head(6, 8, 1, 16, seed=0).train()
    assert torch.equal(head(x), head(x, update_statistics=False))


def test_perturbation_has_length_rho_and_is_undone() -> None:
    x, y = toy()
    head = Head(6, 8, 1, 16, seed=0).double().train()
    before = [p.detach().clone() for p in head.parameters()]
    seen = []

    def losses(sam_pass: int) -> torch.Tensor:
        moved = [p.detach() - b for p, b in zip(head.parameters(), before, strict=True)]
        seen.append(float(torch.cat([m.flatten() for m in moved]).norm()))
        return expression_losses(head(x.double()), y)

    sam_step(list(head.parameters()), losses, torch.optim.SGD(head.parameters(), lr=0.0), 0.5, 0.7)
    assert seen == pytest.approx([0.0, 0.7], abs=1e-9)
    for p, b in zip(head.parameters(), before, strict=True):
        assert torch.equal(p, b)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.6])
def test_masks_drop_the_stated_share_and_keep_the_mean(rate: float) -> None:
    (mask,) = DropoutMasks(seed=1, rate=rate, layers=1, width=512)(step=5, sam_pass=0, batch=400)
    share = float((mask == 0).float().mean())
    # 204,800 draws: four standard deviations
    assert share == pytest.approx(rate, abs=4 * (rate * (1 - rate) / mask.numel()) ** 0.5)
    assert float(mask.max()) == pytest.approx(1 / (1 - rate))


def test_masks_are_keyed_by_seed_step_pass_and_layer() -> None:
    first, second = DropoutMasks(1, 0.5, 2, 64)(3, 0, 8)
    again = DropoutMasks(1, 0.5, 2, 64)(3, 0, 8)[0]
    assert torch.equal(first, again)
    others = [
        second,
        DropoutMasks(2, 0.5, 2, 64)(3, 0, 8)[0],
        DropoutMasks(1, 0.5, 2, 64)(4, 0, 8)[0],
        DropoutMasks(1, 0.5, 2, 64)(3, 1, 8)[0],
    ]
    assert not any(torch.equal(first, other) for other in others)
    assert DropoutMasks(1, 0.0, 2, 64)(3, 0, 8) is None


@pytest.mark.parametrize("rows", [1, 2, 16, 17, 33, 65])
def test_batches_hold_every_row_once_and_never_one_row(rows: int) -> None:
    parts = list(batches(rows, 16, seed=0, epoch=0))
    assert sorted(torch.cat(parts).tolist()) == list(range(rows))
    assert all(len(part) > 1 for part in parts) or rows == 1
    assert not torch.equal(torch.cat(parts), torch.cat(list(batches(rows, 16, 0, 1)))) or rows < 3


def test_training_twice_gives_the_same_bytes_and_seeds_differ() -> None:
    x, y = toy()
    first, again, other = (train_head(x, y, EXPR, SETTINGS, 0.5, seed) for seed in (0, 0, 1))
    for p, q in zip(
        first.head.state_dict().values(), again.head.state_dict().values(), strict=True
    ):
        assert torch.equal(p, q)
    assert first.history == again.history
    assert first.history != other.history


def test_training_learns_a_separable_problem() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 8, (400, 1))
    x = np.eye(8)[y[:, 0]] + rng.normal(size=(400, 8)) * 0.1
    settings = SETTINGS.model_copy(update={"epochs": 20, "dropout": 0.0})
    head = train_head(
        torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y), EXPR, settings, 1.0, 0
    )
    decided = head.head(torch.eye(8)).argmax(1)
    assert decided.tolist() == list(range(8))


def test_alpha_1_minimises_the_mean_and_small_alpha_the_worst() -> None:
    x, y = toy(200)
    settings = SETTINGS.model_copy(update={"epochs": 30, "dropout": 0.0, "rho": 0.0})
    mean, tail = (train_head(x, y, EXPR, settings, alpha, 0) for alpha in (1.0, 0.1))
    worst = [float(cvar(expression_losses(t.head(x), y), 0.1)[0].detach()) for t in (mean, tail)]
    assert worst[1] < worst[0]


def test_a_loss_that_is_not_finite_ends_the_head_and_says_so() -> None:
    x, y = toy()
    x = x * 1e38
    trained = train_head(x, y, EXPR, SETTINGS, 1.0, 0)
    assert trained.status == "non_finite"
    assert len(trained.history) == 1


def test_units_that_are_not_annotated_do_not_move_the_head() -> None:
    x, _ = toy()
    labels = torch.full((65, 12), -1)
    labels[:, 0] = torch.arange(65) % 2
    settings = SETTINGS.model_copy(update={"weight_decay": 0.0})
    trained = train_head(x, labels, AU, settings, 1.0, 0)
    start = Head(6, 12, 2, 16, seed=0)
    assert torch.equal(trained.head.output.weight[1:], start.output.weight[1:])
    assert not torch.equal(trained.head.output.weight[0], start.output.weight[0])
