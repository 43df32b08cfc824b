"""Operations of a step, counted by torch's own counter."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from clipaffect.config.training import Recipe
from clipaffect.tasks import EXPR
from clipaffect.training.cost import flop_per_sample
from clipaffect.training.head import Head
from clipaffect.training.learner import ReferenceLearner, build_objective


def test_operations_are_what_torch_counts() -> None:
    for rho in (0.0, 0.1):
        recipe = Recipe(width=32, hidden_layers=3, rho=rho, dropout=0.0)
        head = Head(16, 8, 3, 32).train()
        labels = torch.zeros(10, 1, dtype=torch.int8)
        learner = ReferenceLearner(head, build_objective(recipe, 0.5, labels, EXPR), recipe, 0)
        with FlopCounterMode(display=False) as counter:
            learner.step(torch.randn(10, 16), labels, 0, 1e-3, False)
        assert counter.get_total_flops() == 10 * flop_per_sample(recipe, 16, 8)


def test_the_published_heads_figure() -> None:
    # shared by every description of the method's cost: 18.95 MFLOP a sample at width 768
    assert round(flop_per_sample(Recipe(width=768), 768, 8) / 1e6, 2) == 18.95
