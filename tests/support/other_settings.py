"""A crystal given in another setting."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from scipy.spatial.transform import Rotation

LABELS = "oxidation_states"


def unimodular(rng: np.random.Generator) -> np.ndarray:
    """A random basis of the same lattice: sums of vectors, permuted, of either hand."""
    matrix = np.eye(3, dtype=int)
    for _ in range(6):
        i, j = rng.choice(3, 2, replace=False)
        matrix[i] += rng.integers(-1, 2) * matrix[j]
    return matrix[rng.permutation(3)] * rng.choice([-1, 1], 3)[:, None]


def other_setting(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """The same crystal: another basis and origin, turned or mirrored, unwrapped, in another order."""
    turn = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix() * rng.choice([-1, 1])
    moved = Atoms(
        atoms.numbers,
        positions=(atoms.positions + rng.uniform(-9, 9, 3)) @ turn,
        cell=unimodular(rng) @ atoms.cell[:] @ turn,
        pbc=True,
    )
    moved.positions += rng.integers(-3, 4, (len(atoms), 3)) @ moved.cell[:]
    if LABELS in atoms.arrays:
        moved.set_array(LABELS, atoms.arrays[LABELS])
    return moved[rng.permutation(len(atoms))]
