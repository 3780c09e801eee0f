"""What a rule's code checksum covers: the import closure of its command, no more and no less."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import snakemake.api  # noqa: F401 - its parts import one another in this order only
from checksum_coverage import not_covered, recording
from snakemake.persistence.file import FilePersistence

from workflow_lib.config_files import load_config
from workflow_lib.core import code as core_code
from workflow_lib.core.code import imported
from workflow_lib.workflow import code as workflow_code
from workflow_lib.workflow.code import code_of, command_modules
from workflow_lib.workflow.made import Made
from workflow_lib.workflow.persistence import RecordedPersistence

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


def test_code_that_changes_while_a_job_runs_is_not_recorded(tmp_path, monkeypatch, capsys) -> None:
    """The job may have imported the new one; the next start runs it again."""

    async def nothing(*_: object) -> None:
        return None

    monkeypatch.setattr(FilePersistence, "finished", nothing)
    monkeypatch.setattr(FilePersistence, "started", lambda *_: None)
    for module in (core_code, workflow_code):
        monkeypatch.setattr(module, "ROOT", tmp_path / "workflow_lib")
    shutil.copytree(ROOT / "workflow_lib", tmp_path / "workflow_lib")
    code_of.cache_clear()
    (tmp_path / "out").touch()
    code = code_of("dft-plan")
    job = SimpleNamespace(
        rule=SimpleNamespace(name="dft_plan", shellcmd="plan"),
        wildcards_dict={},
        input=[],
        output=[str(tmp_path / "out")],
        params={"code": code},
    )
    store = RecordedPersistence.__new__(RecordedPersistence)
    store.made, store._inputs = Made(tmp_path), {}
    store.dag = SimpleNamespace(workflow=SimpleNamespace(is_main_process=True))
    for changed, recorded in (("stages/search/run.py", True), ("stages/dft/plan.py", False)):
        store.started(job)
        with (tmp_path / "workflow_lib" / changed).open("a") as source:
            source.write("# changed\n")
        asyncio.run(store.finished(job))
        assert (store.made.record("dft_plan", {}) is not None) == recorded
    assert "dft_plan must run again: its code changed while it ran" in capsys.readouterr().err
    assert code_of("dft-plan") == code
    code_of.cache_clear()
    core_code.code_checksum.cache_clear()
    workflow_code._functions.cache_clear()


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
