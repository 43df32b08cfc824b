"""Train the tiny CLIP: pictures and captions of the same face meet in one space.

Loss: the symmetric cross-entropy of Radford et al. 2021, with equal captions in a batch counted
as equally right (Yang et al. 2022, UniCL, eq. 2).
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from clipaffect.core.errors import UserError
from clipaffect.core.parquet import read_table
from clipaffect.core.progress import Progress
from clipaffect.core.tensors import write_tensors
from clipaffect.encoders import mobilenet
from clipaffect.encoders.captions import EXPRESSION_NAMES, expression_prompt
from clipaffect.encoders.kinds.open_clip import NORMALISATIONS
from clipaffect.encoders.tokenizer import tokenize
from clipaffect.encoders.untrained import create_untrained
from clipaffect.synthetic.captions import caption

MODEL = "clipaffect-tiny"
SIDE = 112
HIGHEST_SCALE = math.log(100)  # of the logits, as in CLIP
LOG_EVERY = 50
FROZEN_STAGES = 2  # of MobileNetV2's, and its stem; they see 56 and 28 pixels a side


@dataclass(frozen=True)
class Recipe:
    """How the network is trained; the values are those of the weights that ship.

    Attributes:
        steps: updates, each on ``batch`` pictures.
        warmup: of them, with a learning rate that rises from 0; then a cosine down to 0.
        held_out: share of the people who are not trained on.
    """

    steps: int = 2000
    batch: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    warmup: int = 60
    held_out: float = 0.04
    seed: int = 0


def augment(crops: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Network input (n, 3, SIDE, SIDE) of crops (n, H, W, 3) uint8, each moved and recoloured.

    A crop is shifted, scaled, turned a little, mirrored (no caption names a side); its
    brightness, contrast and colours change; of some a rectangle is blanked.
    """
    count = len(crops)

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    zoom, angle = uniform(0.84, 1.0), uniform(-0.08, 0.08)
    mirror = (torch.rand(count, generator=generator) < 0.5).float() * 2 - 1
    room = 1 - zoom
    theta = torch.stack(
        [
            torch.stack(
                [zoom * torch.cos(angle) * mirror, -zoom * torch.sin(angle), room * uniform(-1, 1)],
                1,
            ),
            torch.stack(
                [zoom * torch.sin(angle) * mirror, zoom * torch.cos(angle), room * uniform(-1, 1)],
                1,
            ),
        ],
        dim=1,
    )
    grid = functional.affine_grid(theta, [count, 3, SIDE, SIDE], align_corners=False)
    pictures = crops.permute(0, 3, 1, 2).float() / 255
    pictures = functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    grey = pictures.mean(1, keepdim=True)
    colour, contrast, light = (
        uniform(*bounds)[:, None, None, None] for bounds in ((0, 1.4), (0.6, 1.4), (-0.15, 0.15))
    )
    pictures = grey + (pictures - grey) * colour
    middle = pictures.mean((1, 2, 3), keepdim=True)
    pictures = (middle + (pictures - middle) * contrast + light).clamp(0, 1)
    blanked = (torch.rand(count, generator=generator) < 0.25).nonzero()[:, 0].tolist()
    for k in blanked:
        height, width = torch.randint(12, 44, (2,), generator=generator).tolist()
        top, left = torch.randint(0, SIDE - 44, (2,), generator=generator).tolist()
        pictures[k, :, top : top + height, left : left + width] = pictures[k].mean()
    return normalise(pictures)


