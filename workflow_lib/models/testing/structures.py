"""Structures that every check runs on: the olivine NaxFePO4, rattled, with and without labels."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.spacegroup import crystal

from workflow_lib.models.contract import Species, Structure

NA, FE, P, OX, GA = 11, 26, 15, 8, 31
SPECIES = Species((OX, NA, P, FE, GA), {OX: OX, NA: NA, P: P, FE: FE, GA: FE})
"""Fe2+ is shown as Fe, Fe3+ as Ga."""
REFERENCES = {OX: -4.0, NA: -1.3, P: -5.1, FE: -9.2, GA: -8.7}
"""Made-up energies of the species in eV, all different."""


def olivine(*, filled: int = 4, seed: int = 0) -> Atoms:
    """Return NaxFePO4 (Pnma, experimental cell of Moreau 2010), rattled, with ``filled`` of 4 Na."""
    atoms = crystal(
        ("Na", "Fe", "P", "O", "O", "O"),
        [
            (0, 0, 0),
            (0.2811, 0.25, 0.9825),
            (0.1056, 0.25, 0.4412),
            (0.1213, 0.25, 0.7095),
            (0.4504, 0.25, 0.1595),
            (0.1746, 0.0470, 0.3159),
        ],
        spacegroup=62,
        cellpar=(10.406, 6.219, 4.947, 90, 90, 90),
    )
    sodium = np.flatnonzero(atoms.numbers == NA)
    del atoms[sodium[filled:].tolist()]
    atoms.positions += np.random.default_rng(seed).normal(0, 0.05, (len(atoms), 3))
    return atoms


def structure(*, filled: int = 4, seed: int = 0, surrogates: bool = True) -> Structure:
    """Return the olivine as networks see it; the first ``4 - filled`` Fe are Fe3+, shown as Ga."""
    atoms = olivine(filled=filled, seed=seed)
    species = np.array(atoms.numbers)
    if surrogates:
        species[np.flatnonzero(species == FE)[: 4 - filled]] = GA
    return Structure(species, np.array(atoms.numbers), atoms.positions.copy(), np.array(atoms.cell))
