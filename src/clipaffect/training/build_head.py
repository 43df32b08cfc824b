"""The head of a recipe."""

from __future__ import annotations

import torch
from torch import nn

from clipaffect.config.training import Recipe
from clipaffect.training.mlp_head import Head
from clipaffect.training.user_code import load_class


def build_head(recipe: Recipe, inputs: int, outputs: int, seed: int) -> nn.Module:
    """The head of a recipe: the MLP, or the user's ``ClassName(inputs, outputs)``."""
    if recipe.head == "mlp":
        return Head(inputs, outputs, recipe.hidden_layers, recipe.width, seed)
    made = load_class(recipe.head, "training.head")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return made(inputs, outputs)
