"""Finished calculations as rows of the frame table."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.charge_state import lost
from workflow_lib.dft.store import Record
from workflow_lib.frames.frame import Frame

STRESS_CUTOFF = 800.0
"""eV; from this plane-wave cut-off on the stress is within 0.25 GPa of that at 900 eV (docs/dft.md)."""


def frames_of(records: Iterable[Record], source: str) -> list[Frame]:
    """Return every computed geometry in its wanted charge state, in the order of records and steps.

    Geometries imported from an earlier set are left out, as are those whose moments show another
    charge state or other signs than those wanted. ``kind`` is the calculation's; ``group`` names its
    arrangement.
    """
    frames = []
    for record in records:
        calculation = record.calculation
        for step, content in enumerate(record.frames):
            if "imported" in content:
                continue
            magmoms = _optional(content, "magmoms")
            if not calculation.unsteered and (magmoms is None or lost(calculation, magmoms)):
                continue
            frames.append(_frame(calculation, content, step, source))
    return frames


def _optional(content: dict, name: str) -> np.ndarray | None:
    value = content.get(name)
    return None if value is None else np.array(value, dtype=float)


def _frame(calculation: Calculation, content: dict, step: int, source: str) -> Frame:
    forces = np.array(content["forces"], dtype=float)
    path = f"{calculation.name.replace(' ', '_')}-{calculation.digest[:8]}"
    return Frame(
        frame_id=f"{path}-{step:02d}",
        path=path,
        group=calculation.group,
        kind=calculation.kind,
        source=source,
        numbers=calculation.numbers,
        positions=np.array(content["positions"], dtype=float),
        cell=np.array(content["cell"], dtype=float),
        formula_units=calculation.formula_units,
        energy=content["energy"],
        energy_reference=calculation.level.energy_reference,
        forces=forces,
        stress=_optional(content, "stress"),
        stress_converged=calculation.level.cutoff >= STRESS_CUTOFF,
        magmoms=_optional(content, "magmoms"),
        charges=_optional(content, "charges"),
        orbital=None if calculation.unsteered else calculation.orbital,
        fmax=float(np.linalg.norm(forces, axis=1).max()),
    )
