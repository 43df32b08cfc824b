"""Start Snakemake, and clear up what a killed run left: its lock and its jobs.

Snakemake cannot distinguish a live lock from a stale one. So the launcher holds a lock of its own
while it or its Snakemake lives, which the system releases when both are gone. Only who gets this
lock clears up. The jobs of a Snakemake that was killed live on. They carry the run's number in
their environment, by which the launcher finds and ends them.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import logging
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from clipaffect.config import load_config
from clipaffect.config.models import Config
from clipaffect.core.errors import UserError
from clipaffect.core.files import write_text
from clipaffect.core.layout import Layout
from clipaffect.core.progress import duration
from clipaffect.ops.expected_time import Expected, measured_seconds, tell
from clipaffect.ops.preview import preview, snakemake_command
from clipaffect.ops.run_display import scores_in_words
from clipaffect.report.first_page import run_token

logger = logging.getLogger(__name__)

RUN = "CLIPAFFECT_RUN"  # in the environment of a run's processes: its number
SLURM_JOB = "SLURM_JOB_ID"
SUFFIXES = (".yaml", ".yml", ".json")  # of configuration files
CONFIG_OPTIONS = ("--configfile", "--configfiles")
DEFAULT_CONFIG = Path("config/config.yaml")
OWNER = Path(".snakemake/clipaffect-owner.json")
LOCK = OWNER.with_suffix(".lock")
LOCKS = Path(".snakemake/locks")
PARTITION = re.compile(r"slurm_partition[=:]\s*['\"]?([\w-]+)")
CORES = re.compile(r"(?:^|\s)(?:--cores|-c|--jobs|-j)[ =]?(\d+)")
VERBOSE = "--verbose"
DRY = {"-n", "--dry-run", "--dryrun"}
# With one of these, the user wants what Snakemake itself prints.
OWN_OUTPUT = {
    VERBOSE,
    *DRY,
    *("-q", "--quiet", "-h", "--help", "-v", "--version", "-l", "--list-rules", "--list"),
    *("-S", "--summary", "-D", "--detailed-summary", "--dag", "--rulegraph", "--filegraph"),
    *("--d3dag", "--list-target-rules", "--lt", "--list-untracked", "--lu", "--list-conda-envs"),
    *("--list-changes", "--lc", "--lint", "--unlock", "--logger", "--report", "--touch", "-t"),
    *("--delete-all-output", "--cleanup-metadata", "--containerize", "--print-compilation"),
}
SHORT = re.compile(r"-(?![cj])[a-zA-Z]{2,}")  # several short options in one word
ELSEWHERE = {"--config", "-C", "--directory", "-d"}  # the results are not those of the file alone
ON_A_CLUSTER = {"--profile", "--executor", "-e"}
IN_PART = {"studies", "predict", "--until", "-U", "--omit-from", "-O", "--forcerun", "-R"}
SNAKEFILES = ("Snakefile", "snakefile", "workflow/Snakefile", "workflow/snakefile")
HOW_MANY = {"--cores", "-c", "--jobs", "-j", "--workflow-profile"}
COUNTED = re.compile(r"-[cj]\d")


@contextmanager
def _alone() -> Iterator[int | None]:
    """Hold the folder's lock, whose open file is handed to Snakemake; None without locks.

    Raises:
        UserError: another launcher, or its Snakemake, lives.
    """
    LOCK.parent.mkdir(exist_ok=True)
    descriptor = os.open(LOCK, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            record = _owner()
            raise _in_use(f"process {record.get('pid')} on {record.get('host')}") from None
        except OSError:  # a file system without locks: Snakemake's own lock has to do
            yield None
            return
        yield descriptor
    finally:
        os.close(descriptor)


def _in_use(who: str) -> UserError:
    return UserError(
        f"another run is using this folder: {who}",
        where=LOCKS,
        fix="wait for it to end; if you are sure that it is gone, run 'snakemake --unlock'",
    )


def _owner() -> dict[str, Any]:
    """The record of the last run that did not end by itself; empty without one."""
    try:
        record = json.loads(OWNER.read_text())
        return record if isinstance(record, dict) else {}
    except (OSError, ValueError):
        return {}


def _processes() -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """The other processes of this user, with their environments."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # another user's, or just gone
            if process.pid != os.getpid():
                yield process, process.environ()


