"""Train one head: batches, schedule, history."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipaffect.config.models import Training
from clipaffect.tasks import Task
from clipaffect.training.head import DropoutMasks, Head
from clipaffect.training.losses import expression_losses, unit_losses
from clipaffect.training.sam import sam_step


@dataclass(frozen=True)
class TrainedHead:
    """A head and how it came about.

    Attributes:
        head: in evaluation mode.
        history: a row for each epoch.
        status: ``ok``, or ``non_finite`` if its loss stopped being a number.
    """

    head: Head
    history: list[dict[str, Any]]
    status: str


def batches(rows: int, size: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """Row numbers of each batch, shuffled by seed and epoch alone.

    A last batch of one row would have no variance for BatchNorm: it joins the one before.
    """
    order = torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(rows))
    starts = list(range(0, rows, size))
    if len(starts) > 1 and rows - starts[-1] == 1:
        starts.pop()
    for start, end in zip(starts, [*starts[1:], rows], strict=True):
        yield order[start:end]


def train_head(
    features: Tensor, labels: Tensor, task: Task, settings: Training, alpha: float, seed: int
) -> TrainedHead:
    """Train on features (N, d) float32 and labels (N, 1 or 12).

    AdamW; the learning rate follows half a cosine from ``learning_rate`` to
    ``final_learning_rate``, stepped per epoch. A loss that is not finite ends this head alone.
    """
    torch.set_num_threads(1)
    head = Head(
        features.shape[1], len(task.targets), settings.hidden_layers, settings.width, seed
    ).train()
    masks = DropoutMasks(seed, settings.dropout, settings.hidden_layers, settings.width)
    parameters = list(head.parameters())
    optimiser = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimiser, settings.epochs, settings.final_learning_rate
    )
    single_losses = unit_losses if task.multilabel else expression_losses
    history: list[dict[str, Any]] = []
    step = 0
    for epoch in range(settings.epochs):
        records = []
        for rows in batches(len(features), settings.batch, seed, epoch):
            x, y = features[rows], labels[rows]

            def losses(sam_pass: int, x: Tensor = x, y: Tensor = y, step: int = step) -> Tensor:
                drop = masks(step, sam_pass, len(x))
                return single_losses(head(x, drop, update_statistics=sam_pass == 0), y)

            record = sam_step(parameters, losses, optimiser, alpha, settings.rho)
            records.append(record)
            step += 1
            if not np.isfinite(record.cvar):
                break
        finite = all(bool(value.isfinite().all()) for value in head.state_dict().values())
        if not (finite and np.isfinite(records[-1].cvar)):
            history.append({"epoch": epoch + 1, "cvar": records[-1].cvar})
            return TrainedHead(head.eval(), history, "non_finite")
        history.append(
            {
                "epoch": epoch + 1,
                "learning_rate": schedule.get_last_lr()[0],
                "mean_loss": float(np.mean([r.mean_loss for r in records])),
                "cvar": float(np.mean([r.cvar for r in records])),
                "threshold": float(np.mean([r.threshold for r in records])),
                "gradient_norm": float(np.mean([r.gradient_norm for r in records])),
                "perturbed_cvar": float(np.mean([r.perturbed_cvar for r in records])),
            }
        )
        schedule.step()
    return TrainedHead(head.eval(), history, "ok")
