"""Commands of the studies, called by the workflow's rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from clipaffect.config import parse_config
from clipaffect.config.models import Config
from clipaffect.options import Out, Settings

study_app = typer.Typer(no_args_is_help=True, help="The studies of a run.")


def _config(settings: str) -> Config:
    return parse_config(json.loads(settings)["config"], "--settings")


@study_app.command()
def page(settings: Settings, name: str, study: str, results: Path, out: Out) -> None:
    """Write a study's page: its question, the answer, charts and tables."""
    from clipaffect.config.studies import Study
    from clipaffect.studies.pages import write_study

    write_study(_config(settings), name, Study.model_validate_json(study), results, out)


@study_app.command()
def card(settings: Settings, name: str, results: Path, out: Out) -> None:
    """Write one of the cards: tail-card, gain, traced-step."""
    from clipaffect.studies.gain import write_gain
    from clipaffect.studies.tail_page import write_tail_card
    from clipaffect.studies.traced_step import write_traced_step

    cards = {"tail-card": write_tail_card, "gain": write_gain, "traced-step": write_traced_step}
    cards[name](_config(settings), results, out)


@study_app.command()
def slices(settings: Settings, study: str, results: Path, out: Out) -> None:
    """Write the card on slices of the loss around the heads of the study of sharpness."""
    from clipaffect.config.studies import Study
    from clipaffect.studies.slices import write_slices

    write_slices(_config(settings), Study.model_validate_json(study), results, out)


@study_app.command()
def index(
    run: str,
    out: Out,
    answers: Annotated[list[Path] | None, typer.Argument()] = None,
    wrong: Annotated[str, typer.Option(help="Studies that cannot be run, as JSON.")] = "{}",
) -> None:
    """Write the page that lists the studies of a run."""
    from clipaffect.studies.pages import write_index

    write_index(run, answers or [], json.loads(wrong), out)
