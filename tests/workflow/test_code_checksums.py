"""What a rule's code checksum covers: the import closure of its command, no more and no less."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from workflow_lib.core.code import imported
from workflow_lib.workflow.code import code_of, command_modules

ROOT = Path(__file__).parents[2]
COMMANDS = [
    *("sources", "dataset", "train", "charge-order-reference", "charge-order", "charge-order-ewald"),
    *("charge-order-identical", "charge-order-overview", "search", "search-overview", "dft-plan"),
    *("dft-run", "dft-energies", "thermodynamics", "embedding", "embedding-overview", "comparison"),
    "fetch",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_imports_what_it_runs_inside_its_function(command: str) -> None:
    assert command_modules(command)
    assert len(code_of(command)) == 16


def test_a_command_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="charge-odrer"):
        code_of("charge-odrer")


def test_an_engine_of_dft_does_not_touch_the_searches() -> None:
    engine = "workflow_lib.dft.engines.gpaw.engine"
    for command in ("search-overview", "search", "train", "charge-order", "embedding"):
        assert engine not in imported(command_modules(command)), command
    assert engine in imported(command_modules("dft-run"))


LOADED = """
import json, sys
from workflow_lib.__main__ import main
status = main(sys.argv[1:])
print(json.dumps([status, sorted(name for name in sys.modules if name.startswith("workflow_lib."))]))
"""


def loaded_by(*arguments: object) -> set[str]:
    """Run a command in a new Python; return the modules of this package that it loaded, cli/ left out."""
    command = [sys.executable, "-c", LOADED, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, check=True, timeout=600
    )
    status, modules = json.loads(done.stdout.splitlines()[-1])
    assert status == 0, done.stderr
    return {name for name in modules if not name.startswith("workflow_lib.cli")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[set[str], str]]:
    """The first commands of a run, as the rules call them: what each loaded, and its adapter.

    With the smallest networks and a step or two: what is computed is not the point.
    """
    root = tmp_path_factory.mktemp("run")
    raw = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    raw["training"]["epochs"] = 1
    raw["models"] = [model for model in raw["models"] if model["name"] == "painn"]
    raw["variants"] = ["entropy"]
    raw["controls"] = []
    raw["charge_order"] = {"max_steps": 1, "fmax": 1.0}
    raw["search"] = {"cells": [{"repeat": [1, 1, 1], "budget": 2, "population": 2, "offspring": 1}]}
    raw["search"]["cells"][0] |= {"max_steps": 1, "fmax": 1.0, "compositions": [2]}
    raw["dft"] = {"store": str(root / "store")}
    config = root / "config.yaml"
    config.write_text(yaml.safe_dump(raw))
    model = "painn-entropy-f0-s1"
    adapter = "workflow_lib.models.painn"
    folders = {
        "dataset": root / "dataset",
        "reference": root / "charge_order",
        "model-dir": root / "training" / model,
        "work": root / "work",
    }

    def call(command: str, out: Path, *names: str, more: Sequence[object] = ()) -> set[str]:
        given = [word for name in names for word in (f"--{name}", folders[name])]
        return loaded_by(command, "--config", config, *given, *more, "--out", out)

    answers, searches = root / "charge_order" / model, root / "search" / model
    return {
        "dataset": (call("dataset", folders["dataset"]), ""),
        "train": (
            call("train", folders["model-dir"], "dataset", "work", more=["--model", model]),
            adapter,
        ),
        "charge-order-reference": (call("charge-order-reference", folders["reference"], "dataset"), ""),
        "charge-order": (
            call("charge-order", answers, "model-dir", "reference", "dataset", "work"),
            adapter,
        ),
        "charge-order-ewald": (
            call("charge-order-ewald", root / "charge_order/ewald", "reference", "dataset"),
            "",
        ),
        "charge-order-overview": (
            call("charge-order-overview", root / "charge_order", more=["--charge-orders", answers]),
            "",
        ),
        "search": (call("search", searches, "model-dir", "reference", "work"), adapter),
        "search-overview": (
            call("search-overview", root / "search", "reference", more=["--searches", searches]),
            "",
        ),
        "dft-energies": (
            call("dft-energies", root / "dft", more=["--pending", root / "search/pending.csv"]),
            "",
        ),
        "embedding": (
            call("embedding", root / "embedding" / model, "model-dir", "dataset", "reference"),
            adapter,
        ),
    }


@pytest.mark.slow
def test_what_a_command_loads_is_what_its_checksum_covers(run: dict[str, tuple[set[str], str]]) -> None:
    """Loaded but not covered would be code whose change leaves old results standing."""
    for command, (loaded, adapter) in run.items():
        covered = imported([*command_modules(command), *([adapter] if adapter else [])])
        # The configuration is loaded by every command; its settings are parameters of the rules.
        missed = loaded - covered - imported(["workflow_lib.config"]) - {"workflow_lib.__main__"}
        assert not missed, (command, missed)
