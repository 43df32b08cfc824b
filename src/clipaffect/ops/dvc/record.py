"""Keep the state of a run consistent between DVC and Snakemake.

``record_run`` registers results of a plain Snakemake run with DVC. ``adopt_run`` tells Snakemake
about results from ``dvc pull``. Both refuse if the other side is not finished and clean, because
``dvc commit --force`` would register any files that exist, and ``snakemake --touch`` would mark
them as up to date.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

from clipaffect.config import load_config
from clipaffect.config.models import Config
from clipaffect.config.stage_keys import VERSIONS, settings_json
from clipaffect.core.errors import UserError
from clipaffect.core.hashing import file_digest
from clipaffect.ops.dvc.stages import ROOT_CONFIG, check_stages, write_inventory
from clipaffect.ops.preview import planned_jobs, snakemake_command
from clipaffect.report.compare_runs import flatten
from clipaffect.report.run_record import RECORD, read_record

logger = logging.getLogger(__name__)


def record_run(configfile: Path) -> Path:
    """Register the results of a finished Snakemake run in DVC; returns the dvc.lock.

    Raises:
        UserError: the run is not finished, used another configuration, or Snakemake would rerun
            something.
    """
    config, stages = load_config(configfile), _stages_of(configfile)
    _check_made_so(config, configfile)
    planned = planned_jobs(configfile)
    if planned != {}:
        jobs = ", ".join(f"{count} {rule}" for rule, count in (planned or {}).items())
        raise UserError(
            f"the results are not finished: Snakemake would still run {jobs or '(unknown jobs)'}",
            where=f"results/{config.run}",
            fix=f"run 'clipaffect run --configfile {configfile}' first",
        )
    _note_data(configfile)
    call([sys.executable, "-m", "dvc", "commit", "--force", "--quiet", str(stages)])
    return stages.with_suffix(".lock")


def adopt_run(configfile: Path) -> None:
    """Tell Snakemake that results checked out by DVC are finished, and build its last pages.

    Raises:
        UserError: DVC reports changes since the results were computed.
    """
    config, stages = load_config(configfile), _stages_of(configfile)
    _note_data(configfile)
    status = json.loads(call([sys.executable, "-m", "dvc", "status", "--json", str(stages)]))
    inventory = str(stages.with_name("inventory.txt"))
    if inventory in json.dumps(status):
        # Data that was copied or checked out has other times; its content is not looked at here.
        logger.warning(
            "the data has other names, sizes or times here: taken as the data of the run"
        )
    changed = _changed_stages(status, inventory)
    if changed:
        raise UserError(
            f"DVC reports that these stages have changed: {', '.join(changed)}",
            where=stages,
            fix=f"run 'dvc pull {stages}' to get their results, or 'dvc repro {stages}'",
        )
    _check_made_so(config, configfile)
    own = ["--configfile", str(configfile)]
    call(snakemake_command(["--touch", "--forceall", "--cores", "1", *own]))
    # Timings are of one machine and not in DVC: their page is made here.
    call(snakemake_command(["--cores", "1", *own]))


def _changed_stages(status: dict[str, list[Any]], inventory: str) -> list[str]:
    """The stages that DVC reports as changed, apart from the state of the data."""
    return [
        name
        for name, reasons in status.items()
        if any(
            path != inventory
            for reason in reasons
            if reason != "always changed"
            for path in (next(iter(reason.values())) if isinstance(reason, dict) else [reason])
        )
    ]


def _stages_of(configfile: Path) -> Path:
    """The dvc.yaml that runs a configuration."""
    if configfile.resolve() == Path(ROOT_CONFIG).resolve():
        data = load_config(configfile).data
        if data.licensed and not data.may_push:
            raise UserError(
                "the data is licensed, but the top-level dvc.yaml would allow pushing its outputs",
                where=configfile,
                fix="rename the configuration and run 'clipaffect dvc stages' with it",
            )
        return Path("dvc.yaml")
    folder = Path("runs") / load_config(configfile).run
    if not (folder / "dvc.yaml").is_file():
        raise UserError(
            f"{folder / 'dvc.yaml'} is missing",
            where=configfile,
            fix=f"run 'clipaffect dvc stages {configfile}' first",
        )
    if (folder / "config.yaml").read_bytes() != configfile.read_bytes():
        raise UserError(
            f"{folder / 'config.yaml'}, which DVC tracks, differs from this configuration",
            where=configfile,
            fix=f"run 'clipaffect dvc stages {configfile}' again, or use DVC's copy",
        )
    check_stages(folder / "config.yaml", Path())
    return folder / "dvc.yaml"


def _check_made_so(config: Config, configfile: Path) -> None:
    """Check that a run's record matches this configuration, its stages and the user code."""
    folder = Path("results") / config.run
    path = folder / RECORD
    if not path.is_file():
        raise UserError(
            f"there is no finished run: {path} is missing",
            where=configfile,
            fix=f"run 'clipaffect run --configfile {configfile}'",
        )
    made = read_record(folder)
    here: dict[str, Any] = {
        # as the report got it: with the tasks spelt out
        "config": json.loads(settings_json(config, "report", "config"))["config"],
        "stages": VERSIONS,
        "code": {path: file_digest(Path(path)) for path in config.training.user_files()},
    }
    one, other = (flatten({key: record.get(key) for key in here}) for record in (made, here))
    wrong = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    if wrong:
        raise UserError(
            f"the results were computed with other settings: {', '.join(wrong[:5])}"
            + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""),
            where=path,
            fix=f"run 'clipaffect run --configfile {configfile}', or restore the settings",
        )


def _note_data(configfile: Path) -> None:
    """Record the state of the data, on which the first stage of a custom run depends."""
    if configfile.resolve() != Path(ROOT_CONFIG).resolve():
        folder = Path("runs") / load_config(configfile).run
        write_inventory(configfile, folder / "inventory.txt")


def call(command: list[str]) -> str:
    """Run a program and return its output; if it fails, its last lines become the error."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise UserError(
            f"'{' '.join(command[2:])}' failed:\n" + "\n".join(said[-15:]),
            where=command[2],
            fix="follow the message of the program",
        )
    return done.stdout
