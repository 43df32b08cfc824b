"""What is said of a cluster before any job waits in it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, only_commands
from forked import Forked, forked

from clipaffect.core.errors import UserError
from clipaffect.ops.launch import launch, sorted_out

SINFO = """#!/bin/sh
printf 'cpu\\nlong\\n'
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands of a cluster with the partitions cpu and long; whoever submits fails the test."""
    only_commands(tmp_path, monkeypatch, {"sinfo": SINFO, "sbatch": "#!/bin/sh\nexit 9\n"})
    return tmp_path


def test_a_machine_without_slurm_is_said_to_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for words in (["--profile", str(ROOT / "profiles/slurm")], ["--executor", "slurm"]):
        with pytest.raises(UserError, match="sbatch is not on the path"):
            launch(words)


def test_a_partition_that_is_not_there_is_named_beside_those_that_are(cluster: Path) -> None:
    (cluster / "profiles").symlink_to(ROOT / "profiles")
    own = ["--profile", "profiles/slurm"]
    with pytest.raises(UserError, match="no partition gpu; available: cpu, long") as raised:
        launch(own)
    assert raised.value.where == "profiles/slurm/partitions.yaml"
    with pytest.raises(UserError, match="no partition gpu or short"):
        launch([*own, "--default-resources", "slurm_partition=short"])


@pytest.mark.parametrize(
    ("given", "passed", "files"),
    [
        (["--configfile", "a.yaml", "all"], ["--configfile", "a.yaml", "--", "all"], ["a.yaml"]),
        (["--configfile=a.yaml", "all"], ["--configfile=a.yaml", "all"], ["a.yaml"]),
        (["--configfile", "a.yaml", "b.yaml"], None, ["a.yaml", "b.yaml"]),
        (
            ["--configfile", "a.yaml", "all", "model", "--cores", "2"],
            ["--configfile", "a.yaml", "--cores", "2", "--", "all", "model"],
            ["a.yaml"],
        ),
        (["--configfile", "no.yaml", "--cores", "2"], None, ["no.yaml"]),
        (["--cores", "2", "--configfiles", "a.yaml", "--", "all"], None, ["a.yaml"]),
        (["all"], None, []),
    ],
)
def test_a_target_behind_a_configuration_file_is_a_target(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: list[str],
    passed: list[str] | None,
    files: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).touch()
    (tmp_path / "all").touch()  # a target may exist
    assert sorted_out(given) == (passed or given, [Path(name) for name in files])


def test_a_folder_without_a_workflow_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is no Snakefile in this folder") as raised:
        launch(["--cores", "2"])
    assert str(raised.value.where) == str(tmp_path)


@pytest.mark.parametrize("given", [["--configfile", "a.yaml", "all"], ["--configfile=a.yaml"]])
def test_a_wrong_configuration_is_said_before_snakemake_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("training: {epoch: 3}\n")
    with pytest.raises(UserError, match="epoch"):
        launch(given)


# Stands in for Snakemake: it holds its lock, starts a job that waits, and waits for it.
SCHEDULER = """
import os, pathlib, subprocess, sys, time
lock = pathlib.Path(".snakemake/locks/0.input.lock")
if "--unlock" in sys.argv:
    lock.unlink()
    sys.exit()
lock.parent.mkdir(parents=True, exist_ok=True)
lock.touch()
job = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path("job").write_text(str(job.pid))
if "end" in sys.argv:
    job.kill()
    lock.unlink()
    sys.exit()
job.wait()
"""


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "scheduler.py").write_text(SCHEDULER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    (tmp_path / "Snakefile").touch()
    for module in ("launch", "preview"):
        monkeypatch.setattr(
            f"clipaffect.ops.{module}.snakemake_command",
            lambda words: [sys.executable, str(tmp_path / "scheduler.py"), *words],
        )
    return tmp_path


def launched(words: list[str]) -> None:
    sys.exit(launch(words))


def job(folder: Path, but: str = "") -> psutil.Process:
    """The running job of a scheduler, another one than ``but``."""
    path = folder / "job"
    while not path.exists() or path.read_text() in ("", but):
        time.sleep(0.01)
    return psutil.Process(int(path.read_text()))


def scheduler_of(started: Forked) -> psutil.Process:
    (child,) = psutil.Process(started.process.pid).children()
    return child


def test_a_second_start_leaves_the_first_one_alone(scheduler: Path) -> None:
    with forked(launched, []) as first:
        working = job(scheduler)
        with pytest.raises(UserError, match=f"process {first.process.pid} on "):
            launch([])
        assert launch(["--dry-run", "end"]) == 0
        assert working.is_running()
        (scheduler / ".snakemake/locks/0.input.lock").touch()
        scheduler_of(first).kill()
        first.process.join()
        assert first.process.exitcode == 137
    assert not working.is_running()
    assert not list((scheduler / ".snakemake/locks").iterdir())
    assert launch(["end"]) == 0


@pytest.mark.parametrize("allocation", [None, "77"])
def test_what_a_killed_launcher_left_is_cleared_up(
    scheduler: Path, monkeypatch: pytest.MonkeyPatch, allocation: str | None
) -> None:
    """Also in an allocation of SLURM, which gives its number to the jobs on this machine."""
    if allocation:
        monkeypatch.setenv("SLURM_JOB_ID", allocation)
    with forked(launched, []) as first:
        working = job(scheduler)
        snakemake = scheduler_of(first)
        first.kill()
        with pytest.raises(UserError, match="another run is using this folder"):
            launch([])  # Snakemake lives, and holds the lock that it was handed
        snakemake.kill()
        psutil.wait_procs([snakemake], 60)
    assert working.is_running()
    assert launch(["end"]) == 0
    assert not working.is_running()


def test_jobs_that_slurm_started_are_spared(scheduler: Path) -> None:
    with forked(launched, []) as first:
        working = job(scheduler)
        run = working.environ()["CLIPAFFECT_RUN"]
        remote = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"],
            env={"CLIPAFFECT_RUN": run, "SLURM_JOB_ID": "5"},
        )
        try:
            scheduler_of(first).kill()
            first.process.join()
            assert not working.is_running()
            assert remote.poll() is None
        finally:
            remote.kill()
            remote.wait()


def test_a_snakemake_without_a_launcher_is_left_alone(scheduler: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(600)", "snakemake"]
    (scheduler / ".snakemake/locks").mkdir(parents=True)
    (scheduler / ".snakemake/locks/0.input.lock").touch()
    record = {"run": "1", "slurm_job": None, "host": socket.gethostname()}
    owner = scheduler / ".snakemake/clipaffect-owner.json"
    owner.write_text(json.dumps(record | {"host": "elsewhere", "pid": 7}))
    with pytest.raises(UserError, match="process 7 on elsewhere"):
        launch(["end"])
    owner.write_text(json.dumps(record))
    with subprocess.Popen(command) as other:
        try:
            with pytest.raises(UserError, match=f"process {other.pid}"):
                launch(["end"])
        finally:
            other.kill()
    assert launch(["end"]) == 0
