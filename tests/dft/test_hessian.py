"""The starting Hessian of positions and cell, against energies of the model it is taken from."""

import numpy as np
import pytest
from ase.build import bulk
from ase.filters import FrechetCellFilter

from workflow_lib.dft.engines.gpaw.hessian import FLOOR, model_hessian


def test_compression_is_as_stiff_as_the_energy_says():
    """In rocksalt the isotropic strain moves no atom: its Hessian is d2E/dq2 of the cell alone."""
    from chgnet.model.dynamics import CHGNetCalculator

    atoms = bulk("MgO", "rocksalt", a=4.21)
    factor = len(atoms) ** 0.5
    hessian = model_hessian(FrechetCellFilter(atoms, exp_cell_factor=factor))
    n = 3 * len(atoms)
    assert hessian.shape == (n + 9, n + 9)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-9)
    # The eigenvalues are raised to the floor, up to rounding of the decomposition.
    assert np.linalg.eigvalsh(hessian).min() > FLOOR - 1e-6

    direction = np.zeros(n + 9)
    direction[n + np.array([0, 4, 8])] = 1 / np.sqrt(3)
    atoms.calc = CHGNetCalculator(use_device="cpu")
    moved, step = FrechetCellFilter(atoms, exp_cell_factor=factor), 0.05
    start = moved.get_positions()
    energies = []
    for sign in (-1, 0, 1):
        moved.set_positions(start + sign * step * direction.reshape(-1, 3))
        energies.append(atoms.get_potential_energy())
    curvature = (energies[0] - 2 * energies[1] + energies[2]) / step**2
    # Energies in single precision (1e-6 eV/atom over 0.0025 A^2) and a finite strain of 1 %.
    assert direction @ hessian @ direction == pytest.approx(curvature, rel=0.1)
    assert curvature > FLOOR
