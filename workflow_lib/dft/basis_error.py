"""What a fixed cut-off does to energies of unequal cells, and the warning where it is too much.

A fixed cut-off is another number of plane waves in each cell, and it jumps as the cell changes. With the
energy's slope against the logarithm of that number (Francis and Payne, J. Phys. Condens. Matter 2, 4395
(1990)) the deviation from the ideal number becomes an error of the energy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from ase.units import Bohr, Ha

from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.level import Level
from workflow_lib.dft.store import Record

FORMATION_LIMIT = 3.0
"""What the level may do to a formation energy, meV per formula unit."""


def plane_waves(cell: np.ndarray, level: Level) -> tuple[float, float]:
    """Return the mean number of plane waves over the mesh, and the ideal one of cell (A) and cut-off."""
    radius = np.sqrt(2 * level.cutoff / Ha) / Bohr  # 1/A
    reciprocal = 2 * np.pi * np.linalg.inv(cell).T
    reach = np.ceil(radius * np.linalg.norm(cell, axis=1) / (2 * np.pi)).astype(int) + 1
    indices = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1).reshape(
        -1, 3
    )
    counts = [
        int((np.linalg.norm((indices + point) @ reciprocal, axis=1) < radius).sum())
        for point in level.mesh()
    ]
    ideal = abs(np.linalg.det(cell)) * radius**3 / (6 * np.pi**2)
    return float(np.mean(counts)), float(ideal)


def basis_slope(records: Iterable[Record], level: Level) -> float | None:
    """Return dE/dln(number of plane waves) at the cut-off of ``level``, eV per formula unit, or None.

    From single points in the store of one structure and mesh (any: the basis knows nothing of it) at this
    cut-off and the next higher one, the steepest found. Energies flatten with the cut-off, so the slope
    *at* it is steeper still: what follows is a lower bound.
    """
    energies: dict[tuple[object, ...], dict[float, float]] = defaultdict(dict)
    for record in records:
        calculation = record.calculation
        if calculation.task == "single" and record.status == "done":
            plain = calculation.level.model_copy(update={"cutoff": level.cutoff})
            place = np.round(calculation.positions, 4).tobytes(), np.round(calculation.cell, 4).tobytes()
            state = calculation.orbital, calculation.oxidation_states.tobytes()
            energy = record.frames[-1]["energy"] / calculation.formula_units
            energies[plain.digest, *place, *state][calculation.level.cutoff] = energy
    slopes = []
    for found in energies.values():
        higher = [cutoff for cutoff in found if cutoff > level.cutoff]
        if level.cutoff in found and higher:
            above = min(higher)
            slopes.append((found[above] - found[level.cutoff]) / (1.5 * np.log(above / level.cutoff)))
    return min(slopes) if slopes else None


def basis_warnings(calculations: Sequence[Calculation], records: Iterable[Record]) -> list[str]:
    """Return one line for each level at which cells of unequal composition should not be compared.

    That is where the number of plane waves makes them differ by more than :data:`FORMATION_LIMIT`, or
    where the store does not say how much a plane wave is worth there.
    """
    levels: dict[str, Level] = {}
    deviations: dict[str, dict[bytes, float]] = defaultdict(dict)
    for calculation in calculations:
        level = calculation.level
        levels.setdefault(level.digest, level)
        composition = np.bincount(calculation.numbers, minlength=119).tobytes()
        if composition not in deviations[level.digest]:
            count, ideal = plane_waves(calculation.cell, level)
            deviations[level.digest][composition] = count / ideal - 1
    records = list(records)
    lines = []
    for digest, found in deviations.items():
        if len(found) < 2:
            continue
        level, spread = levels[digest], max(found.values()) - min(found.values())
        slope = basis_slope(records, level)
        said = (
            f"at {level.energy_reference} cells of {len(found)} compositions differ by {100 * spread:.2f} %"
            " in their number of plane waves"
        )
        if slope is None:
            lines.append(f"{said}; what that does to formation energies is not known: see dft-converge")
        elif (error := abs(slope) * spread * 1000) > FORMATION_LIMIT:
            lines.append(
                f"{said}: at least {error:.1f} meV per formula unit in formation energies "
                f"({FORMATION_LIMIT:g} are allowed); raise dft.level.cutoff"
            )
    return lines
