"""Keep what DVC and Snakemake know of a run in step, whichever of the two made or brought it.

``record_run`` tells DVC of results that a plain Snakemake run made; ``adopt_run`` tells Snakemake
of results that ``dvc pull`` brought. Both refuse where the other side is not finished and clean:
``dvc commit --force`` would register anything that lies there, and ``snakemake --touch`` would
call it up to date.
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
from clipaffect.ops.launch import planned_jobs, snakemake_command
from clipaffect.report.compare_runs import flatten
from clipaffect.report.run_record import RECORD, read_record

logger = logging.getLogger(__name__)


def record_run(configfile: Path) -> Path:
    """Register the results of a finished Snakemake run in DVC; returns the dvc.lock.

    Raises:
        UserError: the run is not finished, was made with another configuration, or Snakemake would
            make something again.
    """
    config, stages = load_config(configfile), _stages_of(configfile)
    _check_made_so(config, configfile)
    planned = planned_jobs(configfile)
    if planned != {}:
        jobs = ", ".join(f"{count} {rule}" for rule, count in (planned or {}).items())
        raise UserError(
            f"the results are not finished: Snakemake would still run {jobs or '(it cannot say)'}",
            where=f"results/{config.run}",
            fix=f"call 'clipaffect run --configfile {configfile}' first",
        )
    _note_data(configfile)
    _call([sys.executable, "-m", "dvc", "commit", "--force", "--quiet", str(stages)])
    return stages.with_suffix(".lock")


def adopt_run(configfile: Path) -> None:
    """Tell Snakemake that results which DVC checked out are finished, and make its last pages.

    Raises:
        UserError: DVC says that something has changed since the results were made.
    """
    config, stages = load_config(configfile), _stages_of(configfile)
    _note_data(configfile)
    status = json.loads(_call([sys.executable, "-m", "dvc", "status", "--json", str(stages)]))
    changed = {name: why for name, why in status.items() if why != ["always changed"]}
    inventory = {str(stages.with_name("inventory.txt")): "modified"}
    if list(changed.values()) == [[{"changed deps": inventory}]]:
        # Copied data has other times; what the results are made of is not looked at here.
        logger.warning(
            "the data has other names, sizes or times here: taken as the data of the run"
        )
    elif changed:
        raise UserError(
            f"DVC says that these stages have changed: {', '.join(changed)}",
            where=stages,
            fix=f"call 'dvc pull {stages}' for their results, or 'dvc repro {stages}'",
        )
    _check_made_so(config, configfile)
    own = ["--configfile", str(configfile)]
    _call(snakemake_command(["--touch", "--forceall", "--cores", "1", *own]))
    # Timings are of one machine and not in DVC: their page is made here.
    _call(snakemake_command(["--cores", "1", *own]))


def _stages_of(configfile: Path) -> Path:
    """The dvc.yaml that runs a configuration."""
    if configfile.resolve() == Path(ROOT_CONFIG).resolve():
        data = load_config(configfile).data
        if data.licensed and not data.may_push:
            raise UserError(
                "the data is licensed, and the dvc.yaml at the top would let its outputs be pushed",
                where=configfile,
                fix="name the configuration otherwise and call 'clipaffect dvc stages' with it",
            )
        return Path("dvc.yaml")
    folder = Path("runs") / load_config(configfile).run
    if not (folder / "dvc.yaml").is_file():
        raise UserError(
            f"there is no {folder / 'dvc.yaml'}",
            where=configfile,
            fix=f"call 'clipaffect dvc stages {configfile}' first",
        )
    if (folder / "config.yaml").read_bytes() != configfile.read_bytes():
        raise UserError(
            f"{folder / 'config.yaml'}, which DVC watches, is not this configuration",
            where=configfile,
            fix=f"call 'clipaffect dvc stages {configfile}' again, or name DVC's copy",
        )
    check_stages(folder / "config.yaml", Path())
    return folder / "dvc.yaml"


def _check_made_so(config: Config, configfile: Path) -> None:
    """Whether a run's own record names this configuration, these stages and this user's code."""
    folder = Path("results") / config.run
    path = folder / RECORD
    if not path.is_file():
        raise UserError(
            f"there is no finished run: no {path}",
            where=configfile,
            fix=f"call 'clipaffect run --configfile {configfile}'",
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
            f"the results were made with other settings: {', '.join(wrong[:5])}"
            + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""),
            where=path,
            fix=f"call 'clipaffect run --configfile {configfile}', or give the settings back",
        )


def _note_data(configfile: Path) -> None:
    """The state of the data, which the first stage of a run of one's own depends on."""
    if configfile.resolve() != Path(ROOT_CONFIG).resolve():
        folder = Path("runs") / load_config(configfile).run
        write_inventory(configfile, folder / "inventory.txt")


def _call(command: list[str]) -> str:
    """What a program says; its last words are the error where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise UserError(
            f"'{' '.join(command[2:])}' failed:\n" + "\n".join(said[-15:]),
            where=command[2],
            fix="see its message",
        )
    return done.stdout
