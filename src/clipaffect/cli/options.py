"""Options and settings shared by the commands of all stages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clipaffect.config.stage_keys import StageSettings


Settings = Annotated[str, typer.Option("--settings", help="The stage's settings as JSON.")]
Out = Annotated[Path, typer.Option("--out", help="The file or folder to write.")]
StorePath = Annotated[
    Path, typer.Option("--store", envvar="CLIPAFFECT_STORE", help="The folder of the store.")
]
Assets = Annotated[
    Path, typer.Option("--assets", envvar="CLIPAFFECT_ASSETS", help="Folder of fetched assets.")
]

OwnAssets = Annotated[
    Path, typer.Option("--assets", envvar="CLIPAFFECT_ASSETS", help="Folder of fetched networks.")
]


def stage_settings(settings: str) -> StageSettings:
    """Parse the settings that a rule passed; imported late to keep ``--help`` fast."""
    from clipaffect.config.stage_keys import StageSettings

    return StageSettings(settings)
