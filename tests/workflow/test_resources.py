"""What jobs ask of the machine, read from a planned workflow: nothing is run or submitted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
SMOKE = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())

# Dry runs print no resources of jobs that have a message, so the plan itself is asked, in a process
# of its own: Snakemake leaves handlers and environment variables behind.
PLAN = """
import json, sys
from pathlib import Path
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, OutputSettings, Quietness, ResourceSettings

with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
    for config in sys.argv[1:]:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(configfiles=[Path(config)]),
            snakefile=Path("Snakefile"),
        )
        workflow.dag().execute_workflow("dryrun")
        jobs = workflow._workflow.dag.jobs
        print(json.dumps({job.rule.name: job.resources.get("gpu", 0) for job in jobs}))
"""


def test_a_gpu_is_asked_for_where_the_configuration_says_so(tmp_path: Path) -> None:
    models = [model for model in SMOKE["models"] if model["name"] == "painn"]
    gpus = {"cpu": 0, "cuda": 1}
    for device in gpus:
        config = SMOKE | {"run": "test-resources", "models": models, "controls": []}
        config["device"] = device
        (tmp_path / f"{device}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    paths = [str(tmp_path / f"{device}.yaml") for device in gpus]
    done = subprocess.run(
        [sys.executable, "-c", PLAN, *paths], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    plans = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(plans) == len(gpus)
    evaluating = {"train", "charge_order", "charge_order_identical", "search", "embedding"}
    for asked, count in zip(plans, gpus.values(), strict=True):
        assert {asked.pop(rule) for rule in evaluating} == {count}
        assert {"dataset", "thermodynamics", "comparison", "charge_order_ewald"} <= set(asked)
        assert not any(asked.values())  # these evaluate no model
