"""Olivine structures, and small untrained networks in double precision on them."""

import numpy as np
import torch
from ase import Atoms
from ase.spacegroup import crystal

from workflow_lib.models.contract import Output, Potential, Species, Structure
from workflow_lib.models.registry import FAMILIES

NA, FE, P, OX, GA = 11, 26, 15, 8, 31
SPECIES = Species((OX, NA, P, FE, GA), {OX: OX, NA: NA, P: P, FE: FE, GA: FE})
REFERENCES = {OX: -4.0, NA: -1.3, P: -5.1, FE: -9.2, GA: -8.7}

SMALL: dict[str, dict] = {
    "mace": {"num_channels": 4, "radial_mlp": (8, 8), "mlp_irreps": "4x0e", "r_max": 3.5},
    "painn": {"n_atom_basis": 8, "n_rbf": 6, "cutoff": 3.5},
    "cpainn": {"n_atom_basis": 8, "n_rbf": 6, "cutoff": 3.5},
    "chgnet": {"atom_fea_dim": 8, "bond_fea_dim": 8, "angle_fea_dim": 8, "n_conv": 3},
}

# Sums over atoms and edges run in another order in another batch, frame or cell: some thousand
# terms in double precision leave 1e-12 of the largest.
SAME = 1e-9


def olivine(*, filled: int = 4, seed: int = 0) -> Atoms:
    """Olivine NaxFePO4 (Pnma, experimental cell of Moreau 2010), rattled; ``filled`` of 4 Na."""
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
    """Olivine as networks see it; the first ``4 - filled`` Fe are Fe3+, shown as Ga."""
    atoms = olivine(filled=filled, seed=seed)
    species = np.array(atoms.numbers)
    if surrogates:
        species[np.flatnonzero(species == FE)[: 4 - filled]] = GA
    return Structure(species, np.array(atoms.numbers), atoms.positions.copy(), np.array(atoms.cell))


def build(family: str, *, seed: int = 1, species: Species = SPECIES, **hyperparameters) -> Potential:
    """Small untrained network in evaluation mode, with energies of the species set."""
    entry = FAMILIES[family]
    values = {"dtype": "float64", **SMALL.get(family, {}), **hyperparameters}
    potential = entry.load().build(entry.hyperparameters(**values), species, init="scratch", seed=seed)
    potential.set_reference_energies({label: REFERENCES[label] for label in species.labels})
    return potential.eval()


def evaluate(potential: Potential, *structures: Structure, stress: bool = True) -> Output:
    batch = potential.collate([potential.graph(item) for item in structures])
    return {k: v.detach() for k, v in potential(batch, stress=stress).items()}


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = SAME) -> None:
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * scale)
