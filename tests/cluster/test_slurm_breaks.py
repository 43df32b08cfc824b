"""A real SLURM breaks under the workflow: nothing is lost, and the results are the same bytes.

Every change is tried with a lost node; the other failures, each half a minute, are campaigns.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import MICRO, copy_of, result_files
from slurm import Cluster, node_of, start_run, wait_for, whole_run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]  # of a slow machine
MODELS = Path("results/micro/models")


@pytest.fixture
def untrained(micro_run: Path, tmp_path: Path) -> Path:
    """A finished micro run whose heads are gone, also from the work store."""
    folder = copy_of(micro_run, tmp_path)
    shutil.rmtree(folder / MODELS)
    shutil.rmtree(folder / "store/heads")
    return folder


def caught(started: subprocess.Popen, folder: Path) -> psutil.Process:
    """A running job of train_heads, stopped in the middle: SIGSTOP."""
    found: list[psutil.Process] = []

    def look() -> list[psutil.Process]:
        assert started.poll() is None, (folder / "said").read_text()[-3000:]
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
                if "train-heads" in words and "-m" in words and process.cwd() == str(folder):
                    process.suspend()
                    found.append(process)
                    break
            except psutil.Error:
                continue
        return found

    wait_for("a job that trains", look)
    return found[0]


def well_ended(started: subprocess.Popen, folder: Path) -> str:
    """Wait for a run that must end well; returns what it said."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        started.wait(900)
    said = (folder / "said").read_text()
    assert started.poll() == 0, said[-3000:]
    return said


def job_of(process: psutil.Process) -> str:
    return process.environ()["SLURM_JOB_ID"]


def same_heads(folder: Path, micro_run: Path) -> bool:
    return result_files(folder / MODELS) == result_files(micro_run / MODELS)


def test_a_lost_node_costs_only_its_unfinished_work(
    cluster: Cluster, untrained: Path, micro_run: Path
) -> None:
    scores = "results/micro/evaluation/EXPR/metrics.parquet"  # by a job that is submitted later
    with start_run(cluster, untrained, "training_all", scores, *MICRO) as started:
        job = caught(started, untrained)
        node, number = node_of(job), job_of(job)
        cluster.lose_node(node)
        try:
            well_ended(started, untrained)
        finally:
            cluster.start_node(node)
    assert same_heads(untrained, micro_run)
    assert (untrained / scores).read_bytes() == (micro_run / scores).read_bytes()
    state, where, _ = cluster.jobs()[number]
    assert (state, where != node) == ("COMPLETED", True)
    wait_for("the node's return", lambda: cluster.node_state(node) == "idle")


def test_a_cancelled_job_is_named_and_made_again(
    cluster: Cluster, untrained: Path, micro_run: Path
) -> None:
    with start_run(cluster, untrained, "training_all", *MICRO) as started:
        number = job_of(caught(started, untrained))
        cluster.ask("scancel", number)
        said = well_ended(started, untrained)
    assert f"SLURM-job '{number}' failed, SLURM status is: 'CANCELLED'" in said
    assert same_heads(untrained, micro_run)


@pytest.mark.slow
def test_too_little_memory_comes_back_with_more_and_tables_lie_on_the_node(
    cluster: Cluster, untrained: Path, micro_run: Path
) -> None:
    growing = ("--set-resources", "train_heads:mem_mb=150 * 30 ** (attempt - 1)")
    with_scratch = untrained / "with-scratch.yaml"
    values = yaml.safe_load((untrained / MICRO[1]).read_text())
    values["paths"] = {"scratch": "$SLURM_TMPDIR"}  # which the cluster's prolog sets
    with_scratch.write_text(yaml.safe_dump(values))
    config = ("--configfile", str(with_scratch))
    code, said = whole_run(cluster, untrained, "training_all", *config, *growing)
    assert code == 0, said[-3000:]
    log = (untrained / "logs/micro/train_heads/EXPR/0.log").read_text()
    assert f"copied to {cluster.folder}/cpu" in log
    # Without accounting or cgroups the state is FAILED; the job's log, which is shown, says why.
    assert "exceeded memory limit" in said
    assert same_heads(untrained, micro_run)


@pytest.mark.slow
def test_a_job_beyond_its_time_is_ended_and_made_again(
    cluster: Cluster, untrained: Path, micro_run: Path
) -> None:
    short = ("--set-resources", "train_heads:runtime=attempt")  # minutes
    with start_run(cluster, untrained, "training_all", *MICRO, *short) as started:
        number = job_of(caught(started, untrained))
        said = well_ended(started, untrained)
    assert f"SLURM-job '{number}' failed, SLURM status is: 'TIMEOUT'" in said
    assert same_heads(untrained, micro_run)


def preempt(cluster: Cluster) -> None:
    """Give both nodes to more urgent jobs for a moment."""
    cluster.ask(
        "sbatch",
        "--partition=urgent",
        "--exclusive",
        "--nodes=2",
        "--output=/dev/null",
        "--wrap=sleep 2",
    )


