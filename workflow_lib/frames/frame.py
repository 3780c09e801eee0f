"""One DFT frame: the columns of the frame table, their units, and what makes a frame valid.

Columns (missing labels are null, never zero): ``frame_id``, ``group`` (one material or one
charge-ordered state), ``path`` (the calculation that the frame belongs to: one relaxation, one run;
null if unknown), ``state_key`` (canonical arrangement, see ``host.py``), ``kind``
(relaxation, rattle, ...), ``source``, ``numbers`` [n], ``positions`` [n, 3] A, ``cell`` [3, 3] A
(rows are vectors), ``formula_units``, ``energy`` eV, ``forces`` [n, 3] eV/A, ``stress`` [3, 3]
eV/A^3 (tension positive) with ``stress_converged``, ``magmoms`` [n] muB, ``charges`` [n] e
(cations positive), ``oxidation_states`` [n] (formal; 0 where the site takes no part in redox),
``orbital``, ``magnetic_order`` (NM, FM, AFM, FiM; see ``magnetism``), ``fmax`` eV/A,
``energy_reference`` (code/functional/cut-off/k-mesh). Energies are comparable at one
``energy_reference`` and one ``magnetic_order``. All cells are periodic in three directions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from workflow_lib.core.errors import UserError
from workflow_lib.frames.magnetism import magnetic_order
from workflow_lib.lattice.sanity import LAST_ELEMENT, LIMITS, check_places

if TYPE_CHECKING:
    from ase import Atoms

PER_ATOM = ("forces", "magmoms", "charges", "oxidation_states")
"""Optional columns with one entry per atom."""
RELAXATION, SINGLE, UNSPECIFIED = "relaxation", "single", "unspecified"
"""Kinds of frame that are distinguished: a step of a relaxation, a static run, and one of unknown
kind. A kind that stands nowhere here says no more than the last one."""
SAMPLES = frozenset(
    (
        *("rattle", "rattle-relaxation", "strain", "displaced", "phonon", "md", "dynamics", "path"),
        *("level", "lithium", "magnetism", "noise", "orbital", "same-positions", "supercell"),
    )
)
"""Kinds that sample displaced atoms or strained cells, or (the second line, of this project's DFT) another
electronic state or what is computed again: however small their forces, they represent no state."""
TESTING = "testing"
"""``kind`` of frames that test models in every fold and train none."""


@dataclass(slots=True, kw_only=True)
class Frame:
    """One row of the frame table; see the module for units."""

    frame_id: str
    group: str
    kind: str
    source: str
    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    formula_units: int
    energy: float
    energy_reference: str
    path: str | None = None
    state_key: str | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    stress_converged: bool = False
    magmoms: np.ndarray | None = None
    charges: np.ndarray | None = None
    oxidation_states: np.ndarray | None = None
    orbital: str | None = None
    magnetic_order: str | None = None
    fmax: float | None = None

    def __post_init__(self) -> None:
        if self.magnetic_order is None and self.magmoms is not None and len(self.magmoms):
            self.magnetic_order = magnetic_order(self.magmoms)

    def __len__(self) -> int:
        return len(self.numbers)


def check_frame(frame: Frame, where: str) -> None:
    """Raise UserError for wrong-length arrays, values that are not finite, or a cell without volume.

    ``where`` names the file and row for the message.
    """
    n = len(frame.numbers)
    if not n or frame.numbers.min() < 1 or frame.numbers.max() > LAST_ELEMENT:
        raise UserError(f"{where}: numbers must be atomic numbers from 1 to {LAST_ELEMENT}, one per atom")
    for name in ("positions", *PER_ATOM):
        value = getattr(frame, name)
        if value is not None and len(value) != n:
            raise UserError(f"{where}: {name} has {len(value)} rows for {n} atoms; give one per atom")
    for name, limit in LIMITS.items():
        value = getattr(frame, name)
        if value is None:
            continue
        if not np.isfinite(value).all():
            raise UserError(
                f"{where}: {name} holds values that are not finite; remove the frame or leave the label out"
            )
        largest = float(np.abs(value).max(initial=0))
        if largest > (limit * n if name == "energy" else limit):
            raise UserError(f"{where}: {name} of {largest:.3g} cannot be; see docs/data.md for the units")
    if frame.formula_units < 1:
        raise UserError(f"{where}: formula_units is {frame.formula_units}; a cell holds at least 1")
    check_places(frame.positions, frame.cell, where)


def frame_to_atoms(frame: Frame) -> Atoms:
    """Return the frame as ASE atoms.

    ``oxidation_states`` becomes an array of that name; other labels become ``REF_energy``,
    ``REF_forces``, ``REF_stress``, ``REF_magmom`` and ``REF_charge``, names which ASE's readers
    leave alone.
    """
    from ase import Atoms

    atoms = Atoms(frame.numbers, positions=frame.positions, cell=frame.cell, pbc=True)
    atoms.info["REF_energy"] = frame.energy
    for name in ("frame_id", "group", "path", "state_key", "kind", "source", "formula_units"):
        if getattr(frame, name) is not None:
            atoms.info[name] = getattr(frame, name)
    for name in ("energy_reference", "orbital", "magnetic_order", "fmax"):
        if getattr(frame, name) is not None:
            atoms.info[name] = getattr(frame, name)
    if frame.stress is not None:
        atoms.info["REF_stress"] = frame.stress
        atoms.info["stress_converged"] = frame.stress_converged
    for name, key in (
        ("forces", "REF_forces"),
        ("magmoms", "REF_magmom"),
        ("charges", "REF_charge"),
    ):
        if getattr(frame, name) is not None:
            atoms.arrays[key] = np.array(getattr(frame, name))
    if frame.oxidation_states is not None:
        atoms.arrays["oxidation_states"] = np.array(frame.oxidation_states)
    return atoms


def single_reference(frames: Iterable[Frame], where: str) -> str:
    """Return the only energy reference of these frames; raise UserError if levels of theory are mixed."""
    found = {frame.energy_reference for frame in frames}
    if len(found) != 1:
        raise mixed_levels(found, where)
    return found.pop()


def mixed_levels(found: set[str], where: str) -> UserError:
    """Return the error for several energy references in one place."""
    return UserError(
        f"{where} mixes {len(found)} levels of theory ({'; '.join(sorted(found))}); energies of "
        "different levels must not be mixed: keep one energy_reference"
    )


def with_labels(frame: Frame, **changes: Any) -> Frame:
    """Return a copy of the frame with some columns replaced; new moments show their own order."""
    if "magmoms" in changes:
        changes.setdefault("magnetic_order", None)
    return replace(frame, **changes)
