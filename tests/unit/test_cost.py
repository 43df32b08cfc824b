"""Operations of a step, counted by torch's own counter."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from clipaffect.config.training import Recipe
from clipaffect.core.tasks import EXPR
from clipaffect.training.backends.autograd import AutogradLearner, build_objective
from clipaffect.training.backends.cpu import FastLearner
from clipaffect.training.cost import executed_per_sample, flop_per_sample
from clipaffect.training.losses.exact_cvar import Cvar
from clipaffect.training.mlp_head import Head


def test_operations_are_what_torch_counts() -> None:
    for rho in (0.0, 0.1):
        recipe = Recipe(width=32, hidden_layers=3, rho=rho, dropout=0.0)
        head = Head(16, 8, 3, 32).train()
        labels = torch.zeros(10, 1, dtype=torch.int8)
        learner = AutogradLearner(head, build_objective(recipe, 0.5, labels, EXPR), recipe, 0)
        with FlopCounterMode(display=False) as counter:
            learner.step(torch.randn(10, 16), labels, 0, 1e-3, False)
        assert counter.get_total_flops() == 10 * flop_per_sample(recipe, 16, 8)


def in_place(_: object, a: torch.Size, b: torch.Size, *rest: object, **settings: object) -> int:
    """Operations of ``addmm_``, which torch's counter leaves out."""
    return 2 * a[0] * a[1] * b[1]


def onednn(a: torch.Size, b: torch.Size, *rest: object, **settings: object) -> int:
    """Operations of oneDNN's x W', which torch's counter leaves out too."""
    return 2 * a[0] * a[1] * b[0]


def test_the_fast_steps_operations_are_what_torch_counts() -> None:
    for batch, rho in ((4, 0.1), (4, 0.0), (10, 0.1)):  # low rank; one pass; dense
        recipe = Recipe(width=32, hidden_layers=3, rho=rho, dropout=0.0, batch=batch)
        labels = torch.zeros(batch, 1, dtype=torch.int8)
        learner = FastLearner(Head(64, 8, 3, 32).train(), Cvar(0.5), EXPR, recipe, 0)
        also = {torch.ops.aten.addmm_: in_place, torch.ops.mkldnn._linear_pointwise: onednn}
        with FlopCounterMode(display=False, custom_mapping=also) as counter:
            learner.step(torch.randn(batch, 64), labels, 0, 1e-3, False)
        assert counter.get_total_flops() == batch * executed_per_sample(recipe, 64, 8)


def test_the_published_heads_figure() -> None:
    # shared by every description of the method's cost: 18.95 MFLOP a sample at width 768
    assert round(flop_per_sample(Recipe(width=768), 768, 8) / 1e6, 2) == 18.95
