"""A starting Hessian for DFT relaxations, from the CHGNet that its wheel ships."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms
    from ase.filters import FrechetCellFilter

SHIFT = 0.02  # A
STRAIN = 0.007
FLOOR = 4.0  # eV/A^2


def model_hessian(atoms: Atoms | FrechetCellFilter, floor: float = FLOOR) -> np.ndarray:
    """Return the Hessian ``[3n, 3n]`` in eV/A^2 by central differences of CHGNet forces.

    Of a FrechetCellFilter the Hessian ``[3n + 9, 3n + 9]`` of positions and cell. Only a guess for
    the optimiser: eigenvalues below ``floor`` (eV/A^2) are raised to it, so that no step goes uphill
    or far on the word of a model. It takes some seconds and saves half of the steps.
    """
    import contextlib
    import io
    import warnings

    from ase.filters import FrechetCellFilter

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from chgnet.model.dynamics import CHGNetCalculator

        factor = atoms.exp_cell_factor if isinstance(atoms, FrechetCellFilter) else None
        model = (atoms.atoms if isinstance(atoms, FrechetCellFilter) else atoms).copy()
        model.set_constraint()
        model.calc = CHGNetCalculator(use_device="cpu")
    work = model if factor is None else FrechetCellFilter(model, exp_cell_factor=factor)
    start = work.get_positions()
    rows = []
    for index in range(start.size):
        shift = SHIFT if index < 3 * len(model) else STRAIN * (factor or 1.0)
        forces = []
        for sign in (1.0, -1.0):
            shifted = start.copy()
            shifted.flat[index] += sign * shift
            work.set_positions(shifted)
            forces.append(work.get_forces().ravel().astype(float))
        rows.append((forces[1] - forces[0]) / (2 * shift))
    hessian = np.array(rows)
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    return (vectors * np.maximum(values, floor)) @ vectors.T
