"""A SLURM that stops answering for a while only delays a run.

The executor plugin (2.8) forgets all its jobs if every attempt at querying their states fails, as
during a restart of the controller, and then waits for them forever.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from typing import Any


def keep_jobs(executor: Any) -> None:
    """Make a SLURM executor ask again for jobs that one query told nothing about; leave others alone."""
    if not type(executor).__module__.startswith("snakemake_executor_plugin_slurm"):
        return
    check = executor.check_active_jobs
    reported: set[int] = set()
    silent = False

    def noting(report: Callable[..., None]) -> Callable[..., None]:
        def report_and_note(job: Any, *arguments: Any, **named: Any) -> None:
            reported.add(id(job))
            report(job, *arguments, **named)

        return report_and_note

    executor.report_job_success = noting(executor.report_job_success)
    executor.report_job_error = noting(executor.report_job_error)

    async def check_and_keep(active_jobs: list[Any]) -> AsyncIterator[Any]:
        nonlocal silent
        reported.clear()
        kept = set()
        async for job in check(active_jobs):
            kept.add(id(job))
            yield job
        forgotten = [job for job in active_jobs if id(job) not in kept | reported]
        if forgotten and not silent:
            print(
                f"SLURM does not say what {len(forgotten)} of the jobs do; asking again",
                file=sys.stderr,
                flush=True,
            )
        silent = bool(forgotten)
        for job in forgotten:
            yield job

    executor.check_active_jobs = check_and_keep
