"""Make the tiny CLIP again: ``python -m clipaffect.tiny_clip --help``.

Two steps, about 20 and 26 minutes on 2 cores: rendered portraits with captions, then training.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer

from clipaffect.assets import asset_file, ensure_asset
from clipaffect.tiny_clip.portraits import make_portraits
from clipaffect.tiny_clip.train import Recipe, train

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
Assets = Annotated[Path, typer.Option(help="Folder of fetched assets.")]


@app.command()
def portraits(
    out: Path,
    people: Annotated[int, typer.Option(min=2)] = 1000,
    stills: Annotated[int, typer.Option(min=1, help="Pictures of each person.")] = 60,
    processes: Annotated[int, typer.Option(min=1)] = 2,
    rig: Path = Path("resources/demo/head_rig.npz"),
    assets: Assets = Path("assets"),
) -> None:
    """Render the training pictures into a folder (3 GB)."""
    make_portraits(out, rig, ensure_asset("face-networks", assets), people, stills, processes)


@app.command(name="train")
def train_on(
    portraits: Path,
    out: Path,
    steps: Annotated[int, typer.Option(min=1)] = Recipe.steps,
    seed: int = Recipe.seed,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    assets: Assets = Path("assets"),
) -> None:
    """Train on a folder of portraits; OUT is a .safetensors file, its log lies beside it."""
    torch.set_num_threads(threads)
    start = asset_file(ensure_asset("mobilenet-v2", assets), "mobilenet-v2", "encoder.pth")
    print(json.dumps(train(portraits, start, out, Recipe(steps=steps, seed=seed))))


if __name__ == "__main__":
    app()
