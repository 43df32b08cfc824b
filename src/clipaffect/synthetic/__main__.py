"""Make the demo's data and train the tiny CLIP: ``python -m clipaffect.synthetic --help``."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import torch
import typer

from clipaffect.core.assets import asset_file
from clipaffect.core.fetch_asset import ensure_asset
from clipaffect.synthetic.make_data import (
    SECONDS,
    SEED,
    TRAIN_PEOPLE,
    VALIDATION_PEOPLE,
    generate,
)
from clipaffect.synthetic.portraits import make_portraits
from clipaffect.synthetic.train_tiny_clip import Recipe, train

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


@app.callback(help=__doc__)
def log_progress() -> None:
    """Also log progress."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")


Assets = Annotated[Path, typer.Option(help="Folder of fetched assets.")]


@app.command()
def make_data(
    out: Annotated[Path, typer.Argument(help="Folder for videos/ and annotations/.")],
    rig: Annotated[Path, typer.Option(help="The head rig.")] = Path("resources/demo/head_rig.npz"),
    train_people: Annotated[
        int, typer.Option(min=1, help="Number of training people.")
    ] = TRAIN_PEOPLE,
    validation_people: Annotated[
        int, typer.Option(min=1, help="Number of validation people.")
    ] = VALIDATION_PEOPLE,
    seconds: Annotated[float, typer.Option(min=1.0, help="Mean length of a clip.")] = SECONDS,
    seed: Annotated[int, typer.Option(help="Random seed.")] = SEED,
    processes: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Render a labelled data set of any size, laid out on disk as Aff-Wild2 is.

    Rendering the demo data takes 15 minutes on 2 cores. docs/demo.md describes the data.
    """
    generate(out, rig, train_people, validation_people, seconds, seed, processes)


@app.command()
def render_portraits(
    out: Path,
    people: Annotated[int, typer.Option(min=2)] = 2000,
    stills: Annotated[int, typer.Option(min=1, help="Pictures of each person.")] = 30,
    processes: Annotated[int, typer.Option(min=1)] = 2,
    rig: Path = Path("resources/demo/head_rig.npz"),
    assets: Assets = Path("assets"),
) -> None:
    """Render the tiny CLIP's training images into a folder (3 GB, 45 minutes on 2 cores)."""
    make_portraits(out, rig, ensure_asset("face-networks", assets), people, stills, processes)


@app.command()
def train_tiny_clip(
    portraits: Path,
    out: Path,
    steps: Annotated[int, typer.Option(min=1)] = Recipe.steps,
    seed: int = Recipe.seed,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    assets: Assets = Path("assets"),
) -> None:
    """Train the tiny CLIP on a folder of portraits (75 minutes on two cores).

    OUT is a .safetensors file; its log lies next to it.
    """
    torch.set_num_threads(threads)
    start = asset_file(ensure_asset("mobilenet-v2", assets), "mobilenet-v2", "encoder.pth")
    print(json.dumps(train(portraits, start, out, Recipe(steps=steps, seed=seed))))


if __name__ == "__main__":
    app()
