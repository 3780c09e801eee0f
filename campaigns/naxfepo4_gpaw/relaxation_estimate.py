"""What relaxing a geometry would still bring, from its DFT forces and stress and a model's Hessian."""

from __future__ import annotations

from typing import Any

import numpy as np

from workflow_lib.dft.calculation import Calculation

SOFTEST = 1.0
"""eV/A^2. Softer directions are counted with it: there the model's curvature is least certain, and three
of them are the rigid shifts of the whole crystal, along which nothing pulls."""


def harmonic_gain(hessian: np.ndarray, forces: np.ndarray) -> float:
    """Return the energy of the minimum against here, eV (zero or negative): -1/2 F H^-1 F.

    ``hessian`` ``[n, n]`` in eV/A^2 and ``forces`` ``[n]`` in eV/A belong to the same coordinates.
    Eigenvalues below :data:`SOFTEST`, negative ones too, are raised to it.
    """
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    along = vectors.T @ np.ravel(forces)
    return -0.5 * float(np.sum(along**2 / np.maximum(values, SOFTEST)))


def relaxation_estimate(calculation: Calculation, frame: dict[str, Any]) -> float:
    """Return the estimated gain of relaxing positions and cell from a stored geometry, eV per cell.

    Forces and stress are those of DFT, the Hessian is that of the CHGNet that its wheel ships. In the
    four cases of ``docs/dft.md`` it gave 0.4 to 2.2 times what a relaxation brought. Takes minutes for
    84 atoms.
    """
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.filters import FrechetCellFilter
    from ase.stress import full_3x3_to_voigt_6_stress

    from workflow_lib.dft.engines.gpaw.hessian import model_hessian

    atoms = Atoms(calculation.numbers, positions=frame["positions"], cell=frame["cell"], pbc=True)
    filtered = FrechetCellFilter(atoms, exp_cell_factor=len(atoms) ** 0.5)
    hessian = model_hessian(filtered, floor=-np.inf)
    atoms.calc = SinglePointCalculator(
        atoms,
        energy=frame["energy"],
        forces=np.array(frame["forces"]),
        stress=full_3x3_to_voigt_6_stress(np.array(frame["stress"])),
    )
    return harmonic_gain(hessian, filtered.get_forces())
