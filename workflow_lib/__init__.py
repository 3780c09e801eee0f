"""Charge states in machine-learned interatomic potentials: library and command line.

This file exports the public names: ``from workflow_lib import Host, read_frames, TrainedModel``.
A name is imported when it is first used, so that ``import workflow_lib`` is fast and a script that
reads frames never loads torch. Only ``workflow/`` knows Snakemake; every rule calls one command of
``workflow-lib``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workflow_lib.core.errors import UserError
    from workflow_lib.frames.foreign import read_frames, write_frames
    from workflow_lib.frames.frame import Frame
    from workflow_lib.frames.pymatgen_structure import as_atoms
    from workflow_lib.frames.splits import Splits
    from workflow_lib.frames.structure import read_structure
    from workflow_lib.lattice.host import Arrangement, Host
    from workflow_lib.lattice.hull import Hull, lower_hull
    from workflow_lib.lattice.redox import RedoxRule
    from workflow_lib.lattice.voltage import VoltageProfile, voltage_profile
    from workflow_lib.models.identity import ModelId
    from workflow_lib.models.outside import load_predictor
    from workflow_lib.models.predictor import Prediction, Predictor
    from workflow_lib.models.trained import TrainedModel
    from workflow_lib.results import Run
    from workflow_lib.simulation.calculator import PotentialCalculator
    from workflow_lib.simulation.relaxation import Relaxation, relax

__version__ = "0.1.0"
__all__ = [
    "Arrangement",
    "Frame",
    "Host",
    "Hull",
    "ModelId",
    "PotentialCalculator",
    "Prediction",
    "Predictor",
    "RedoxRule",
    "Relaxation",
    "Run",
    "Splits",
    "TrainedModel",
    "UserError",
    "VoltageProfile",
    "__version__",
    "as_atoms",
    "load_predictor",
    "lower_hull",
    "read_frames",
    "read_structure",
    "relax",
    "voltage_profile",
    "write_frames",
]
_MODULES = {
    "core.errors": ("UserError",),
    "frames.foreign": ("read_frames", "write_frames"),
    "frames.pymatgen_structure": ("as_atoms",),
    "frames.structure": ("read_structure",),
    "frames.splits": ("Splits",),
    "frames.frame": ("Frame",),
    "lattice.host": ("Arrangement", "Host"),
    "lattice.hull": ("Hull", "lower_hull"),
    "lattice.redox": ("RedoxRule",),
    "lattice.voltage": ("VoltageProfile", "voltage_profile"),
    "models.identity": ("ModelId",),
    "models.outside": ("load_predictor",),
    "models.predictor": ("Prediction", "Predictor"),
    "models.trained": ("TrainedModel",),
    "results": ("Run",),
    "simulation.calculator": ("PotentialCalculator",),
    "simulation.relaxation": ("Relaxation", "relax"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import an exported name; raise AttributeError for a name that is not exported."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # the next use finds it at once
    return value


def __dir__() -> list[str]:
    """Return the exported names, whether imported yet or not."""
    return sorted({*globals(), *__all__})
