"""Faults of the scheduler, injected for real: no work is lost, nothing is done twice, the numbers stay.

Every faulted run goes through SLURM and must end with the comparison table of a run on this machine that
nothing disturbed, to the last byte.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from cluster import Cluster
from faulted_run import Run, print_jobs, training_jobs, until

OUTAGE = 60  # s
EPOCHS = 80  # the slowest fault takes SLURM half a minute to notice

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The table of a run on this machine."""
    with Run(tmp_path_factory.mktemp("reference"), "reference", EPOCHS) as run:
        code, output = run.call(None)
        assert code == 0, output
        return run.table.read_text()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster") as cluster:
        yield cluster


def seconds(since: float, what: str) -> None:
    print(f"{time.monotonic() - since:5.1f} s {what}")


def test_training_cancelled_and_out_of_time_until_no_attempt_is_left(
    tmp_path: Path, cluster: Cluster, undisturbed: str
) -> None:
    with Run(tmp_path, "cancelled", EPOCHS) as run:
        process = run.start(cluster)
        first = run.training(cluster, 1)
        run.progress()
        cluster.ask("scancel", first)
        at = time.monotonic()
        until(run.stopped, "the cancelled training's last word")
        seconds(at, "from scancel to the checkpoint")

        second = run.training(cluster, 2)
        until(run.resumed, "the second attempt to go on")
        seconds(at, "from scancel to resuming")
        run.progress()
        cluster.ask("scontrol", "update", f"JobId={second}", "EndTime=now+1")
        at = time.monotonic()
        until(run.stopped, "the last word of the training that is out of time")
        seconds(at, "from the time limit to the checkpoint")

        third = run.training(cluster, 3)
        until(run.resumed, "the third attempt to go on")
        cluster.ask("scancel", third)
        # restart-times of the profile: two. The run ends and says so; the same command goes on.
        code, output = run.finish(process)
        assert code == 1, output
        assert len(training_jobs(cluster)) == 3
        code, output = run.call(cluster)
        print_jobs(cluster)
        assert code == 0, output
        assert "left on the cluster" not in output
        assert run.resumed()
        jobs = cluster.jobs()
        states = [jobs[job]["JobState"] for job in training_jobs(cluster)]
        assert states == ["CANCELLED", "TIMEOUT", "CANCELLED", "COMPLETED"]
        assert run.table.read_text() == undisturbed
        assert run.alive == 1


def test_drained_node_silent_controller_and_a_second_call(
    tmp_path: Path, cluster: Cluster, undisturbed: str
) -> None:
    with Run(tmp_path, "drained", EPOCHS) as run:
        process = run.start(cluster)
        job = run.training(cluster, 1)
        node = cluster.jobs()[job]["NodeList"]
        run.progress()
        cluster.ask("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
        assert "drain" in cluster.ask("sinfo", "-h", "-o", "%T")

        cluster.stop("slurmctld")
        at = time.monotonic()
        run.progress()  # the node needs no controller
        code, output = run.call(cluster)
        assert code != 0
        assert "cannot be locked" in output  # Snakemake's own lock
        code, output = run.call(cluster, "--unlock")
        assert code == 0, output
        code, output = run.call(cluster)
        assert code != 0
        assert f"in use by another snakemake (process {process.pid} on " in output
        assert "Traceback" not in output
        time.sleep(max(0.0, at + OUTAGE - time.monotonic()))
        cluster.start("slurmctld")
        until(lambda: "UP" in cluster.ask("scontrol", "ping"), "the controller")
        seconds(at, "without a controller")

        until(lambda: cluster.jobs()[job]["JobState"] == "COMPLETED", "the end of the training")
        until(lambda: cluster.ask("squeue", "-h", "-t", "PD"), "a job that waits for the drained node")
        time.sleep(5)
        assert "drained" in cluster.ask("sinfo", "-h", "-o", "%T")
        assert not cluster.ask("squeue", "-h", "-t", "R")
        cluster.ask("scontrol", "update", f"NodeName={node}", "State=RESUME")
        code, output = run.finish(process)
        jobs = print_jobs(cluster)
        assert code == 0, output
        assert "SLURM does not say what " in output
        assert {fields["JobState"] for fields in jobs} == {"COMPLETED"}
        assert len({fields["Comment"] for fields in jobs}) == len(jobs)  # each once
        assert run.table.read_text() == undisturbed
        assert run.alive == 1


def test_jobs_of_a_killed_call_are_cancelled_by_the_next(
    tmp_path: Path, cluster: Cluster, undisturbed: str
) -> None:
    with Run(tmp_path, "killed", EPOCHS) as run:
        # What else is mine on the cluster, in the same folder: none of its business.
        options = ["--mem=100", "--output=/dev/null", f"--chdir={Path.cwd()}", "--comment=rule_other"]
        cluster.ask("sbatch", *options, "--job-name=other", "--wrap=sleep 3600")
        process = run.start(cluster)
        first = run.training(cluster, 1)
        run.progress()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        run.progress()  # an orphan at work
        code, output = run.call(cluster, "--unlock")
        assert code == 0, output
        at = time.monotonic()
        process = run.start(cluster)
        until(run.stopped, "the orphan's last word")
        seconds(at, "from the second call to the orphan's checkpoint")
        run.training(cluster, 2)
        until(run.resumed, "the second training to go on")
        seconds(at, "from the second call to resuming")
        code, output = run.finish(process)
        jobs = print_jobs(cluster)
        assert code == 0, output
        print(*(line for line in output.splitlines() if "earlier call" in line), sep="\n")
        assert f"left on the cluster: {first} RUNNING rule_train" in output
        assert "of the earlier call have ended; continuing" in output
        assert (jobs[0]["JobName"], jobs[0]["JobState"]) == ("other", "RUNNING")
        attempts = [fields for fields in jobs if fields["Comment"].startswith("rule_train_")]
        assert [fields["JobState"] for fields in attempts] == ["CANCELLED", "COMPLETED"]
        assert all(one["EndTime"] <= two["StartTime"] for one, two in pairwise(attempts))
        assert run.table.read_text() == undisturbed
        assert run.alive == 1
