"""Coordination of atoms along a trajectory: how many ligands lie within a cut-off."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from workflow_lib.simulation.analysis.cells import in_mean_cell


def coordination(
    positions: np.ndarray, cell: np.ndarray, numbers: np.ndarray, element: int, ligand: int, cutoff: float
) -> np.ndarray:
    """Return the number of ligands within ``cutoff`` (A) of each atom of ``element``, in atom order.

    ``positions`` [n, 3] A, ``cell`` [3, 3] A (periodic), ``element`` and ``ligand`` atomic numbers.
    """
    from matscipy.neighbours import neighbour_list

    first, second = neighbour_list(
        "ij", positions=positions, cell=cell, pbc=np.array([True] * 3), cutoff=cutoff
    )
    bonds = (numbers[first] == element) & (numbers[second] == ligand)
    return np.bincount(first[bonds], minlength=len(numbers))[numbers == element]


def averaged(positions: np.ndarray, cells: np.ndarray, atoms: Atoms) -> Atoms:
    """Return the structure averaged over frames: mean unwrapped positions in the mean cell.

    Averaging removes the thermal noise that would smear a diffraction pattern. ``positions``
    [frames, n, 3] A, ``cells`` [frames, 3, 3] A; elements are those of ``atoms``.
    """
    mean = in_mean_cell(positions, cells).mean(axis=0)
    return Atoms(atoms.numbers, mean, cell=np.asarray(cells, dtype=float).mean(axis=0), pbc=True)
