"""Commands that manage runs with DVC."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipaffect.cli.options import Out

dvc_app = typer.Typer(no_args_is_help=True, help="Manage a run with DVC.")
DEMO = Path("config/config.yaml")
Configuration = Annotated[Path, typer.Argument(help="The run's configuration file.")]


@dvc_app.command()
def stages(config: Path) -> None:
    """Write DVC stages for your own configuration to runs/<run>/{config.yaml,dvc.yaml}."""
    from clipaffect.ops.dvc.stages import write_stages

    print(f"dvc repro {write_stages(config, Path()) / 'dvc.yaml'}")


@dvc_app.command()
def record(config: Configuration = DEMO) -> None:
    """Register the results of a finished Snakemake run with DVC."""
    from clipaffect.ops.dvc.record import record_run

    print(f"wrote {record_run(config)}: add it to git, then run 'dvc push'")


@dvc_app.command()
def adopt(config: Configuration = DEMO) -> None:
    """Tell Snakemake, after 'dvc pull', that the results are up to date."""
    from clipaffect.ops.dvc.record import adopt_run

    adopt_run(config)
    print("the results are up to date: Snakemake has nothing to do")


@dvc_app.command()
def plots(
    config: Configuration = DEMO,
    revision: Annotated[str, typer.Option(help="The commit to compare with.")] = "HEAD",
    out: Annotated[Path, typer.Option(help="The folder of the page.")] = Path("plots"),
) -> None:
    """Plot a run's scores next to those of a commit, as a page that needs no network."""
    from clipaffect.ops.dvc.plots import plot_scores

    print(plot_scores(config, revision, out))


@dvc_app.command()
def inventory(config: Path, out: Out) -> None:
    """Write a digest of the names, sizes and times of a run's data files (the first DVC stage)."""
    from clipaffect.ops.dvc.stages import check_stages, link_data_of_experiment, write_inventory

    link_data_of_experiment(config, Path())
    check_stages(config, Path())
    write_inventory(config, out)
