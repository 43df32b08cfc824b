"""Options and settings that the commands of every stage share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from clipaffect.config import parse_config
from clipaffect.config.models import Config
from clipaffect.config.section import Section

Settings = Annotated[str, typer.Option("--settings", help="The stage's settings as JSON.")]
Out = Annotated[Path, typer.Option("--out", help="What to write.")]
StorePath = Annotated[
    Path, typer.Option("--store", envvar="CLIPAFFECT_STORE", help="The work store's folder.")
]
Assets = Annotated[
    Path, typer.Option("--assets", envvar="CLIPAFFECT_ASSETS", help="Folder of fetched assets.")
]

OwnAssets = Annotated[
    Path, typer.Option("--assets", envvar="CLIPAFFECT_ASSETS", help="Folder of fetched networks.")
]

SectionType = TypeVar("SectionType", bound=Section)


def whole_config(settings: str) -> Config:
    """The configuration in the settings that a rule passed."""
    return parse_config(json.loads(settings)["config"], "--settings")


def section(settings: str, name: str, model: type[SectionType]) -> SectionType:
    """One section of the settings that a rule passed; the Snakefile has validated them."""
    return model.model_validate(json.loads(settings)[name])
