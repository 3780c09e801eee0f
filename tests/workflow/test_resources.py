"""What jobs ask of the machine, read from a planned workflow: nothing is run or submitted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SMOKE = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
STUDIES = yaml.safe_load((ROOT / "config/chgnet.yaml").read_text())

# Dry runs print no resources of jobs that have a message, so the plan itself is asked, in a process
# of its own: Snakemake leaves handlers and environment variables behind.
PLAN = """
import json, sys
from pathlib import Path
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, ExecutionSettings, OutputSettings, Quietness
from snakemake.settings.types import ResourceSettings

with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
    for config in sys.argv[1:]:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(configfiles=[Path(config)]),
            snakefile=Path("Snakefile"),
        )
        workflow.dag().execute_workflow("dryrun", execution_settings=ExecutionSettings(retries=2))
        print("answer", json.dumps(answer(workflow._workflow.dag.jobs)))
"""
GPUS = """
def answer(jobs):
    return {job.rule.name: job.resources.get("gpu", 0) for job in jobs}
"""
ATTEMPTS = """
def answer(jobs):
    job = next(job for job in jobs if job.rule.name == "dynamics")
    minutes = []
    for job.attempt in (1, 2):
        job.reset_params_and_resources()
        minutes.append(job.resources["runtime"])
    return [job.restart_times, *minutes]
"""

MEMORY = """
def answer(jobs):
    asked = {}
    for job in jobs:
        if job.rule.name == "all":
            continue
        asked[job.rule.name] = megabytes = []
        for job.attempt in (1, 2, 3):
            job.reset_params_and_resources()
            megabytes.append(job.resources["mem_mb"])
    return asked
"""


def planned(answer: str, configs: dict[str, dict[str, Any]], folder: Path) -> list[Any]:
    """What ``answer``, the source of a function of that name, says of the jobs of each configuration."""
    paths = [folder / f"{name}.yaml" for name in configs]
    for path, config in zip(paths, configs.values(), strict=True):
        path.write_text(yaml.safe_dump(config | {"run": "test-resources"}, sort_keys=False))
    command = [sys.executable, "-c", answer + PLAN, *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("answer ")]
    assert len(said) == len(configs)
    return [json.loads(line.removeprefix("answer ")) for line in said]


def test_a_sequence_of_dynamics_is_tried_as_often_as_it_has_jobs(tmp_path: Path) -> None:
    """One job alone is tried again as the profile says, with the longer time of a later attempt."""
    asked = {"alone": {}, "sequence": {"max_wall_hours": 2, "jobs": 5}}
    configs = {
        name: STUDIES | {"dynamics": STUDIES["dynamics"] | changes} for name, changes in asked.items()
    }
    assert planned(ATTEMPTS, configs, tmp_path) == [[2, 1440, 2880], [4, 150, 150]]


def test_a_gpu_is_asked_for_where_the_configuration_says_so(tmp_path: Path) -> None:
    models = [model for model in SMOKE["models"] if model["name"] == "painn"]
    gpus = {"cpu": 0, "cuda": 1}
    configs = {device: SMOKE | {"models": models, "controls": [], "device": device} for device in gpus}
    plans = planned(GPUS, configs, tmp_path)
    evaluating = {"train", "charge_order", "charge_order_identical", "search", "embedding"}
    for asked, count in zip(plans, gpus.values(), strict=True):
        assert {asked.pop(rule) for rule in evaluating} == {count}
        assert {"dataset", "thermodynamics", "comparison", "charge_order_ewald"} <= set(asked)
        assert not any(asked.values())  # these evaluate no model


def test_a_job_that_ran_out_of_memory_gets_more(tmp_path: Path) -> None:
    """Of the profile, or, where that names none, of its rule: a default would count for no rule."""
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    assert "mem_mb" not in profile["default-resources"]
    models = [model for model in SMOKE["models"] if model["name"] == "painn"]
    [asked] = planned(MEMORY, {"painn": SMOKE | {"models": models, "controls": []}}, tmp_path)
    own = asked.keys() - profile["set-resources"].keys()
    assert {"comparison", "thermodynamics", "report", "charge_order_reference"} <= own
    assert {rule: asked[rule] for rule in own} == {
        rule: [attempt * asked[rule][0] for attempt in (1, 2, 3)] for rule in own
    }
    assert all("attempt" in str(entry["mem_mb"]) for entry in profile["set-resources"].values())
