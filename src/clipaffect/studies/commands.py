"""Commands of the studies, called by the workflow's rules."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from clipaffect.options import Assets, Out, Settings, whole_config

study_app = typer.Typer(no_args_is_help=True, help="The studies of a run.")


# By the study's answer; the others have one page in common.
PAGES = {
    "levels": ("levels_page", "write_levels"),
    "points": ("points_page", "write_points"),
    "transfer": ("transfer", "write_transfer"),
}
# Imported by name, so that a command loads what its own page needs.
CARDS = {
    "costs": ("costs", "write_costs"),
    "fine-tuning": ("fine_tune_page", "write_fine_tuning"),
    "gain": ("gain", "write_gain"),
    "limits": ("limits_page", "write_limits"),
    "tail-card": ("tail_page", "write_tail_card"),
    "traced-step": ("traced_step", "write_traced_step"),
}


@study_app.command()
def page(settings: Settings, name: str, study: str, results: Path, out: Out) -> None:
    """Write a study's page: its question, the answer, charts and tables."""
    from clipaffect.config.studies import Study, plan_study

    config = whole_config(settings)
    planned = plan_study(config, name, Study.model_validate_json(study))
    module, function = PAGES.get(planned.study.answer, ("pages", "write_study"))
    write = getattr(import_module(f"clipaffect.studies.{module}"), function)
    write(planned, config.run, results, out)


@study_app.command()
def card(settings: Settings, name: str, results: Path, out: Out) -> None:
    """Write one of the cards."""
    module, function = CARDS[name]
    write = getattr(import_module(f"clipaffect.studies.{module}"), function)
    write(whole_config(settings), results, out)


@study_app.command()
def slices(settings: Settings, study: str, results: Path, out: Out) -> None:
    """Write the card on slices of the loss around the heads of the study of sharpness."""
    from clipaffect.config.studies import Study
    from clipaffect.studies.slices import write_slices

    write_slices(whole_config(settings), Study.model_validate_json(study), results, out)


@study_app.command()
def disturb(settings: Settings, results: Path, faces: list[Path], assets: Assets, out: Out) -> None:
    """Score the headline's heads on disturbed crops."""
    from clipaffect.studies.limits import disturb_crops

    config = whole_config(settings)
    name = config.encoder
    disturb_crops(
        config.training, config.encoders[name], name, list(config.tasks().values()), results,
        faces, assets, out,
    )  # fmt: skip


@study_app.command()
def tune(
    settings: Settings, task: str, results: Path, faces: list[Path], assets: Assets, out: Out
) -> None:
    """Tune the encoder's last block with the headline's heads, beside a frozen one."""
    from clipaffect.studies.fine_tune import fine_tune

    config = whole_config(settings)
    name = config.encoder
    fine_tune(
        config.training, config.encoders[name], name, config.tasks()[task], results, faces,
        assets, out,
    )  # fmt: skip


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