def normalise(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures in [0, 1] as the network wants them: CLIP's mean and deviation."""
    mean, deviation = (torch.tensor(v)[:, None, None] for v in NORMALISATIONS["clip"])
    return (pictures - mean) / deviation


def contrastive_loss(
    images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, captions: list[str]
) -> torch.Tensor:
    """Symmetric cross-entropy over a batch; equal captions share the target.

    Args:
        images, texts: unit vectors (n, d), row by row of the same face.
        scale: of the logits, CLIP's exp(temperature).
        captions: the n texts, to tell which are equal.
    """
    numbers = torch.tensor(np.unique(captions, return_inverse=True)[1])
    same = (numbers[:, None] == numbers[None]).float()
    target = same / same.sum(1, keepdim=True)
    logits = scale * images @ texts.T
    both = (logits, logits.T)
    return sum((functional.cross_entropy(one, target) for one in both), torch.tensor(0.0)) / 2


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then half a cosine to zero."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    share = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def _batches(numbers: np.ndarray, recipe: Recipe) -> Iterator[np.ndarray]:
    rng = np.random.default_rng((recipe.seed, 1))
    while True:
        order = rng.permutation(numbers)
        for start in range(0, len(order) - recipe.batch + 1, recipe.batch):
            yield order[start : start + recipe.batch]


def _shows(rows: pd.DataFrame) -> list[tuple[str, dict[int, float]]]:
    units = [name for name in rows.columns if name.startswith("AU")]
    numbers = [int(name.removeprefix("AU")) for name in units]
    values = rows[units].to_numpy().tolist()
    return [
        (expression, dict(zip(numbers, row, strict=True)))
        for expression, row in zip(rows["expression"], values, strict=True)
    ]


def train(portraits: Path, start: Path, out: Path, recipe: Recipe) -> dict[str, float]:
    """Train on ``make_portraits``'s folder; writes the weights and a log beside them.

    Args:
        portraits: folder of ``crops.npy`` and ``shows.parquet``.
        start: MobileNetV2 as trained on ImageNet: from random weights, 60,000 captions were too
            few for the loss to leave that of chance.
        out: the weights, half precision, as safetensors; the log is beside it, ``.csv``.
        recipe: how.

    Returns:
        Scores on the people who were held out (``zero_shot``).
    """
    torch.manual_seed(recipe.seed)
    crops = np.load(portraits / "crops.npy", mmap_mode="r")
    rows = read_table(portraits / "shows.parquet")
    shows = _shows(rows)
    people = np.sort(rows["person"].unique())
    kept = people[: round(len(people) * (1 - recipe.held_out))]
    training = np.flatnonzero(rows["person"].isin(kept))
    held_out = np.flatnonzero(~rows["person"].isin(kept))
    if len(training) < recipe.batch or not len(held_out):
        raise UserError(
            f"{len(training)} crops to train on and {len(held_out)} of people held out",
            where=portraits,
            fix=f"render more people: training wants at least a batch of {recipe.batch}, and "
            "somebody to be held out",
        )
    model: Any = create_untrained(MODEL)
    trunk = model.visual.trunk
    trunk.load_state_dict(mobilenet.load_state(start, list(trunk.state_dict())), strict=True)
    _freeze_first_stages(trunk)
    # oneDNN's backward convolutions take a third less time.
    model.visual.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(_groups(model, recipe), betas=(0.9, 0.98), eps=1e-6)
    generator = torch.Generator().manual_seed(recipe.seed)
    rng = np.random.default_rng((recipe.seed, 2))
    batches = _batches(training, recipe)
    out.parent.mkdir(parents=True, exist_ok=True)
    losses: list[float] = []
    started = time.process_time()
    with (
        out.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file,
        Progress("steps", recipe.steps) as progress,
    ):
        log = csv.writer(file)
        log.writerow(["step", "pictures", "loss", "learning_rate", "cpu_seconds"])
        for step in range(recipe.steps):
            batch = np.sort(next(batches))
            captions = [caption(shows[k][0], shows[k][1], rng) for k in batch]
            inputs = augment(torch.from_numpy(crops[batch]), generator)
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, recipe)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                images = model.encode_image(inputs, normalize=True)
                texts = model.encode_text(tokenize(captions), normalize=True)
            scale = model.logit_scale.exp()
            loss = contrastive_loss(images.float(), texts.float(), scale, captions)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, HIGHEST_SCALE)
            losses.append(loss.item())
            progress.advance()
            if (step + 1) % LOG_EVERY == 0:
                spent = time.process_time() - started
                mean = f"{np.mean(losses[-LOG_EVERY:]):.4f}"
                rate = f"{learning_rate(step, recipe):.2e}"
                log.writerow([step + 1, (step + 1) * recipe.batch, mean, rate, f"{spent:.0f}"])
                file.flush()
    model.eval()
    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    write_tensors(out, state)
    return zero_shot(model, crops[held_out], rows.iloc[held_out])


def _freeze_first_stages(trunk: Any) -> None:
    """Keep ImageNet's edges and textures: a step then takes 2.0 instead of 3.2 CPU-seconds."""
    for stage in (trunk.conv_stem, trunk.bn1, *trunk.blocks[:FROZEN_STAGES]):
        stage.requires_grad_(False).eval()


def _groups(model: Any, recipe: Recipe) -> list[dict[str, Any]]:
    """Weight decay for matrices alone, as in CLIP."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1]
    others = [p for p in trained if p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


@torch.inference_mode()
def zero_shot(model: Any, crops: np.ndarray, rows: pd.DataFrame) -> dict[str, float]:
    """How often the nearest of seven prompts is the expression that was shown (chance 1/7).

    Args:
        crops: (n, H, W, 3) uint8.
        rows: their ``expression``; those without one are left out.
    """
    names = list(EXPRESSION_NAMES)
    texts = model.encode_text(tokenize([expression_prompt(n) for n in names]), normalize=True)
    shown = rows["expression"].isin(names).to_numpy()
    hits: list[bool] = []
    for start in range(0, int(shown.sum()), 256):
        part = torch.from_numpy(crops[shown][start : start + 256]).permute(0, 3, 1, 2).float() / 255
        small = functional.interpolate(part, SIDE, mode="bicubic", antialias=True).clamp(0, 1)
        images = model.encode_image(normalise(small), normalize=True)
        found = (images @ texts.T).argmax(1).tolist()
        truth = rows["expression"][shown].iloc[start : start + 256]
        hits.extend(names[k] == name for k, name in zip(found, truth, strict=True))
    return {
        "people": rows["person"].nunique(),
        "crops": len(hits),
        "accuracy": float(np.mean(hits)),
    }
