"""Snakemake's executor for SLURM, told by commands that now answer and now do not."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import snakemake_executor_plugin_slurm as slurm
from conftest import only_commands
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from clipaffect.ops.slurm_outages import keep_unanswered

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
            )
            self.ends: dict[str, str] = {}
            scheduler = SimpleNamespace(
                finish_callback=lambda job: self.ends.update({job: "success"}),
                error_callback=lambda job: self.ends.update({job: "error"}),
            )
            self.workflow = SimpleNamespace(executor_settings=settings, scheduler=scheduler)
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
    assert "does not answer" not in caplog.text


def test_the_executor_alone_forgets_them(answer: Path) -> None:
    """When this fails, the executor keeps them itself, and clipaffect.ops.slurm_outages can go."""
    executor, three = executor_class()(), jobs(a="1", b="2", c="3")
    assert kept(executor, three) == []
    assert executor.ends == {}
    answer.write_text("1|COMPLETED\n2|RUNNING\n3|FAILED\n")
    assert kept(executor, three) == ["b"]
