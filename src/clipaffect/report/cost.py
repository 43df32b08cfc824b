"""What the heads and encoders of a run cost, counted; the time that they took is in timings/."""

from __future__ import annotations

from typing import Any

import torch

from clipaffect.encoders.cost import encoder_cost
from clipaffect.report.results import Results
from clipaffect.training.cost import flop_per_sample
from clipaffect.training.learner import build_head


def cost_rows(results: Results) -> list[dict[str, Any]]:
    """One row for each encoder and kind of head: parameters, operations for a frame, how many."""
    config = results.config
    rows = []
    dimension = 0
    parts = config.features.join.get(config.encoder, (config.encoder,))
    for name, encoder in config.encoders.items():
        cost = encoder_cost(encoder)
        dimension += cost.dimension if name in parts else 0
        rows.append(
            {"what": f"encoder {name}", "parameters": cost.parameters, "flop": cost.flop,
             "times": "once a face"}
        )  # fmt: skip
    if not dimension:  # features from elsewhere
        return rows
    for name, task in results.tasks.items():
        outputs = len(task.task.targets)
        for variant, recipe in config.training.recipes().items():
            if recipe.has_user_code:
                continue
            with torch.device("meta"):
                head = build_head(recipe, dimension, outputs, 0)
            own = task.heads[task.heads["variant"] == variant]
            rows.append(
                {"what": f"head, {name}" + (f", {variant}" if variant else ""),
                 "parameters": sum(p.numel() for p in head.parameters()),
                 "flop": flop_per_sample(recipe, dimension, outputs),
                 "times": f"{len(own)} heads, {recipe.epochs} epochs, a frame and step"}
            )  # fmt: skip
    return rows
