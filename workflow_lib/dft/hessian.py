"""A starting Hessian for DFT relaxations, from the CHGNet that its wheel ships."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms

SHIFT = 0.02  # A
FLOOR = 4.0  # eV/A^2


def model_hessian(atoms: Atoms) -> np.ndarray:
    """Hessian ``[3n, 3n]`` in eV/A^2 by central differences of CHGNet forces.

    Only a guess for the optimiser: eigenvalues below 4 eV/A^2 are raised to it, so that no step
    goes uphill or far on the word of a model. It takes some seconds and saves half of the steps.
    """
    import contextlib
    import io
    import warnings

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from chgnet.model.dynamics import CHGNetCalculator

        work = atoms.copy()
        work.calc = CHGNetCalculator(use_device="cpu")
    rows = []
    for index in range(3 * len(work)):
        forces = []
        for sign in (1.0, -1.0):
            work.positions.flat[index] += sign * SHIFT
            forces.append(work.get_forces().ravel().astype(float))
            work.positions.flat[index] -= sign * SHIFT
        rows.append((forces[1] - forces[0]) / (2 * SHIFT))
    hessian = np.array(rows)
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    return (vectors * np.maximum(values, FLOOR)) @ vectors.T
