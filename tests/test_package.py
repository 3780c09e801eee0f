"""The package as others import it: everything named, nothing heavy before it is used."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from setuptools import find_packages

import workflow_lib
from workflow_lib.cli.main import group

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "ase", "numpy", "pandas", "pymatgen", "matplotlib", "pydantic", "pyarrow", "snakemake"}


def loaded_after(code: str) -> set[str]:
    """Top-level packages that a new Python has loaded after running some code."""
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_the_import_loads_nothing_heavy() -> None:
    assert not loaded_after("import workflow_lib") & HEAVY


def test_frames_hosts_and_results_load_no_torch() -> None:
    names = "Frame, Host, ModelId, RedoxRule, Run, Splits, lower_hull, read_frames, voltage_profile"
    loaded = loaded_after(f"from workflow_lib import {names}")
    assert "numpy" in loaded
    assert not loaded & {"torch", "snakemake", "sklearn"}


@pytest.mark.parametrize("name", workflow_lib.__all__)
def test_every_exported_name_is_there_and_documented(name: str) -> None:
    value = getattr(workflow_lib, name)
    assert name in dir(workflow_lib)
    assert name == "__version__" or (value.__doc__ and value.__module__.startswith("workflow_lib."))


def test_what_is_not_exported_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Hots"):
        workflow_lib.Hots  # noqa: B018
    with pytest.raises(ImportError):
        exec("from workflow_lib import Hots")


def test_the_guide_names_files_and_commands_that_exist() -> None:
    """Paths in code marks that name a file of the repository or of the package, and commands."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for path in re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", text):
        if path.startswith(("results/", "~", "models/<", "stages/<", "cli/<", "rules/<")):
            continue
        assert any((root / path).exists() for root in (ROOT, ROOT / "workflow_lib")), path
    for command in re.findall(r"workflow-lib ([a-z-]+)", text):
        assert command in group.commands, command
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert target in targets, target


def test_the_version_is_that_of_the_citation() -> None:
    assert f"version: {workflow_lib.__version__}\n" in (ROOT / "CITATION.cff").read_text()


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_lock_is_within_the_ranges() -> None:
    """What the package promises to run with is what its tests run with."""
    lines = "".join(path.read_text() for path in sorted((ROOT / "envs").glob("requirements*.lock")))
    locked = dict(re.findall(r"^([\w.-]+)==([\w.]+)", lines.lower().replace("_", "-"), re.MULTILINE))
    extras = PROJECT["optional-dependencies"].values()
    wanted = [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]
    for requirement in map(Requirement, wanted):
        name = requirement.name.lower().replace("_", "-")
        assert name in locked, name
        assert requirement.specifier.contains(locked[name]), f"{requirement}, locked {locked[name]}"


def test_every_package_we_import_is_a_dependency() -> None:
    """Except those that an optional engine or the workflow brings, and what a dependency re-exports."""
    known = {"yaml": "pyyaml", "ruamel": "ruamel.yaml", "sklearn": "scikit-learn", "mace": "mace-torch"}
    known |= {"torch_sim": "torch-sim-atomistic", "pytorch_lightning": "pytorch-lightning"}
    wanted = {Requirement(text).name.lower() for text in PROJECT["dependencies"]}
    extra = {"gpaw", "pybader", "snakemake", "snakemake_executor_plugin_slurm"}
    found = set()
    for path in (ROOT / "workflow_lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.split(".")[0])
    foreign = found - set(sys.stdlib_module_names) - {"workflow_lib"} - extra
    missing = {name for name in foreign if known.get(name, name).replace("_", "-") not in wanted}
    assert not missing


def test_the_wheel_holds_the_library_and_nothing_else() -> None:
    packages = find_packages(str(ROOT), include=["workflow_lib", "workflow_lib.*"])
    folders = {path.parent for path in (ROOT / "workflow_lib").rglob("*.py")}
    assert {str(path.relative_to(ROOT)).replace("/", ".") for path in folders} == set(packages)
    assert PROJECT["scripts"] == {"workflow-lib": "workflow_lib.cli.main:main"}
    assert (ROOT / "workflow_lib/py.typed").is_file()
