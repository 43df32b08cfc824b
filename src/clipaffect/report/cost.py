"""What the heads and encoders of a run cost, counted; the time that they took is in timings/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from clipaffect.config.models import Config
from clipaffect.core.layout import Layout
from clipaffect.encoders.registry import encoder_cost
from clipaffect.features.build_table import feature_dimension
from clipaffect.report.results import Results
from clipaffect.training.build_head import build_head
from clipaffect.training.cost import flop_per_sample


def encoder_rows(config: Config) -> list[dict[str, Any]]:
    """One row for each encoder: parameters, operations for a face."""
    rows = []
    for name, encoder in config.encoders.items():
        cost = encoder_cost(encoder)
        rows.append(
            {
                "what": f"encoder {name}",
                "parameters": cost.parameters,
                "flop": cost.flop,
                "times": "each face",
            }
        )
    return rows


def head_rows(results: Results, folder: Path) -> list[dict[str, Any]]:
    """One row for each kind of MLP: parameters, operations for a frame and step, how many.

    Args:
        results: the heads.
        folder: ``results/<run>``, with the table that they were trained on.
    """
    config = results.config
    rows = []
    for name, task in results.tasks.items():
        outputs = len(task.task.targets)
        dimension = feature_dimension(Layout(folder).table(config.encoder, name).folder)
        for variant, recipe in config.training.recipes().items():
            if recipe.has_user_code:
                continue
            with torch.device("meta"):
                head = build_head(recipe, dimension, outputs, 0)
            own = task.heads[task.heads["variant"] == variant]
            rows.append(
                {
                    "what": f"head, {name}" + (f", {variant}" if variant else ""),
                    "parameters": sum(p.numel() for p in head.parameters()),
                    "flop": flop_per_sample(recipe, dimension, outputs),
                    "times": f"{len(own)} heads, {recipe.epochs} epochs; each frame and step",
                }
            )
    return rows
