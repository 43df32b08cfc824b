"""Snakemake's executor for SLURM, told by commands that now answer and now do not."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import snakemake_executor_plugin_slurm as slurm
from conftest import only_commands
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from clipaffect.ops.slurm_executor import (
    NodeNames,
    exclude_real_nodes,
    keep_unanswered,
    needs_correction,
    plain_states,
    stop_at_once,
)

PAUSE = 4.0  # seconds before the first turn
COMMANDS = {
    "scontrol": "#!/bin/sh\ncat answer > /dev/null && echo 'MinJobAge = 300 sec'\n",
    "squeue": "#!/bin/sh\ncat answer\n",
    "sacct": "#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2; exit 1\n",
}


def executor_class() -> type[slurm.Executor]:
    """The real executor, without a workflow and its threads; a class that a test may change."""

    class Executor(slurm.Executor):
        def __init__(self) -> None:
            settings = SimpleNamespace(
                status_command="squeue",
                status_attempts=5,
                init_seconds_before_status_checks=1,
                keep_successful_logs=True,
                requeue=True,
            )
            common = SimpleNamespace(init_seconds_before_status_checks=PAUSE)
            self.lock, self.wait, self.active_jobs = threading.Lock(), True, []
            self._failed_nodes: set[str] = set()
            self._preemption_warning = False
            self.ends: dict[str, str] = {}
            scheduler = SimpleNamespace(
                finish_callback=lambda job: self.ends.update({job: "success"}),
                error_callback=lambda job: self.ends.update({job: "error"}),
            )
            self.workflow = SimpleNamespace(
                executor_settings=settings,
                executor_plugin=SimpleNamespace(common_settings=common),
                scheduler=scheduler,
            )
            self.logger = logging.getLogger("slurm")
            self.status_rate_limiter = AsyncExitStack()
            self.run_uuid = "run"
            self._next_seconds_between_status_checks = 1
            self._status_query_calls = self._status_query_failures = 0
            self._status_query_total_seconds = self._status_query_max_seconds = 0.0
            self._status_query_min_seconds = None
            self._status_query_cycle_rows = []

        def print_job_error(self, *_: object, **__: object) -> None:
            pass

    return Executor


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What squeue answers, if it is there; else all of SLURM's commands fail."""
    only_commands(tmp_path, monkeypatch, COMMANDS)
    return tmp_path / "answer"


def kept(executor: slurm.Executor, jobs: list[SubmittedJobInfo]) -> list[str]:
    """The jobs that a turn of questions keeps, by name."""

    async def turn() -> list[str]:
        return [info.job async for info in executor.check_active_jobs(jobs)]

    return asyncio.run(turn())


def jobs(**numbers: str) -> list[SubmittedJobInfo]:
    return [SubmittedJobInfo(job, number, {}) for job, number in numbers.items()]


def test_jobs_are_kept_until_slurm_answers_again(
    answer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kind = executor_class()
    keep_unanswered(kind)
    executor, three = kind(), jobs(a="1", b="2", c="3")
    assert kept(executor, three) == ["a", "b", "c"]
    assert executor.ends == {}
    assert "asking again about 3 jobs" in caplog.text
    caplog.clear()
    answer.write_text("1|RUNNING\n2|PENDING\n3|COMPLETING\n")
    assert kept(executor, three) == ["a", "b", "c"]
    answer.write_text("1|COMPLETED\n2|RUNNING\n3|FAILED\n")
    assert kept(executor, three) == ["b"]
    assert executor.ends == {"a": "success", "c": "error"}
    assert "does not respond" not in caplog.text


def test_the_executor_alone_forgets_them(answer: Path) -> None:
    """When this fails, the executor keeps them itself, and this correction can go."""
    executor, three = executor_class()(), jobs(a="1", b="2", c="3")
    assert kept(executor, three) == []
    assert executor.ends == {}
    answer.write_text("1|COMPLETED\n2|RUNNING\n3|FAILED\n")
    assert kept(executor, three) == ["b"]


# What sacct says of jobs; of job 7, which waits to be restarted, it knows no node.
SACCT = """#!/bin/sh
case "$*" in
*JobIdRaw,State*)
  echo '5|CANCELLED by 0'
  printf '%s\\n' '6|COMPLETED' '7|NODE_FAIL' '8|OUT_OF_MEMORY' '9|TIMEOUT' ;;
*nodelist*) echo '     None assigned' ;;
esac
"""


@pytest.fixture
def accounting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of a cluster with accounting."""
    scripts = {"sacct": SACCT, "scontrol": "#!/bin/sh\necho 'MinJobAge = 300 sec'\n"}
    only_commands(tmp_path, monkeypatch, scripts)


def asked(kind: type[slurm.Executor]) -> slurm.Executor:
    executor = kind()
    executor.workflow.executor_settings.status_command = "sacct"
    return executor


def log_files() -> list[SubmittedJobInfo]:
    return [SubmittedJobInfo(n, n, {"slurm_logfile": Path(n)}) for n in ("5", "6", "7", "8", "9")]


@pytest.mark.usefixtures("accounting")
def test_a_cancelled_job_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = asked(executor_class())
    assert kept(executor, log_files()) == ["5", "7"], "the fault is gone: so can plain_states"
    monkeypatch.setattr(slurm, "query_job_status", plain_states(slurm.query_job_status))
    executor = asked(executor_class())
    assert kept(executor, log_files()) == ["7"]
    assert executor.ends == {"5": "error", "6": "success", "8": "error", "9": "error"}


def test_a_job_that_stays_preempted_has_ended(
    answer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer.write_text("5|PREEMPTED\n6|PREEMPTED\n")
    executor = executor_class()()
    for _ in range(9):
        assert kept(executor, log_files()[:2]) == ["5", "6"], "the fault is gone"
    monkeypatch.setattr(slurm, "query_job_status", plain_states(slurm.query_job_status))
    for _ in range(2):
        assert kept(executor, log_files()[:2]) == ["5", "6"]
    answer.write_text("5|PREEMPTED\n6|RUNNING\n")
    assert kept(executor, log_files()[:2]) == ["6"]
    answer.write_text("6|PREEMPTED\n")
    assert kept(executor, log_files()[1:2]) == ["6"]
    assert executor.ends == {"5": "error"}


@pytest.mark.usefixtures("accounting")
def test_what_is_no_node_is_not_excluded() -> None:
    executor = asked(executor_class())
    kept(executor, log_files())
    assert executor._failed_nodes == {"None assigned"}, "the fault is gone: so can NodeNames"
    kind = executor_class()
    kind.__post_init__ = lambda self: None
    exclude_real_nodes(kind)
    executor = asked(kind)
    executor.__post_init__()
    kept(executor, log_files())
    assert executor._failed_nodes == set()
    executor._failed_nodes.add("cpu1\nNone assigned\n")
    executor._failed_nodes.add("gpu[1-3]")
    assert executor._failed_nodes == NodeNames(["cpu1", "gpu[1-3]"])


@pytest.mark.parametrize("corrected", [False, True])
def test_a_shutdown_ends_the_pause(corrected: bool) -> None:
    kind = executor_class()
    if corrected:
        stop_at_once(kind)
    executor = kind()
    thread = threading.Thread(target=lambda: asyncio.run(executor._wait_for_jobs()))
    began = time.monotonic()
    thread.start()
    executor.wait = False
    thread.join()
    lasted = time.monotonic() - began
    assert (lasted < PAUSE) is corrected, "the fault is gone: so can stop_at_once"


def test_the_corrections_are_for_the_installed_version() -> None:
    assert needs_correction()
