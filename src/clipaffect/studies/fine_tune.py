"""Stage ``fine_tuning``: tune the encoder's last block with the head; compare with a frozen one.

Both arms start from the run's own head and continue with the same frames, batches, dropout masks
and rates. In one of them, the last block is trained as well; this is the only difference.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy, deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from clipaffect.config.encoders import Encoder
from clipaffect.config.models import Config
from clipaffect.config.training import Recipe
from clipaffect.core.frame_status import KEYS
from clipaffect.core.gpu import one_device
from clipaffect.core.layout import Layout
from clipaffect.core.parquet import write_table
from clipaffect.core.progress import Progress
from clipaffect.core.setting import Setting
from clipaffect.core.split_names import TRAIN, VALIDATION
from clipaffect.core.tasks import Task
from clipaffect.encoders.kinds.open_clip import build_tower, preparation
from clipaffect.evaluation.fold_data import named_counts
from clipaffect.evaluation.person_counts import NOTHING
from clipaffect.faces.crops import decode_image
from clipaffect.features.build_table import folds_of
from clipaffect.studies.disturb_crops import find_crops
from clipaffect.studies.headline_heads import head_counts, headline_heads, spread_over_people
from clipaffect.studies.last_block import KeptInputs, last_block, run_from, run_keeping
from clipaffect.training.backends.autograd import AutogradLearner, build_objective
from clipaffect.training.data import batches, read_split, training_data
from clipaffect.training.sam import BETAS

FRAMES = 48  # of each person and split, evenly spread
EPOCHS = 2
RATE = 1e-4  # of the block and of the head; set beforehand, not tuned
AS_TRAINED, GOES_ON, TUNED = "", "frozen, goes on", "last block tuned"

Embed = Callable[[np.ndarray], Tensor]


def _inputs(
    crops: list[bytes], rows: np.ndarray, prepare: Callable[[np.ndarray], Tensor]
) -> Tensor:
    pictures = [decode_image(crops[row]) for row in rows]
    ready = torch.stack([prepare(own) for own in pictures if own is not None])
    return ready.to(memory_format=torch.channels_last)


def _in_order(crops: list[bytes], batch: int) -> list[np.ndarray]:
    """Rows of all crops, in batches."""
    return np.split(np.arange(len(crops)), range(batch, len(crops), batch))


def tune(
    visual: nn.Module | None,
    head: nn.Module,
    embed: Embed,
    labels: Tensor,
    task: Task,
    recipe: Recipe,
    alpha: float,
    seed: int,
    after_batch: Callable[[int], None],
) -> None:
    """Train a head further, and the last block of ``visual`` with it, in place.

    AdamW on the recipe's own objective, without SAM.

    Args:
        visual: the image tower; None if it is frozen.
        head: the trained one.
        embed: features (n, d) of some of the frames, with a gradient where the tower has one.
        labels: (N, 1) or (N, targets) of the frames.
        task: the task.
        recipe: the head's.
        alpha: CVaR's level.
        seed: of batches and dropout.
        after_batch: called with the number of frames done.
    """
    own = list(head.parameters())
    if visual is not None:
        own += list(last_block(visual).parameters())
    for weight in own:
        weight.requires_grad_(True)
    optimiser = torch.optim.AdamW(own, lr=RATE, betas=BETAS, weight_decay=recipe.weight_decay)
    objective = build_objective(recipe, alpha, labels, task)
    learner = AutogradLearner(head, objective, recipe, seed)  # for its dropout
    step = 0
    for epoch in range(EPOCHS):
        head.train()
        for rows in batches(np.arange(len(labels)), recipe.batch, seed, epoch):
            features = embed(rows.numpy())
            optimiser.zero_grad()
            learner.evaluate(features, labels[rows], step, 0).surrogate.backward()
            optimiser.step()
            step += 1
            after_batch(len(rows))
    head.eval()


def fine_tune(
    config: Config, task: Task, folder: Path, faces: list[Path], assets: Path, out: Path
) -> None:
    """Write to ``out`` each person's counts of both arms, as ``clusters.parquet`` has them.

    ``variant`` is ``AS_TRAINED``, ``GOES_ON`` or ``TUNED``. The tower computes in float32.

    Args:
        config: of the run.
        task: one of its tasks.
        folder: ``results/<run>``, with tables and heads.
        faces: every shard.
        assets: folder of fetched assets.
        out: Parquet file.
    """
    torch.set_num_threads(1)
    name, settings = config.encoder, config.training
    encoder = config.encoders[name]
    table = Layout(folder).table(name, task.name).folder
    fold = folds_of(table)[0]
    train, validation = (read_split(table, task, s, fold) for s in (TRAIN, VALIDATION))
    heads = list(headline_heads(folder, settings, task, fold, train.features.shape[1]))
    if not heads:
        write_table(out, named_counts(Setting(""), NOTHING))
        return
    recipe, alpha = settings.recipes()[""], settings.headline_alpha
    usable = training_data(train, validation, task, recipe).rows
    own = usable[spread_over_people(train.rows.iloc[usable], FRAMES)]
    asked = spread_over_people(validation.rows, FRAMES)
    learnt, y = train.rows.iloc[own], train.labels[torch.from_numpy(own)]
    scored, truth = validation.rows.iloc[asked], validation.labels.numpy()[asked]
    crops, theirs = (find_crops(rows[KEYS], faces) for rows in (learnt, scored))
    out.parent.mkdir(parents=True, exist_ok=True)
    work = len(crops) + len(theirs) + len(heads) * (EPOCHS * len(crops) + len(theirs))
    parts: list[pd.DataFrame] = []
    with one_device(True) as device, Progress(f"{task.name} crops", work) as bar:
        tower = _Tower(encoder, assets, device, crops[:1], bar)
        here, beyond = (KeptInputs(len(source), out.parent) for source in (crops, theirs))
        frozen, there = tower.features(crops, here), tower.features(theirs, beyond)
        for seed, head in heads:
            again, tuned = deepcopy(head), deepcopy(head)
            same = (y, task, recipe, alpha, seed)
            tune(
                None, again, lambda rows: frozen[torch.from_numpy(rows)], *same, lambda count: None
            )
            own = tower.copy()
            tune(own.visual, tuned, lambda rows, t=own: t.run(here, rows), *same, bar.advance)  # type: ignore[misc]
            with torch.inference_mode():
                moved = torch.cat(
                    [own.run(beyond, rows) for rows in _in_order(theirs, encoder.batch)]
                ).clone()
            bar.advance(len(theirs))
            arms = ((AS_TRAINED, head, there), (GOES_ON, again, there), (TUNED, tuned, moved))
            for variant, arm, x in arms:
                counted = head_counts(arm, x, truth, scored["group"].to_numpy(), task)
                setting = Setting("head", name, variant, alpha, seed)
                parts.append(named_counts(setting, counted))
    write_table(out, pd.concat(parts, ignore_index=True))


class _Tower:
    """An image tower whose last block is entered with what the others gave once.

    Args:
        encoder: the tower.
        assets: folder of fetched assets.
        device: where it runs.
        crop: any one, to enter the tower with.
        bar: told of every crop that went through the whole tower.
    """

    def __init__(
        self, encoder: Encoder, assets: Path, device: str, crop: list[bytes], bar: Progress
    ) -> None:
        visual = build_tower(encoder, assets).float().eval().requires_grad_(False)
        self.prepare = preparation(visual)
        # Twice as fast on a CPU: see ``encoders/kinds/open_clip.py``.
        self.visual = visual.to(device, memory_format=torch.channels_last)
        self.batch, self.device, self.bar = encoder.batch, device, bar
        self.first = _inputs(crop, np.arange(1), self.prepare).to(device)

    def copy(self) -> _Tower:
        """Another, whose weights can be changed."""
        other = copy(self)
        other.visual = deepcopy(self.visual)
        return other

    def features(self, crops: list[bytes], inputs: KeptInputs) -> Tensor:
        """Features (n, d) of crops; what enters the last block is kept in ``inputs``."""
        found = []
        with torch.inference_mode():
            for rows in _in_order(crops, self.batch):
                ready = _inputs(crops, rows, self.prepare).to(self.device)
                own, before = run_keeping(self.visual, ready)
                inputs.put(rows, before)
                found.append(own.cpu())
                self.bar.advance(len(rows))
        return torch.cat(found).clone()

    def run(self, inputs: KeptInputs, rows: np.ndarray) -> Tensor:
        """Features of some kept inputs, through the last block alone."""
        return run_from(self.visual, self.first, inputs[rows].to(self.device)).cpu()
