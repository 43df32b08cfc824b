"""Commands for runs in DVC."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipaffect.cli.options import Out

dvc_app = typer.Typer(no_args_is_help=True, help="A run as DVC stages.")
DEMO = Path("config/config.yaml")
Configuration = Annotated[Path, typer.Argument(help="The run's configuration file.")]


@dvc_app.command()
def stages(config: Path) -> None:
    """Write runs/<run>/{config.yaml,dvc.yaml}: a configuration of your own as DVC stages."""
    from clipaffect.ops.dvc.stages import write_stages

    print(f"dvc repro {write_stages(config, Path()) / 'dvc.yaml'}")


@dvc_app.command()
def record(config: Configuration = DEMO) -> None:
    """Register the finished results of a plain Snakemake run in DVC."""
    from clipaffect.ops.dvc.record import record_run

    print(f"{record_run(config)} is written: add it to git, then 'dvc push'")


@dvc_app.command()
def adopt(config: Configuration = DEMO) -> None:
    """After 'dvc pull': tell Snakemake that the results are finished."""
    from clipaffect.ops.dvc.record import adopt_run

    adopt_run(config)
    print("Snakemake has nothing to do")


@dvc_app.command()
def inventory(config: Path, out: Out) -> None:
    """Write the digest of names, sizes and times of a run's data: the first stage of its own."""
    from clipaffect.ops.dvc.stages import check_stages, write_inventory

    check_stages(config, Path())
    write_inventory(config, out)
