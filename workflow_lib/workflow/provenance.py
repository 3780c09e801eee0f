"""The provenance of a run: what made each result, as its record says, and under which configuration."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json, sha256
from workflow_lib.workflow.made import Made, Record

PACKAGES = (
    "torch",
    "mace-torch",
    "e3nn",
    "chgnet",
    "schnetpack",
    "torch-sim-atomistic",
    "ase",
    "ase-ga",
    "pymatgen",
    "spglib",
    "scikit-learn",
    "numpy",
    "pandas",
    "snakemake",
)


def _commit() -> str | None:
    """Return the commit of the checkout, with ``-dirty`` if it was changed; None outside a repository."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


@cache
def made_with() -> dict[str, Any]:
    """Return commit, versions and machine of this process, which starts the jobs."""
    return {
        "commit": _commit(),
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def collect_provenance(
    run: Path,
    configuration: Mapping[str, Any],
    results: Iterable[str],
    data: Iterable[str],
) -> dict[str, Any]:
    """Return the provenance of the run folder ``run``.

    It holds the jobs that ``results`` come from, through all that these read; what an earlier configuration
    left in the folder is no part of it. ``data`` are the files that came from outside. Each job names the
    commit and the versions it ran with, which an interrupted run or an update may have changed between two
    jobs. Raises UserError where one of ``data`` is missing.
    """
    made: dict[str, Any] = {}
    environments: list[Mapping[str, Any]] = []
    records = _behind(results, Made(run))
    for record in records:
        if record.made_with not in environments:
            environments.append(record.made_with)
        made[record.name] = _job(record) | {"made_with": environments.index(record.made_with)}
    return {
        "configuration": configuration,
        "data_sha256": {path: _checksum(path) for path in data},
        "jobs": made,
        "made_with": environments,
        "processors": _processors(run, {r.wildcards["model"] for r in records if "model" in r.wildcards}),
    }


def _behind(results: Iterable[str], kept: Made) -> list[Record]:
    """Return the records, in their order, whose jobs made the results or what these come from.

    Of several that name a file (a study that asks another question has another rule) it is that of the
    present content.
    """
    records = list(kept.records())
    makers: dict[str, Record] = {}
    for record in records:
        for path, checksum in record.outputs.items():
            if path not in makers or kept.checksums.of(path) == checksum:
                makers[path] = record
    found: set[str] = set()
    ahead = list(results)
    while ahead:
        path = ahead.pop()
        maker = makers.get(path) or makers.get(str(Path(path).parent))  # a file of a folder
        if maker and maker.name not in found:
            found.add(maker.name)
            ahead += maker.inputs
    return [record for record in records if record.name in found]


def _checksum(path: str) -> str:
    if not Path(path).is_file():
        raise UserError(f"{path}, which the configuration names, is missing; put it back")
    return sha256(path)


def _processors(run: Path, models: Iterable[str]) -> dict[str, list[str]]:
    """Return each processor that trained models, with their ids; jobs may run on other machines than this.

    Trained weights depend on it: rounding differs in the last digits, and training amplifies that.
    """
    found: dict[str, list[str]] = {}
    for model in sorted(models):
        path = run / "training" / model / "timings.json"
        if path.is_file():
            found.setdefault(read_json(path).get("processor", "not recorded"), []).append(model)
    return found


def _job(record: Record) -> dict[str, Any]:
    return {"code": record.params.get("code"), "inputs": record.inputs, "outputs": record.outputs}