@pytest.mark.slow
@pytest.mark.parametrize("partition", ["cpu", "low"])
def test_a_preempted_job_is_made_again(
    cluster: Cluster, untrained: Path, micro_run: Path, partition: str
) -> None:
    """SLURM restarts those of the partition cpu itself, and cancels those of low."""
    place = ("--default-resources", f"slurm_partition={partition}", "mem_mb=1000", "runtime=60")
    with start_run(cluster, untrained, "training_all", *MICRO, *place) as started:
        number = job_of(caught(started, untrained))
        preempt(cluster)
        said = well_ended(started, untrained)
    assert (f"SLURM-job '{number}' failed" in said) == (partition == "low")
    assert same_heads(untrained, micro_run)


@pytest.mark.slow
def test_an_interrupted_run_ends_at_once_and_cancels_its_jobs(
    cluster: Cluster, untrained: Path
) -> None:
    slowly = ("--slurm-init-seconds-before-status-checks", "600")
    with start_run(cluster, untrained, "training_all", *MICRO, *slowly) as started:
        number = job_of(caught(started, untrained))
        os.killpg(started.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
        assert started.wait(60) != 0
    wait_for("the job's end", lambda: cluster.jobs()[number][0] == "CANCELLED")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "asked", "daemon"),
    [
        ("cluster_without_accounting", "squeue", "slurmctld"),
        ("cluster", "sacct", "slurmdbd"),
    ],
)
def test_a_daemon_that_restarts_is_waited_for(
    request: pytest.FixtureRequest,
    untrained: Path,
    micro_run: Path,
    kind: str,
    asked: str,
    daemon: str,
) -> None:
    """The one whose commands Snakemake asks about its jobs."""
    cluster: Cluster = request.getfixturevalue(kind)
    said = untrained / "said"
    command = ("--slurm-status-command", asked)
    with start_run(cluster, untrained, "training_all", *MICRO, *command) as started:
        job = caught(started, untrained)
        cluster.kill(daemon)
        job.resume()
        wait_for("the job's end", lambda: not job.is_running())
        wait_for("a question in vain", lambda: "does not respond" in said.read_text())
        cluster.start_daemon(daemon)
        well_ended(started, untrained)
    assert same_heads(untrained, micro_run)


@pytest.mark.slow
def test_snakemake_itself_may_be_killed(cluster: Cluster, untrained: Path, micro_run: Path) -> None:
    """Its jobs live on in SLURM and write while the next call makes the same outputs."""
    with start_run(cluster, untrained, "training_all", *MICRO) as started:
        job = caught(started, untrained)
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
    assert job.is_running()
    job.resume()
    code, said = whole_run(cluster, untrained, "training_all", *MICRO)
    assert code == 0, said[-3000:]
    wait_for("the first job's end", lambda: not job.is_running())
    assert same_heads(untrained, micro_run)


@pytest.mark.slow
def test_an_orphan_that_still_writes_does_no_harm(
    cluster: Cluster, untrained: Path, micro_run: Path
) -> None:
    """The node is lost to SLURM, which starts the job elsewhere; here it lives on."""
    with start_run(cluster, untrained, "training_all", *MICRO) as started:
        orphan = caught(started, untrained)
        node, number = node_of(orphan), job_of(orphan)
        cluster.kill(node)
        try:
            wait_for(
                "the job to start elsewhere",
                lambda: (
                    cluster.jobs()[number][0] == "RUNNING" and cluster.jobs()[number][1] != node
                ),
            )
            orphan.resume()  # both compute, lock and write the same pieces and outputs
            well_ended(started, untrained)
            wait_for("the orphan's end", lambda: not orphan.is_running())
        finally:
            cluster.start_node(node)
    assert same_heads(untrained, micro_run)
    wait_for("the node's return", lambda: cluster.node_state(node) == "idle")


@pytest.mark.slow
def test_a_job_that_cannot_run_is_named_with_its_log(
    cluster: Cluster, untrained: Path, micro_run: Path
) -> None:
    code, said = whole_run(
        cluster,
        untrained,
        "training_all",
        *MICRO,
        "--retries",
        "0",
        "--set-resources",
        "train_heads:mem_mb=150",
    )
    assert code == 1
    assert "Error in rule train_heads" in said
    logs = set(re.findall(r"[\w./-]+\.log", said.partition("Error in rule train_heads")[2]))
    found = [Path(untrained, log) for log in logs if Path(untrained, log).is_file()]
    assert any("slurm_logs/rule_train_heads" in str(log) for log in found)
    assert any(str(log).endswith("train_heads/EXPR/0.log") for log in found)
    # The next call goes on.
    code, said = whole_run(cluster, untrained, "training_all", *MICRO)
    assert code == 0, said[-3000:]
    assert same_heads(untrained, micro_run)
