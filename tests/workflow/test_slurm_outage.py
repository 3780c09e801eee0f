"""Jobs of which one look at SLURM tells nothing are asked for again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from workflow_lib.workflow.slurm_outage import keep_jobs


class Executor:
    """As the plugin: one answer a look, from job to state; None where SLURM does not answer."""

    def __init__(self, *answers: dict[str, str] | None) -> None:
        self.answers = list(answers)
        self.reports: list[tuple[str, Any]] = []

    def report_job_success(self, job: Any) -> None:
        self.reports.append(("success", job))

    def report_job_error(self, job: Any, msg: str = "", aux_logs: object = None) -> None:
        self.reports.append((msg, job))

    async def check_active_jobs(self, active_jobs: list[Any]) -> AsyncIterator[Any]:
        answer = self.answers.pop(0)
        if answer is None:
            return
        for job in active_jobs:
            if answer[job[0]] == "COMPLETED":
                self.report_job_success(job)
            elif answer[job[0]] == "FAILED":
                self.report_job_error(job, msg="failed")
            else:
                yield job


def looks(executor: Executor, jobs: list[list[str]]) -> list[list[str]]:
    """Which jobs are left after each look, as Snakemake's loop does it."""

    async def loop() -> list[list[str]]:
        active, left = jobs, []
        while executor.answers:
            active = [job async for job in executor.check_active_jobs(active)]
            left.append(sorted(job[0] for job in active))
        return left

    return asyncio.run(loop())


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Executor, "__module__", "snakemake_executor_plugin_slurm")


def test_a_silent_controller_makes_no_job_forgotten(slurm, capsys):
    working = {"1": "RUNNING", "2": "PENDING", "3": "COMPLETED"}
    done = {"1": "COMPLETED", "2": "FAILED"}
    executor = Executor(working, None, None, working, None, done)
    keep_jobs(executor)
    jobs = [["1"], ["2"], ["3"]]
    assert looks(executor, jobs) == [["1", "2"]] * 5 + [[]]
    assert executor.reports == [("success", ["3"]), ("success", ["1"]), ("failed", ["2"])]
    said = capsys.readouterr().err.splitlines()
    assert said == ["SLURM does not say what 2 of the jobs do; asking again"] * 2  # once an outage


def test_other_executors_are_left_alone():
    executor = Executor()
    keep_jobs(executor)
    assert "check_active_jobs" not in vars(executor)
