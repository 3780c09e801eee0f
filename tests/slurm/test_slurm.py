"""The workflow through a real SLURM with the cluster profile: GPUs asked for, and handed out, one a job.

Some GPU jobs are CPU code here: the test's profile asks for GPUs where the configuration would not.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest
import yaml
from cluster import Cluster

from workflow_lib.stages.comparison.run import COLUMNS

ROOT = Path(__file__).parents[2]
PROFILE = ROOT / "profiles/slurm/config.yaml"
SMOKE = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
GPU_RULES = ("train", "charge_order", "search", "embedding")
FAMILIES = ("painn", "cpainn")  # of the smoke configuration's four: enough jobs to wait for GPUs

pytestmark = pytest.mark.slurm


def profile(folder: Path) -> Path:
    """The cluster profile, its GPU rules asking for a GPU, and watching its jobs more closely."""
    settings = yaml.safe_load(PROFILE.read_text())
    for rule in GPU_RULES:
        settings["set-resources"][rule]["gpu"] = 1
    settings |= {"slurm-init-seconds-before-status-checks": 2, "latency-wait": 10, "restart-times": 0}
    path = folder / "profile.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def overlapping(first: dict[str, str], second: dict[str, str]) -> bool:
    return max(first["StartTime"], second["StartTime"]) < min(first["EndTime"], second["EndTime"])


def test_cluster_starts_and_stops_twice_in_a_row(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path, tmp_path / "another"):
        with Cluster(folder) as cluster:
            assert cluster.ask("srun", "--gpus=1", "printenv", "CUDA_VISIBLE_DEVICES").strip() in ("0", "1")
            daemons = list(cluster.daemons.values())
        assert [daemon.poll() for daemon in daemons] == [0, 0, 0]


def test_smoke_configuration_through_slurm(tmp_path: Path) -> None:
    name = f"test-slurm-{os.getpid()}"
    models = [model for model in SMOKE["models"] if model["name"] in FAMILIES]
    config = tmp_path / "smoke.yaml"
    changes = {"run": name, "models": models, "controls": [], "dft": {"store": str(tmp_path / "store")}}
    config.write_text(yaml.safe_dump(SMOKE | changes, sort_keys=False))
    command = [sys.executable, "-m", "snakemake", "--configfile", str(config)]
    command += ["--workflow-profile", str(profile(tmp_path)), "--slurm-logdir", str(tmp_path / "logs")]
    results = ROOT / "results" / name
    try:
        with Cluster(tmp_path / "cluster", cpus=max(2, os.cpu_count() or 2)) as cluster:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=cluster.environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=1200,
            )
            jobs, seen = cluster.jobs(), cluster.tasks()
        assert done.returncode == 0, done.stdout + done.stderr
        table = pd.read_csv(results / "comparison/comparison.csv")
    finally:
        shutil.rmtree(results, ignore_errors=True)

    assert tuple(table.columns) == COLUMNS
    assert (table["status"] == "ok").sum() == 2 * len(FAMILIES)

    rules = {job: re.sub(r"^rule_|_wildcards_.*", "", fields["Comment"]) for job, fields in jobs.items()}
    for job in sorted(jobs, key=int):  # the job list, shown by pytest -s and where a test fails
        fields = jobs[job]
        times = " ".join(fields[key][11:] for key in ("StartTime", "EndTime"))
        asked = " ".join(fields.get(key, "-") for key in ("TimeLimit", "MinMemoryNode", "TresPerJob"))
        print(f"{job:>3} {fields['JobState']} {times} {asked} GPU {seen[job]} {fields['Comment']}")
    assert {fields["JobState"] for fields in jobs.values()} == {"COMPLETED"}

    on_gpu = [job for job, rule in rules.items() if rule in GPU_RULES]
    assert {rule: [rules[job] for job in on_gpu].count(rule) for rule in GPU_RULES} == dict.fromkeys(
        GPU_RULES, 2 * len(FAMILIES)
    )
    for job, fields in jobs.items():
        if job in on_gpu:
            assert fields["TresPerJob"] == "gres:gpu:1", fields
            assert seen[job] in ({"0"}, {"1"}), fields
        else:
            assert "TresPerJob" not in fields, fields
            assert seen[job] == {"-"}, fields

    together = [pair for pair in combinations(on_gpu, 2) if overlapping(*map(jobs.get, pair))]
    assert together, "no two GPU jobs ran at the same time"
    for first, second in together:
        assert seen[first].isdisjoint(seen[second]), (jobs[first], jobs[second])
