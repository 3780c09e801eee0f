"""What a rule's code checksum covers: the import closure of its command, no more and no less."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from checksum_coverage import not_covered, recording

from workflow_lib.config_files import load_config
from workflow_lib.core.code import imported
from workflow_lib.workflow.code import code_of, command_modules

ROOT = Path(__file__).parents[2]
RULES = "".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
COMMANDS = sorted(set(re.findall(r'code_of\(\s*"([a-z-]+)"', RULES)))
"""Those of the rules: each has the checksum of its command's code, see test_rule_settings.py."""


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


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"report"}))  # the page shows descriptions
def test_a_better_description_makes_no_result_outdated(command: str) -> None:
    described = {f"workflow_lib.results{name}" for name in ("", "_captions", "_meanings")}
    assert not described & imported(command_modules(command))


def test_what_a_command_loads_is_covered(tmp_path: Path) -> None:
    """One quick command here; the whole smoke run is held to the same in test_workflow.py."""
    command = [
        sys.executable,
        "-m",
        "workflow_lib",
        "dft-plan",
        "--config",
        str(ROOT / "config/smoke.yaml"),
    ]
    (tmp_path / "pending.csv").write_text("cell,x,state_key\n1x1x1,0.5,1x1x1:Na1100:Fe2323\n")
    command += ["--pending", str(tmp_path / "pending.csv"), "--out", str(tmp_path / "jobs.jsonl")]
    loaded = tmp_path / "loaded"
    loaded.mkdir()
    subprocess.run(command, env=recording(loaded), cwd=ROOT, check=True, capture_output=True)
    config = load_config(ROOT / "config/smoke.yaml")
    assert not_covered(loaded, config) == {}
    # The check can fail: a command that is not the one that ran covers something else.
    [record] = loaded.glob("*.json")
    record.write_text(record.read_text().replace('"dft-plan"', '"schema"'))
    assert "workflow_lib.stages.dft.plan" in not_covered(loaded, config)["schema"]
