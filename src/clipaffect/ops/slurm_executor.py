"""Corrections of Snakemake's executor for SLURM, version 2.8.0 of snakemake-executor-plugin-slurm.

Each was seen on a real SLURM (tests/cluster). tests/unit/test_slurm_executor.py shows each fault in
the executor as it is: a test fails there once a new version is right, and the correction can go.

1. The executor asks SLURM about all jobs in turns; a turn names those that run on and reports those
   that ended. A turn whose questions all fail does neither: Snakemake forgets every running job.
2. ``sacct`` reports who cancelled a job, ``CANCELLED by 0``. The executor knows only ``CANCELLED``,
   takes the job for a running one, and waits for ever.
3. A node that failed is excluded from later submissions. For a job that waits to be restarted,
   ``sacct`` gives ``None assigned`` as its node, and every later ``sbatch`` fails.
4. A preempted job counts as one that SLURM will restart. Where preemption cancels jobs, the
   executor waits for ever.
5. Cancelling a run waits until the pause between two turns is over, 40 to 180 seconds.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from importlib.metadata import version
from types import ModuleType
from typing import Any

PACKAGE = "snakemake-executor-plugin-slurm"
CORRECTED = "2.8.0"
PREEMPTED_TURNS = 3  # two to nine minutes: SLURM restarts a job within seconds


def needs_correction() -> bool:
    """Whether the installed executor is the version that the corrections were written for."""
    return version(PACKAGE) == CORRECTED


def correct(plugin: ModuleType) -> None:
    """Change the executor and its queries in place.

    Args:
        plugin: the module ``snakemake_executor_plugin_slurm``.
    """
    keep_unanswered(plugin.Executor)
    exclude_real_nodes(plugin.Executor)
    stop_at_once(plugin.Executor)
    plugin.query_job_status = plain_states(plugin.query_job_status)  # type: ignore[attr-defined]


def keep_unanswered(executor: Any) -> None:
    """Keep the jobs about which a turn of queries reported nothing (1)."""
    check, succeed, fail = (
        executor.check_active_jobs,
        executor.report_job_success,
        executor.report_job_error,
    )
    ended: list[Any] = []

    def report_job_success(self: Any, job: Any) -> None:
        ended.append(job)
        succeed(self, job)

    def report_job_error(self: Any, job: Any, *arguments: Any, **named: Any) -> None:
        ended.append(job)
        fail(self, job, *arguments, **named)

    async def check_active_jobs(self: Any, active_jobs: list[Any]) -> AsyncIterator[Any]:
        ended.clear()
        running = [job async for job in check(self, active_jobs)]
        told = {id(job) for job in [*running, *ended]}
        unanswered = [job for job in active_jobs if id(job) not in told]
        if unanswered:
            self.logger.warning(
                f"SLURM does not respond; asking again about {len(unanswered)} jobs."
            )
        for job in [*running, *unanswered]:
            yield job

    executor.report_job_success = report_job_success
    executor.report_job_error = report_job_error
    executor.check_active_jobs = check_active_jobs


def plain_states(query: Any) -> Any:
    """Wrap ``query_job_status``: states without who caused them (2), and preempted jobs (4).

    A job that stays preempted for ``PREEMPTED_TURNS`` turns is reported as cancelled.
    """
    turns: Counter[str] = Counter()

    async def query_job_status(*arguments: Any) -> tuple[dict[str, str] | None, float | None]:
        states, seconds = await query(*arguments)
        if states is None:
            return None, seconds
        states = {job: state.partition(" ")[0] for job, state in states.items()}
        for job, state in states.items():
            turns[job] = turns[job] + 1 if state == "PREEMPTED" else 0
            if turns[job] >= PREEMPTED_TURNS:
                states[job] = "CANCELLED"
        return states, seconds

    return query_job_status


class NodeNames(set[str]):
    """A set that takes only what can be the name of a node, or of several in brackets."""

    def add(self, listed: str) -> None:
        """Add each line of ``listed`` that is a name."""
        for line in listed.splitlines():
            if line and " " not in line.strip():
                super().add(line.strip())


def exclude_real_nodes(executor: Any) -> None:
    """Let an executor remember only names of nodes as failed nodes (3)."""
    prepare = executor.__post_init__

    def post_init(self: Any, *arguments: Any, **named: Any) -> None:
        prepare(self, *arguments, **named)
        self._failed_nodes = NodeNames(self._failed_nodes)

    executor.__post_init__ = post_init


def stop_at_once(executor: Any) -> None:
    """End an executor's pauses as soon as it is shut down (5)."""
    wait = executor._wait_for_jobs

    async def wait_for_jobs(self: Any) -> None:
        waiting = asyncio.ensure_future(wait(self))
        while self.wait and not waiting.done():
            await asyncio.wait([waiting], timeout=0.5)
        if not waiting.done():
            waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting

    executor._wait_for_jobs = wait_for_jobs
