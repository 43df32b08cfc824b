"""Commands from a finished run to anybody's video: ``export-model`` and ``predict``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from clipaffect.cli.options import Out, OwnAssets
from clipaffect.core.errors import UserError
from clipaffect.core.layout import DEFAULT_ASSETS

if TYPE_CHECKING:
    pass


class People(StrEnum):
    """Whose rows are wanted."""

    ALL = "all"
    MAIN = "main"


def export_model(
    results: Annotated[Path, typer.Argument(help="A finished run, such as results/demo.")],
    out: Out,
    assets: OwnAssets = DEFAULT_ASSETS,
    include_weights: Annotated[
        bool, typer.Option("--include-weights", help="Copy the encoder's own weights file too.")
    ] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write ONNX files as well.")] = False,
) -> None:
    """Write a run's heads and all that turns a video into their answers: a model to hand on."""
    from clipaffect.bundle.export_model import export_model

    print(export_model(results, assets, out, include_weights=include_weights, onnx=onnx))


def predict(
    inputs: Annotated[list[Path], typer.Argument(help="Videos, images, or folders of them.")],
    model: Annotated[
        Path, typer.Option(help="A bundle that 'clipaffect export-model' has written.")
    ],
    out: Annotated[Path, typer.Option("--out", help="A folder for tables and pages.")],
    people: Annotated[
        People, typer.Option(help="Everybody, or the one whose face fills most of the video.")
    ] = People.ALL,
    rate: Annotated[
        float | None,
        typer.Option(min=0.01, help="Look at so many frames a second; by default as in training."),
    ] = None,
    heads: Annotated[
        bool, typer.Option("--heads", help="Write the scores of every single head too.")
    ] = False,
    pictures: Annotated[
        bool, typer.Option(help="Whether the pages may show the video and its faces.")
    ] = True,
    weights: Annotated[
        list[str] | None,
        typer.Option(help="ENCODER=FILE: weights that the bundle names and does not hold."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Videos at a time; by default one for each core.")
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(help="A work store that keeps finished pieces, such as the runs' own."),
    ] = None,
    assets: OwnAssets = DEFAULT_ASSETS,
) -> None:
    """Expressions and action units of videos and images: tables, and a page for each video.

    Ends with 0 if everything was answered, with 1 if summary.csv names files that could not be,
    with 2 if nothing could be done. The same command goes on after an interruption.
    """
    from clipaffect.bundle.load import open_bundle
    from clipaffect.prediction.batch import cores, is_failure, predict_files, wanted_of

    opened = open_bundle(model, _weights(weights or []))
    wanted = wanted_of(
        opened, assets, people=people.value, rate=rate, heads=heads, pictures=pictures
    )
    summary = predict_files(inputs, wanted, out, store, jobs or cores())
    console = Console()
    for outcome, own in summary.groupby("outcome", sort=False):
        console.print(f"{outcome}: {len(own)} files", highlight=False)
        if outcome != "ok":
            for row in own.head(5).itertuples():
                console.print(f"  {row.file}: {row.message}", highlight=False, markup=False)
    print(out / "index.html")
    if is_failure(summary):
        print(f"some files were not answered: see {out / 'summary.csv'}")
        raise typer.Exit(1)


def _weights(given: list[str]) -> dict[str, Path]:
    found = {}
    for word in given:
        name, sign, path = word.partition("=")
        if not (name and sign and path):
            raise UserError(
                f"'{word}' is not ENCODER=FILE",
                where="--weights",
                fix="name the encoder and its file, such as clip=ViT-L-14.safetensors",
            )
        found[name] = Path(path)
    return found
