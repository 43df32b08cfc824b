"""Start Snakemake, and release the lock left by a killed run.

Snakemake cannot distinguish a live lock from a stale one. So the launcher records the processes
that hold it (itself and its Snakemake) by host, process number and start time. It releases the lock
only when exactly these processes are gone.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import yaml

from clipaffect.config import load_config
from clipaffect.core.errors import UserError
from clipaffect.core.parquet import write_text

ZOMBIE = psutil.STATUS_ZOMBIE
OWNER = Path(".snakemake/clipaffect-owner.json")
LOCKS = Path(".snakemake/locks")
PARTITION = re.compile(r"slurm_partition[=:]\s*['\"]?([\w-]+)")
JOBS = re.compile(r"^(\w+)\s+(\d+)$", re.MULTILINE)  # lines of Snakemake's table of jobs


def describe(pid: int) -> dict[str, Any]:
    """The record of a process: host, number and start time (numbers are reused)."""
    started = psutil.Process(pid).create_time()
    return {"host": socket.gethostname(), "pid": pid, "started": started}


def is_dead(owner: dict[str, Any]) -> bool:
    """Whether the recorded process is gone; one on another host counts as alive."""
    if owner["host"] != socket.gethostname():
        return False
    try:
        process = psutil.Process(owner["pid"])
        # A killed process keeps its number until its parent has waited for it.
        return process.create_time() != owner["started"] or process.status() == ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _owners() -> list[dict[str, Any]]:
    """The recorded owners of the lock: the launcher and its Snakemake; none if unknown."""
    try:
        owners: list[dict[str, Any]] = json.loads(OWNER.read_text())
        return owners
    except (OSError, json.JSONDecodeError):
        return []


def _locked() -> bool:
    return LOCKS.is_dir() and any(LOCKS.iterdir())


def snakemake_command(arguments: list[str]) -> list[str]:
    """The command that runs Snakemake with the current Python interpreter."""
    return [sys.executable, "-m", "snakemake", *arguments]


def _check_configuration(arguments: list[str]) -> None:
    """Check the configuration first, because Snakemake's messages name neither line nor key."""
    for option, value in itertools.pairwise(arguments):
        if option == "--configfile":
            load_config(Path(value))


def _check_cluster(arguments: list[str]) -> None:
    """Check that SLURM and the profile's partitions exist before any job is submitted.

    Raises:
        UserError: they are not.
    """
    named = dict(itertools.pairwise(arguments))
    path = Path(named.get("--profile", "")) / "profile.yaml"
    try:
        profile = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except yaml.YAMLError:
        return  # Snakemake reports what is wrong with it
    profile = profile if isinstance(profile, dict) else {}
    if named.get("--executor", profile.get("executor")) != "slurm":
        return
    sbatch, sinfo = shutil.which("sbatch"), shutil.which("sinfo")
    if sbatch is None:
        raise UserError(
            "sbatch is not on the path: this machine is not part of a SLURM cluster",
            where=path if path.is_file() else "--executor slurm",
            fix="log in to the cluster (or load its module) and run the command there; on a "
            "standalone machine, omit the profile",
        )
    asked = {
        match
        for text in (yaml.safe_dump(profile), " ".join(arguments))
        for match in PARTITION.findall(text)
    }
    told = subprocess.run(
        [sinfo or sbatch, "--noheader", "--format=%R"], capture_output=True, text=True, check=False
    )
    there = set(told.stdout.split())
    if told.returncode == 0 and there and (unknown := sorted(asked - there)):
        raise UserError(
            f"the cluster has no partition {' or '.join(unknown)}; available: "
            f"{', '.join(sorted(there))}",
            where=f"{path}: slurm_partition",
            fix="set your partition wherever it occurs in the profile",
        )


def launch(arguments: list[str]) -> int:
    """Run Snakemake in this folder with ``arguments``; returns its exit code.

    Raises:
        UserError: the configuration is wrong; the profile needs SLURM, which is missing; or another
            run, perhaps of an unknown owner, holds the lock.
    """
    _check_configuration(arguments)
    _check_cluster(arguments)
    if _locked():
        owners = _owners()
        alive = [owner for owner in owners if not is_dead(owner)]
        if alive or not owners:
            who = " and ".join(f"process {o['pid']} on {o['host']}" for o in alive)
            who = who or "an unknown process"
            raise UserError(
                f"another run is using this folder: {who}",
                where=LOCKS,
                fix="wait for it to end; if you are sure that it is gone, run 'snakemake --unlock'",
            )
        subprocess.run(snakemake_command(["--unlock", "--quiet", "all"]), check=False)
    child = subprocess.Popen(snakemake_command(arguments))
    write_text(OWNER, json.dumps([describe(os.getpid()), describe(child.pid)]))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: os.kill(child.pid, received))
    code = child.wait()
    OWNER.unlink(missing_ok=True)
    return code


def planned_jobs(configfile: Path) -> dict[str, int] | None:
    """The number of jobs of a run by rule, from Snakemake; None without a Snakefile."""
    if not Path("Snakefile").is_file():
        return None
    command = snakemake_command(
        [
            "--dry-run",
            "--quiet",
            "reason",
            "--nolock",
            "--cores",
            "1",
            "--configfile",
            str(configfile),
        ]
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Nothing to be done" in done.stdout + done.stderr:
        return {}
    if "Job stats:" not in done.stdout:
        return None
    listed = done.stdout.split("Job stats:")[1].split("total")[0]
    return {rule: int(count) for rule, count in JOBS.findall(listed) if rule != "all"}
