"""A run whose one training lasts long enough to inject faults, and what can be seen of it from outside."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

if TYPE_CHECKING:
    from cluster import Cluster

ROOT = Path(__file__).parents[2]
SMOKE = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
PROFILE = ROOT / "profiles/slurm/config.yaml"
RESUMED, STOPPED = "resuming after epoch", "stopped by SIGTERM, all kept"  # in the training's log
PATIENCE = 900.0  # s for anything to happen: the machine may be busy

CHANGES: dict[str, Any] = {
    "models": [model for model in SMOKE["models"] if model["name"] == "painn"],
    "variants": ["entropy"],
    "controls": [],
    # The rest of the workflow as short as may be; it ends in the table all the same.
    "charge_order": {"max_steps": 1},
    "search": {"cells": [SMOKE["search"]["cells"][1] | {"max_steps": 1}]},
}


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a true value and return it."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.2)
    return value


class Run:
    """One results folder, removed in the end, and the Snakemake processes on it.

    ``epochs`` and ``checkpoint_every_s`` are those of its training. ``alive`` is the largest number of
    training processes that were seen at the same time.
    """

    def __init__(self, folder: Path, name: str, epochs: int, checkpoint_every_s: float = 1) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.results = ROOT / "results" / f"test-{name}-{os.getpid()}"
        self.log = self.results / "logs/train-painn-entropy-f0-s1.log"
        self.table = self.results / "comparison/comparison.csv"
        self.config = self.folder / "config.yaml"
        changes = CHANGES | {
            "run": self.results.name,
            "dft": {"store": str(self.folder / "store")},
            "training": SMOKE["training"] | {"epochs": epochs, "checkpoint_every_s": checkpoint_every_s},
        }
        self.config.write_text(yaml.safe_dump(SMOKE | changes, sort_keys=False))
        # As it is, but for how soon a finished job is noticed.
        profile = yaml.safe_load(PROFILE.read_text())
        profile |= {"slurm-init-seconds-before-status-checks": 2, "latency-wait": 10}
        self.profile = self.folder / "profile.yaml"
        self.profile.write_text(yaml.safe_dump(profile, sort_keys=False))
        self.processes: list[subprocess.Popen[str]] = []
        self.alive = 0
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._count_trainings)

    def __enter__(self) -> Self:
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        shutil.rmtree(self.results, ignore_errors=True)

    def start(self, cluster: Cluster | None, *arguments: str) -> subprocess.Popen[str]:
        """Snakemake on this run: on the cluster, or on two cores of this machine."""
        command = [sys.executable, "-m", "snakemake", str(self.table.relative_to(ROOT)), *arguments]
        command += ["--configfile", str(self.config)]
        if cluster is None:
            command += ["--cores", "2"]
        else:
            command += [
                "--workflow-profile",
                str(self.profile),
                "--slurm-logdir",
                str(self.folder / "logs"),
            ]
        output = self.folder / f"snakemake-{len(self.processes)}.out"
        with output.open("w") as handle:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=None if cluster is None else cluster.environment,
                stdout=handle,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Exit status and output of a Snakemake that is to end by itself."""
        code = process.wait(timeout=PATIENCE)
        return code, self.output(process)

    def output(self, process: subprocess.Popen[str]) -> str:
        """What a Snakemake has said so far."""
        return (self.folder / f"snakemake-{self.processes.index(process)}.out").read_text()

    def call(self, cluster: Cluster | None, *arguments: str) -> tuple[int, str]:
        return self.finish(self.start(cluster, *arguments))

    def stopped(self) -> bool:
        """Whether the attempt at training under way has stored all on SIGTERM; each begins the log anew."""
        return self.log.exists() and STOPPED in self.log.read_text()

    def resumed(self) -> bool:
        """Whether the attempt at training under way goes on from an earlier one."""
        return self.log.exists() and RESUMED in self.log.read_text() and not self.stopped()

    def checkpoints(self) -> set[str]:
        return {path.name for path in (self.results / "work/checkpoints").rglob("*.pt")}

    def progress(self) -> None:
        """Wait for a checkpoint that is not there yet; not for that of a Snakemake that gave up."""
        before = self.checkpoints()

        def another() -> set[str]:
            code = self.processes[-1].poll()
            assert not code or code < 0, self.output(self.processes[-1])
            return self.checkpoints() - before

        until(another, "another checkpoint")

    def trainings(self) -> list[int]:
        """Processes that train into these results, by number: Python's, not those of shells around them."""
        config = str(self.results.relative_to(ROOT) / "config.json")
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue  # it has just ended
            # A shell has the whole command as one argument.
            if "train" in words and config in words:
                found.append(int(path.parent.name))
        return found

    def training(self, cluster: Cluster, attempt: int) -> str:
        """Wait for this attempt's training job to run; returns its ID."""

        def running() -> str | None:
            jobs = training_jobs(cluster)
            return jobs[attempt - 1] if len(jobs) == attempt else None

        job = until(running, f"training job {attempt}")
        until(lambda: cluster.jobs()[job]["JobState"] == "RUNNING", f"training job {attempt} to run")
        return job

    def _count_trainings(self) -> None:
        while not self._over.wait(0.2):
            self.alive = max(self.alive, len(self.trainings()))


def training_jobs(cluster: Cluster) -> list[str]:
    """IDs of the training jobs in the order of submission."""
    jobs = cluster.jobs()
    return sorted((job for job in jobs if jobs[job]["Comment"].startswith("rule_train_")), key=int)


def print_jobs(cluster: Cluster) -> list[dict[str, str]]:
    """The jobs in order, and on standard output (pytest -s, or where a test fails)."""
    jobs = cluster.jobs()
    for job in sorted(jobs, key=int):
        fields = jobs[job]
        times = " ".join(fields[key][11:] for key in ("StartTime", "EndTime"))
        asked = " ".join(fields.get(key, "-") for key in ("TimeLimit", "MinMemoryNode"))
        rule = re.sub("_wildcards_", " ", fields["Comment"])
        print(f"{job:>3} {fields['JobState']:<9} {times} {asked} {rule.strip()}")
    return [jobs[job] for job in sorted(jobs, key=int)]
