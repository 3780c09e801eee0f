"""Holds what commands loaded against what the code checksums of their rules cover."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

from workflow_lib.config import FAMILIES, Config
from workflow_lib.core.code import ROOT, imported
from workflow_lib.workflow.code import command_modules

RECORDER = Path(__file__).parent / "loaded_modules"


def recording(folder: Path) -> dict[str, str]:
    """Return the environment in which every command writes into ``folder`` what it loaded."""
    path = os.pathsep.join(filter(None, [str(RECORDER), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "LOADED_MODULES": str(folder)}


def _command_line() -> frozenset[str]:
    """Return what every command loads before its function runs: ``cli/`` and the configuration.

    It computes nothing. What a rule takes from the configuration is in its parameters.
    """
    modules = {"workflow_lib.config", "workflow_lib.config_files"}
    for file in (ROOT / "cli").glob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if (
                isinstance(node, ast.ImportFrom)
                and node.module
                and not node.module.startswith("workflow_lib.cli")
            ):
                modules |= {node.module} if node.module.startswith("workflow_lib.") else set()
    return imported(modules)


def not_covered(folder: Path, config: Config) -> dict[str, set[str]]:
    """Return the modules each recorded command loaded whose change would not rerun its rule, if any."""
    models = {str(model): FAMILIES[config.model(model.name).family].module for model in config.trained()}
    beside = _command_line()
    found: dict[str, set[str]] = {}
    for path in folder.glob("*.json"):
        record = json.loads(path.read_text())
        command, *arguments = record["arguments"]
        adapters = {models[name] for word in arguments if (name := Path(word).name) in models}
        covered = imported([*command_modules(command), *adapters]) | beside
        loaded = {name for name in record["modules"] if not name.startswith("workflow_lib.cli")}
        if missed := loaded - covered - {"workflow_lib", "workflow_lib.__main__"}:
            found.setdefault(command, set()).update(missed)
    assert list(folder.glob("*.json")), "no command wrote what it loaded"
    return found
