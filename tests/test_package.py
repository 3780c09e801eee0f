"""The package as others import it: everything named, nothing heavy before it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import workflow_lib

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "ase", "numpy", "pandas", "pymatgen", "matplotlib", "pydantic", "pyarrow", "snakemake"}


def loaded_after(code: str) -> set[str]:
    """Top-level packages that a new Python has loaded after running some code."""
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_the_import_loads_nothing_heavy() -> None:
    assert not loaded_after("import workflow_lib") & HEAVY


def test_reading_frames_and_hosts_loads_no_torch() -> None:
    loaded = loaded_after("from workflow_lib import Host, RedoxRule, ModelId, read_frames, lower_hull")
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


def test_the_version_is_that_of_the_citation() -> None:
    assert f"version: {workflow_lib.__version__}\n" in (ROOT / "CITATION.cff").read_text()
