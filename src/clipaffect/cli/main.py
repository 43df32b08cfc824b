"""Train and evaluate models of facial expressions and action units, and apply them to video.

A user error prints what is wrong, where it is and how to fix it, and exits with status 2. No other
failure uses that status.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text
from typer.core import TyperCommand

from clipaffect.cli import prediction, users
from clipaffect.cli.dvc import dvc_app
from clipaffect.cli.rules import rule_app
from clipaffect.cli.store import store_app
from clipaffect.core.cache_folder import use_writable_cache
from clipaffect.core.errors import UserError

RUNS = "Runs"
VIDEOS = "Your own videos"
OTHER = "Other commands"

# Packages that prediction does not need, by the extra in pyproject.toml that installs them.
EXTRAS = {
    "onnx": ("onnx", "onnxscript"),
    "workflow": (
        "altair",
        "dvc",
        "h5py",
        "psutil",
        "rocrate",
        "sklearn",
        "snakemake",
        "vl_convert",
    ),
}

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)


class _Verbatim(TyperCommand):
    """Pass all arguments through unchanged: Snakemake needs its own ``--`` before targets."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args == ["--help"]:
            return super().parse_args(ctx, args)
        ctx.args = list(args)
        return ctx.args


@app.command(cls=_Verbatim, rich_help_panel=RUNS)
def run(context: typer.Context) -> None:
    """Run the workflow with Snakemake, and show the progress of each stage.

    `clipaffect run --configfile config/own-data.yaml` writes to results/<run>/, where <run> is a
    key of the configuration. Give another `run` to keep earlier results. Ctrl-C is safe: the same
    command resumes. `clipaffect check CONFIG` estimates the time.

    Checks the configuration first, and releases the lock of a run that was killed. All options are
    Snakemake's (`snakemake --help` lists them). The most common ones are:

    TARGETS            what to produce: all (the default), model, studies, predict, or a file

    --cores N          use N cores; by default all

    --configfile FILE  the configuration; by default config/config.yaml

    -n                 say which stages would run, and which settings have changed; run nothing

    --use-conda        let Snakemake build the software environment

    --profile FOLDER   run on a cluster with the settings in FOLDER, such as profiles/slurm

    --keep-going       go on with independent jobs after a failure

    --verbose          show Snakemake's own output instead
    """
    from clipaffect.ops.launch import launch

    raise typer.Exit(launch(context.args))


# The help page lists the panels and their commands in this order.
PANELS = {
    RUNS: (users.check, users.compare, users.crate, users.verify),
    VIDEOS: (prediction.export_model, prediction.predict),
    OTHER: (users.check_submission, users.gpu_check, users.docs),
}
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(dvc_app, name="dvc", rich_help_panel=RUNS)
app.add_typer(store_app, name="store", rich_help_panel=OTHER)
app.add_typer(rule_app, name="rule", rich_help_panel=OTHER)


def main() -> None:
    """Run a command and show user errors as messages."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("clipaffect")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # a library that logs to the root would show each line twice
    use_writable_cache()
    try:
        try:
            app()
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            extra = next((name for name, own in EXTRAS.items() if package in own), None)
            if extra is None:
                raise
            raise UserError(
                f"the package '{package}' is not installed",
                where=sys.prefix,
                fix=f"pip install 'clipaffect[{extra}]'",
            ) from None
        except OSError as error:  # no permission, no space, a folder that is a file, ...
            raise UserError(
                error.strerror or str(error),
                where=str(error.filename or "this machine"),
                fix="check that it exists, its permissions, and the free space on the disk",
            ) from None
    except UserError as error:
        text = Text(f"{error.what}\n\nwhere: {error.where}\nfix:   {error.fix}")
        Console(stderr=True).print(Panel(text, title="error", border_style="red"))
        sys.exit(2)


if __name__ == "__main__":
    main()
