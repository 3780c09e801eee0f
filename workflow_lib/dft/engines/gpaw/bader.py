"""Bader charges from GPAW's all-electron density, with pybader."""

from __future__ import annotations

import contextlib
import io
import tempfile
from typing import Any

import numpy as np

from workflow_lib.frames.bader import charge_tolerance

GRID_REFINEMENT = 2
"""Of the density grid; 2 gives charges of Fe within 0.02 e of 4 in olivine NaFePO4."""


def bader_charges(calculator: Any) -> np.ndarray:
    """Return charges ``[n]`` in e, cations positive: atomic number minus electrons in the atom's basin.

    ``calculator`` is a converged GPAW calculator. Raises RuntimeError where the basins do not hold
    all electrons to 0.1 e, or where an atom has no basin.
    """
    # pybader draws progress bars and leaves a file in the working folder.
    with (
        tempfile.TemporaryDirectory() as scratch,
        contextlib.chdir(scratch),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        from pybader.interface import Bader

        atoms = calculator.atoms
        density = np.ascontiguousarray(calculator.get_all_electron_density(gridrefinement=GRID_REFINEMENT))
        lattice = np.ascontiguousarray(atoms.cell[:].astype(float))
        information = {
            "filename": "density",
            "prefix": "",
            "file_type": "cube",
            "write_function": None,
            "elements": atoms.numbers,
            "voxel_offset": np.zeros(3),
        }
        positions = np.ascontiguousarray(atoms.get_scaled_positions() @ lattice)
        bader = Bader({"charge": density}, lattice, positions, information)
        bader.threads = 1
        bader()
    charges = atoms.numbers - np.asarray(bader.atoms_charge)[: len(atoms)]
    if not np.isfinite(charges).all() or abs(charges.sum()) > charge_tolerance(len(atoms)):
        raise RuntimeError(f"Bader basins hold {charges.sum():+.2f} e too few electrons")
    return charges
