"""Wait through SLURM outages, when its controller or accounting is down.

Snakemake's executor asks SLURM about all jobs in turns; a turn names those that run on and reports
those that ended. In version 2.8.0 of snakemake-executor-plugin-slurm a turn whose questions all
fail does neither: Snakemake forgets every job that runs and waits for ever (seen in
tests/cluster/test_slurm_breaks.py with a controller that is away for a while).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any


def keep_unanswered(executor: Any) -> None:
    """Make an executor keep the jobs about which a turn of queries reported nothing.

    Args:
        executor: a class of Snakemake's remote executors, changed in place.
    """
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
