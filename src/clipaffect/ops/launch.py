"""Start Snakemake, and clear up what a killed run left: its lock and its jobs.

Snakemake cannot distinguish a live lock from a stale one. So the launcher records the processes
that hold it (itself and its Snakemake) by host, process number and start time. It releases the lock
only when exactly these processes are gone. The jobs of a Snakemake that was killed live on. They
carry the run's number in their environment, by which the launcher finds and ends them.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from clipaffect.config import load_config
from clipaffect.core.errors import UserError
from clipaffect.core.files import write_text

logger = logging.getLogger(__name__)

ZOMBIE = psutil.STATUS_ZOMBIE
RUN = "CLIPAFFECT_RUN"  # in the environment of a run's processes: its number
CONFIG_OPTIONS = ("--configfile", "--configfiles")
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


def _owners() -> tuple[list[dict[str, Any]], str]:
    """The recorded owners of the lock, launcher and Snakemake, and their run; none if unknown."""
    try:
        record = json.loads(OWNER.read_text())
        return record["owners"], record["run"]
    except (OSError, ValueError, KeyError, TypeError):
        return [], ""


def _end_jobs(run: str, spared: int) -> None:
    """End the processes of a run on this machine; they resume from their checkpoints later.

    Args:
        run: its number.
        spared: the launcher's process number. Jobs of SLURM, which restarts or ends them itself,
            are spared too.
    """
    found = []
    for process in psutil.process_iter():
        try:
            own = process.environ()
        except (psutil.Error, OSError):  # another user's, or just gone
            continue
        if own.get(RUN) == run and process.pid != spared and "SLURM_JOB_ID" not in own:
            found.append(process)
    for process in found:
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(found, 10)
    for process in alive:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, 10)
    if found:
        logger.warning("%d processes of the killed run were ended", len(found))


def _signal(process: psutil.Process, number: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _locked() -> bool:
    return LOCKS.is_dir() and any(LOCKS.iterdir())


def snakemake_command(arguments: list[str]) -> list[str]:
    """The command that runs Snakemake with the current Python interpreter."""
    return [sys.executable, "-m", "snakemake", *arguments]


def sorted_out(arguments: list[str]) -> tuple[list[str], list[Path]]:
    """Snakemake's arguments with the targets behind ``--``, and the configuration files in them.

    Snakemake takes every word after ``--configfile`` for a file: ``--configfile FILE TARGET`` would
    end in its traceback. Words behind the first that are no file there are targets.
    """
    words, targets, files = [], [], []
    head, _, tail = (list(part) for part in _partition(arguments, "--"))
    reading = False
    for word in head:
        option, equals, value = word.partition("=")
        if word.startswith("-"):
            reading = option in CONFIG_OPTIONS
            if reading and equals:
                files.append(Path(value))
                reading = False
            words.append(word)
        elif reading and words[-1] not in CONFIG_OPTIONS and not Path(word).is_file():
            targets.append(word)
        else:
            if reading:
                files.append(Path(word))
            words.append(word)
    targets += tail
    return [*words, "--", *targets] if targets else words, files


def _partition(words: list[str], mark: str) -> tuple[list[str], list[str], list[str]]:
    """As ``str.partition``."""
    at = words.index(mark) if mark in words else len(words)
    return words[:at], words[at : at + 1], words[at + 1 :]


def _check_configuration(files: list[Path]) -> None:
    """Check the configuration first, because Snakemake's messages name neither line nor key.

    Several files are checked by the Snakefile, which gets them merged.
    """
    if len(files) == 1:
        load_config(files[0])


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
    arguments, files = sorted_out(arguments)
    _check_configuration(files)
    _check_cluster(arguments)
    if _locked():
        _release_lock()
    run = secrets.token_hex(8)
    child = subprocess.Popen(snakemake_command(arguments), env=os.environ | {RUN: run})
    owners = [describe(os.getpid()), describe(child.pid)]
    write_text(OWNER, json.dumps({"owners": owners, "run": run}))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: os.kill(child.pid, received))
    code = child.wait()
    if code < 0:  # killed: by somebody, or by a system out of memory
        _end_jobs(run, os.getpid())
        _unlock()
        logger.error(
            "Snakemake was killed by signal %d. Nothing that was finished is lost: run the same "
            "command again.",
            -code,
        )
    OWNER.unlink(missing_ok=True)
    return code if code >= 0 else 128 - code


def _release_lock() -> None:
    """Release the lock of a killed run and end its jobs.

    Raises:
        UserError: a process that lives, or perhaps lives, holds the lock.
    """
    owners, run = _owners()
    alive = [owner for owner in owners if not is_dead(owner)]
    if alive or not owners:
        who = " and ".join(f"process {o['pid']} on {o['host']}" for o in alive)
        raise UserError(
            f"another run is using this folder: {who or 'an unknown process'}",
            where=LOCKS,
            fix="wait for it to end; if you are sure that it is gone, run 'snakemake --unlock'",
        )
    _end_jobs(run, os.getpid())
    _unlock()


def _unlock() -> None:
    subprocess.run(snakemake_command(["--unlock", "--quiet", "all"]), check=False)


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
