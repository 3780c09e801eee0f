"""The provenance of a run: configuration, software versions, data checksums, seeds."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_lib.core.io import sha256

if TYPE_CHECKING:
    from workflow_lib.config import Config

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
            cwd=Path(__file__).parents[3],
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def collect_provenance(config: Config) -> dict[str, Any]:
    """Return the resolved configuration, versions, checksums and seeds of a run."""
    sources = [Path(config.frames), Path(config.host)]
    return {
        "configuration": config.model_dump(mode="json"),
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "code": _commit(),
        "data_sha256": {str(path): sha256(path) for path in sources},
        "seeds": {"run": config.seed, "training": list(config.seeds)},
        "energy_reference": config.dataset.energy_reference,
    }
