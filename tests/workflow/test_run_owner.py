"""One Snakemake on a results folder, and no jobs of a killed one: with stand-ins for squeue and scancel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from workflow_lib.core.errors import UserError
from workflow_lib.workflow import run_owner
from workflow_lib.workflow.run_folder import remove_run
from workflow_lib.workflow.run_owner import own_run

# Jobs stand in jobs.json: ID -> [name, user, state, comment]. A cancelled job is COMPLETING for one
# more look; one whose comment is "stuck" for ever.
SLURM = f"""\
#!{sys.executable} -SE
import json, sys
from pathlib import Path
program, folder = Path(sys.argv[0]).name, Path(sys.argv[0]).parent
with (folder / "calls").open("a") as calls:
    print(program, *sys.argv[1:], file=calls)
if (folder / "down").exists():
    sys.exit(program + ": error: Unable to contact slurm controller (connect failure)")
jobs = json.loads((folder / "jobs.json").read_text())
options = dict(item.split("=", 1) for item in sys.argv[1:] if item.startswith("--") and "=" in item)
if program == "scancel":
    for job in sys.argv[1:]:
        jobs[job][2] = "COMPLETING"
else:
    for job, (name, user, state, comment) in jobs.items():
        if name in options["--name"].split(",") and user == options["--user"]:
            print(job, state, comment)
            if state == "COMPLETING" and comment != "stuck":
                jobs[job][2] = "CANCELLED"
(folder / "jobs.json").write_text(json.dumps(jobs))
"""
ME = str(os.getuid())
HOLDER = """
import sys, time
from pathlib import Path
from workflow_lib.workflow.run_owner import own_run
own_run(Path(sys.argv[1]), None)
print("holding", flush=True)
time.sleep(600)
"""


class Slurm:
    """The stand-in's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for program in ("squeue", "scancel"):
            (folder / program).write_text(SLURM)
            (folder / program).chmod(0o755)
        self.jobs()

    def jobs(self, **jobs: list[str]) -> None:
        (self.folder / "jobs.json").write_text(json.dumps({job[1:]: row for job, row in jobs.items()}))

    def calls(self, program: str) -> list[str]:
        calls = self.folder / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        return [line for line in lines if line.startswith(program)]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    slurm = Slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", str(slurm.folder))
    return slurm


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(run_owner, "POLL", 0.01)
    with ExitStack() as held:
        monkeypatch.setattr(run_owner, "_held", held)
        yield


def call(results: Path, run_id: str | None = None, wait: float = 60) -> list[str]:
    """What a call on the run says, which is over afterwards."""
    said: list[str] = []
    try:
        own_run(results, run_id, say=said.append, wait=wait)
    finally:
        run_owner._held.close()
    return said


def test_a_second_process_is_refused_and_told_by_whom(tmp_path):
    results = tmp_path / "results" / "demo"
    command = [sys.executable, "-c", HOLDER, str(results)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        with pytest.raises(UserError, match=rf"demo is in use by another .*process {holder.pid} on "):
            call(results)
        call(tmp_path / "results" / "other")
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert call(results) == []


def test_jobs_do_not_inherit_the_lock(tmp_path):
    own_run(tmp_path, None)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as job:
        run_owner._held.close()
        assert call(tmp_path) == []  # although the job is alive
        job.kill()


def test_jobs_of_a_killed_call_are_cancelled_and_waited_for(tmp_path, slurm):
    assert call(tmp_path, "first") == []
    assert slurm.calls("squeue") == []  # nobody to ask for
    slurm.jobs(
        _7=["first", ME, "RUNNING", "rule_train_wildcards_painn"],
        _8=["first", ME, "PENDING", ""],
        _9=["first", ME, "COMPLETED", "rule_dataset"],
        _10=["first", ME, "COMPLETING", "rule_charge_order"],
        _11=["other", ME, "RUNNING", "another run in this folder"],
        _12=["first", "12345", "RUNNING", "another user"],
    )
    said = call(tmp_path, "second")
    assert said[0].startswith("cancelling ")
    assert "7 RUNNING rule_train_wildcards_painn, 8 PENDING" in said[0]
    assert "7, 8, 10 " in said[-1]
    [cancel] = slurm.calls("scancel")
    assert cancel == "scancel 7 8"
    states = {job: row[2] for job, row in json.loads((slurm.folder / "jobs.json").read_text()).items()}
    assert states == {
        **{"7": "CANCELLED", "8": "CANCELLED", "9": "COMPLETED", "10": "CANCELLED"},
        **{"11": "RUNNING", "12": "RUNNING"},
    }
    slurm.jobs()
    assert call(tmp_path, "third") == []
    assert "--name=second" in slurm.calls("squeue")[-1]


def test_jobs_that_do_not_end_are_an_error_and_remembered(tmp_path, slurm):
    call(tmp_path, "first")
    slurm.jobs(_7=["first", ME, "RUNNING", "stuck"])
    with pytest.raises(UserError, match=r"still there: 7 .* stuck.*squeue --me --name=first"):
        call(tmp_path, "second", wait=0.3)
    slurm.jobs(_7=["first", ME, "RUNNING", ""])
    assert "7 RUNNING" in call(tmp_path, "third")[0]


def test_a_silent_controller_is_asked_again_and_then_an_error(tmp_path, slurm, monkeypatch):
    call(tmp_path, "first")
    (slurm.folder / "down").touch()
    # Time by looks at the clock: a busy machine may take all of the wait for one call of squeue.
    clock = SimpleNamespace(monotonic=count(0.0, 0.2).__next__, sleep=lambda _: None)
    monkeypatch.setattr(run_owner, "time", clock)
    with pytest.raises(UserError, match="Unable to contact slurm controller"):
        call(tmp_path, "second", wait=0.3)
    assert len(slurm.calls("squeue")) == 2
    # A call that uses no cluster is not kept waiting; the cluster's next one still asks for the jobs.
    [line] = call(tmp_path)
    assert "SLURM does not answer here" in line
    (slurm.folder / "down").unlink()
    slurm.jobs(_7=["first", ME, "RUNNING", ""])
    assert "7 RUNNING" in call(tmp_path, "third")[0]


def test_a_call_without_a_cluster_ends_jobs_on_it_too(tmp_path, slurm):
    call(tmp_path, "first")
    slurm.jobs(_7=["first", ME, "RUNNING", ""])
    assert "7 RUNNING" in call(tmp_path)[0]
    assert call(tmp_path) == []


def test_a_folder_is_not_removed_under_jobs_on_the_cluster(tmp_path, slurm):
    results = tmp_path / "demo"
    call(results, "first")
    (results / "config.json").write_text(json.dumps({"run": "demo"}))
    slurm.jobs(_7=["first", ME, "RUNNING", "rule_train_wildcards_painn"])
    with pytest.raises(UserError, match=r"work on .*demo: 7 RUNNING rule_train.*; end them \(scancel 7\)"):
        remove_run(results)
    (slurm.folder / "down").touch()
    with pytest.raises(UserError, match=r"Unable to contact.*--name=first.*delete .*demo/\.run/slurm"):
        remove_run(results)
    assert (results / ".run/slurm").read_text() == "first\n"
    (slurm.folder / "down").unlink()
    slurm.jobs(_7=["first", ME, "COMPLETED", ""])
    remove_run(results)
    assert not results.exists()


def test_without_slurm_nothing_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert call(tmp_path) == []
    assert call(tmp_path, "first") == []
    assert "SLURM does not answer here" in call(tmp_path)[0]
