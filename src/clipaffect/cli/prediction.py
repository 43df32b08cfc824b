"""Commands that apply a finished run to new videos: ``export-model`` and ``predict``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from clipaffect.cli.options import Out, OwnAssets
from clipaffect.core.errors import UserError
from clipaffect.core.layout import DEFAULT_ASSETS

FEW = 5  # files that are named for each outcome


class People(StrEnum):
    """Which people to include."""

    ALL = "all"
    MAIN = "main"


def export_model(
    results: Annotated[
        Path, typer.Argument(help="The results folder of a finished run, such as results/demo.")
    ],
    out: Out,
    assets: OwnAssets = DEFAULT_ASSETS,
    include_weights: Annotated[
        bool, typer.Option("--include-weights", help="Also copy the encoder's weights file.")
    ] = False,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also write ONNX files.")] = False,
) -> None:
    """Export a run's heads, with everything needed to predict from video, as a model to share."""
    from clipaffect.bundle.export_model import export_model

    print(export_model(results, assets, out, include_weights=include_weights, onnx=onnx))


def predict(
    inputs: Annotated[list[Path], typer.Argument(help="Videos, images, or folders of them.")],
    model: Annotated[
        str,
        typer.Option(
            help="The results folder of a finished run, a folder written by 'clipaffect "
            "export-model', or 'zero-shot' for CLIP with text prompts (no training)."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder for tables and pages.")],
    people: Annotated[
        People,
        typer.Option(help="Everyone, or only the person whose face fills most of the video."),
    ] = People.ALL,
    rate: Annotated[
        float | None,
        typer.Option(min=0.01, help="Frames to sample per second; the default is as in training."),
    ] = None,
    heads: Annotated[
        bool, typer.Option("--heads", help="Also write the scores of each individual head.")
    ] = False,
    pictures: Annotated[
        bool, typer.Option(help="Show the video and its faces on the pages.")
    ] = True,
    landmarks: Annotated[
        bool, typer.Option("--landmarks", help="Also write all points of the face mesh.")
    ] = False,
    overlay: Annotated[
        bool,
        typer.Option("--overlay", help="Also write a copy of each video, with predictions drawn."),
    ] = False,
    groups: Annotated[
        Path | None,
        typer.Option(
            help="A table with a column 'file' and columns of your own (condition, subject), which "
            "are added to all_frames and people.csv."
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(help="ENCODER=FILE: weights that the bundle names but does not contain."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Videos to process in parallel; by default one for each core."),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(help="A store to cache finished work in, such as that of the runs."),
    ] = None,
    configfile: Annotated[
        Path | None,
        typer.Option(
            help="Configuration file with the encoder and prompts; only with --model zero-shot. "
            "The default encoder is OpenAI's CLIP ViT-L/14, downloaded on first use."
        ),
    ] = None,
    assets: OwnAssets = DEFAULT_ASSETS,
) -> None:
    """Predict expressions and action units from videos and images.

    Writes tables, and a page for each video. Exits with 0 if every file was processed, with 1 if
    summary.csv lists files that failed, and with 2 if nothing could be done. After an
    interruption, run the same command again to resume.
    """
    from clipaffect.bundle.trained_on import trained_on
    from clipaffect.prediction.batch import cores, is_failure, predict_files, wanted_of
    from clipaffect.prediction.open_model import open_model

    opened = open_model(model, _weights(weights or []), configfile, assets)
    wanted = wanted_of(
        opened,
        assets,
        people=people.value,
        rate=rate,
        heads=heads,
        pictures=pictures,
        landmarks=landmarks,
        overlay=overlay,
        groups=groups,
    )
    try:
        summary = predict_files(inputs, wanted, out, store, jobs or cores())
    except KeyboardInterrupt:
        print("stopped; finished files are kept; to resume, run the same command again")
        raise typer.Exit(130) from None
    console = Console()
    for outcome, own in summary.groupby("outcome", sort=False):
        files = "file" if len(own) == 1 else "files"
        console.print(f"{outcome}: {len(own)} {files}", highlight=False)
        told = own if outcome != "ok" else own[own["message"].astype(bool)]
        for row in told.head(FEW).itertuples():
            line = f"  {row.file}: {row.message}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        if len(told) > FEW:
            console.print(f"  ... and {len(told) - FEW} more: see summary.csv", highlight=False)
    print(f"model: {trained_on(opened.bundle)}")
    print(out / "index.html")
    if is_failure(summary):
        print(f"some files could not be processed: see {out / 'summary.csv'}")
        raise typer.Exit(1)


def _weights(given: list[str]) -> dict[str, Path]:
    found = {}
    for word in given:
        name, sign, path = word.partition("=")
        if not (name and sign and path):
            raise UserError(
                f"'{word}' is not ENCODER=FILE",
                where="--weights",
                fix="give the encoder's name and its file, such as clip=ViT-L-14.safetensors",
            )
        found[name] = Path(path)
    return found