def _end_jobs(record: dict[str, Any]) -> None:
    """End the processes of a run on this machine; they resume from their checkpoints later.

    Jobs that SLURM started for the run are spared: SLURM restarts or ends them itself.
    """
    ended = 0
    for _ in range(5):  # a process may start another one before it ends
        found = [
            process
            for process, own in _processes()
            if own.get(RUN) == record["run"] and own.get(SLURM_JOB) == record["slurm_job"]
        ]
        if not found:
            break
        ended += len(found)
        for process in found:
            _signal(process, signal.SIGTERM)
        _, alive = psutil.wait_procs(found, 10)
        for process in alive:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(alive, 10)
    if ended:
        logger.warning("%d processes of the killed run were ended", ended)


def _signal(process: psutil.Process, number: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _locked() -> bool:
    return LOCKS.is_dir() and any(LOCKS.iterdir())


def sorted_out(arguments: list[str]) -> tuple[list[str], list[Path]]:
    """Snakemake's arguments with the targets behind ``--``, and the configuration files in them.

    Snakemake takes every word after ``--configfile`` for a file: ``--configfile FILE TARGET`` would
    end in its traceback. Words behind the first that have no suffix of one are targets.
    """
    words, targets, files = [], [], []
    end = arguments.index("--") if "--" in arguments else len(arguments)
    reading = False
    for word in arguments[:end]:
        option, equals, value = word.partition("=")
        if word.startswith("-"):
            reading = option in CONFIG_OPTIONS
            if reading and equals:
                files.append(Path(value))
                reading = False
            words.append(word)
        elif reading and words[-1] not in CONFIG_OPTIONS and Path(word).suffix not in SUFFIXES:
            targets.append(word)
        else:
            if reading:
                files.append(Path(word))
            words.append(word)
    targets += arguments[end + 1 :]
    return [*words, "--", *targets] if targets else words, files


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
    partitions = named.get("--slurm-partition-config", profile.get("slurm-partition-config"))
    asked |= _partitions_of(Path(partitions)) if partitions else set()
    there = set(told.stdout.split())
    if told.returncode == 0 and there and (unknown := sorted(asked - there)):
        raise UserError(
            f"the cluster has no partition {' or '.join(unknown)}; available: "
            f"{', '.join(sorted(there))}",
            where=f"{partitions or path}",
            fix="name the partitions of your cluster there, and wherever 'slurm_partition' occurs",
        )


def _partitions_of(path: Path) -> set[str]:
    """The names in a file of partitions; none if Snakemake will report what is wrong with it."""
    try:
        stated = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {str(name) for name in stated["partitions"]}
    except (OSError, yaml.YAMLError, TypeError, KeyError):
        return set()


def launch(arguments: list[str]) -> int:
    """Run Snakemake in this folder with ``arguments``; returns its exit code.

    The run is shown stage by stage (``run_display``), unless the arguments ask for something else.

    Raises:
        UserError: the configuration is wrong; the profile needs SLURM, which is missing; or another
            run, perhaps of an unknown owner, holds the lock.
    """
    asked = arguments
    arguments, files = sorted_out(arguments)
    _check_configuration(files)
    _check_cluster(arguments)
    options = _options(arguments)
    _check_folder(options)
    if not options & (HOW_MANY | ON_A_CLUSTER) and not any(map(COUNTED.match, arguments)):
        arguments = ["--cores", "all", *arguments]
    is_shown = not OWN_OUTPUT & options
    arguments = [word for word in arguments if word != VERBOSE]
    config = None if ELSEWHERE & options else _config_of(files)
    if options & DRY:
        if not (OWN_OUTPUT - DRY) & options:
            cores = None if ON_A_CLUSTER & options else _cores(arguments)
            return preview(arguments, config, cores)
        return subprocess.run(snakemake_command(arguments), check=False).returncode
    began = time.monotonic()
    with _alone() as lock:
        if _locked():
            _clear_up()
        if config is not None and is_shown and not ON_A_CLUSTER & options:
            tell(_expected(config, files, arguments))
        if is_shown:  # in one word: Snakemake takes every word after it for a logger
            arguments = ["--logger=clipaffect", *arguments]
        code, stopped = _run(arguments, lock)
    if is_shown and code == 0:
        print(f"finished in {duration(time.monotonic() - began)}")
        if config is not None:
            _show_results(config)
    elif is_shown:
        why = "stopped; " if stopped else ""
        print(f"{why}finished work is kept; to resume: clipaffect run {shlex.join(asked)}")
    return code


def _check_folder(options: set[str]) -> None:
    """Check that there is a workflow here.

    Raises:
        UserError: there is none.
    """
    elsewhere = options & {"--snakefile", "-s", "--help", "-h", "--version", "-v"}
    if not elsewhere and not any(map(os.path.isfile, SNAKEFILES)):
        raise UserError(
            "there is no Snakefile in this folder",
            where=Path.cwd(),
            fix="run the command in the folder of clipaffect, or add --snakefile PATH/Snakefile",
        )


def _options(arguments: list[str]) -> set[str]:
    """The options among Snakemake's arguments, without their values; short ones one by one."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    words = [word.partition("=")[0] for word in arguments[:end] if word.startswith("-")]
    joined = {f"-{letter}" for word in words if SHORT.fullmatch(word) for letter in word[1:]}
    return set(words) | joined


def _config_of(files: list[Path]) -> Config | None:
    """The configuration of a run by its files; None if they are merged or missing."""
    found = files or [DEFAULT_CONFIG]
    return load_config(found[0]) if len(found) == 1 and found[0].is_file() else None


def _layout(config: Config) -> Layout:
    return Layout(Path("results") / config.run)


def _cores(arguments: list[str]) -> int:
    """The number of cores that Snakemake is given: of this machine unless it is stated."""
    match = CORES.search(" ".join(arguments))
    return int(match[1]) if match else os.cpu_count() or 1


def _expected(config: Config, files: list[Path], arguments: list[str]) -> Expected:
    """What tells how long the run will take: its last times, or a measurement before the first."""
    timings, cores = _layout(config).timings, _cores(arguments)
    in_part = any(
        word.endswith("_all") or word.partition("=")[0] in IN_PART or word[:2] in IN_PART
        for word in arguments
    )
    if timings.is_dir() or in_part:
        return Expected(str(timings), cores)
    first = measured_seconds(files[0] if files else DEFAULT_CONFIG, cores)
    return Expected(str(timings), cores, first)


def _show_results(config: Config) -> None:
    """Print the scores of a finished run, and the next commands.

    Only if the report is of this configuration and data.
    """
    layout = _layout(config)
    try:
        finished = layout.report.finished.read_text(encoding="utf-8")
        is_own = run_token(config, layout.folder) in finished
    except (OSError, UserError):
        is_own = False
    if not is_own:
        return
    for line in scores_in_words(json.loads(layout.report.metrics.read_text(encoding="utf-8"))):
        print(line)
    print(f"tables for a paper:  {layout.report.main_table.parent}/*.tex")
    if config.is_exportable and (config.trains_final_heads or config.data.split.by != "folds"):
        command = f"clipaffect predict VIDEO --model {layout.folder} --out answers"
        print(f"your own videos:     {command}")
    if layout.studies_page.is_file():
        print(f"studies:             {layout.studies_page}")
    print(f"another run:         clipaffect compare {layout.folder} results/OTHER")


def _run(arguments: list[str], lock: int | None) -> tuple[int, bool]:
    """Run Snakemake, which shares the folder's lock; its exit code, and whether a signal came."""
    received: list[int] = []

    def hand_on(number: int, _: object) -> None:
        received.append(number)
        child.send_signal(number)

    record: dict[str, Any] = {
        "run": secrets.token_hex(8),
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "slurm_job": os.environ.get(SLURM_JOB),
    }
    write_text(OWNER, json.dumps(record))
    child = subprocess.Popen(
        snakemake_command(arguments),
        env=os.environ | {RUN: record["run"]},
        pass_fds=() if lock is None else (lock,),
    )
    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    code = child.wait()
    if code < 0:
        for number in before:  # what follows must not be cut short
            signal.signal(number, signal.SIG_IGN)
        _end_jobs(record)
        if lock is not None and _locked():
            _unlock()
        logger.error(
            "Snakemake was ended by signal %d. Nothing that was finished is lost: run the same "
            "command again.",
            -code,
        )
    for number, handler in before.items():
        signal.signal(number, handler)
    OWNER.unlink(missing_ok=True)
    if received:
        return 128 + received[0], True
    return (code if code >= 0 else 128 - code), False


def _clear_up() -> None:
    """End the jobs of a run that was killed with its launcher, and release its lock.

    Raises:
        UserError: a Snakemake without a launcher lives in this folder, or perhaps lives elsewhere.
    """
    here = str(Path.cwd())
    record = _owner()
    for process, own in _processes():
        with suppress(psutil.Error, OSError):
            is_own = own.get(RUN) == record.get("run", "")
            if "snakemake" in process.cmdline() and process.cwd() == here and not is_own:
                raise _in_use(f"process {process.pid} on {socket.gethostname()}")
    if not record.keys() >= {"run", "slurm_job", "host"}:
        raise _in_use("an unknown process")
    if record["host"] != socket.gethostname():
        # On some network file systems the lock of another machine is not seen.
        raise _in_use(f"process {record.get('pid')} on {record['host']}")
    _end_jobs(record)
    _unlock()


def _unlock() -> None:
    subprocess.run(snakemake_command(["--unlock", "--quiet", "all"]), check=False)
