"""Electrostatic energy of formal point charges, by Ewald's sum (pymatgen)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workflow_lib.lattice.arrangement import Arrangement

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

    from workflow_lib.lattice.host import Host

_ACCURACY = 5.6
"""erfc of it, and the exponential of its square, are about 1e-14."""
_REACH = 14.0
"""A; where the sum over images ends."""
_WAVES = 2000
"""Waves at once."""
_SAME = 1e-6
"""A; nearer than this a point is the charge itself."""


def _charged(atoms: Atoms, charges: np.ndarray) -> Structure:
    from ase import Atoms
    from pymatgen.io.ase import AseAtomsAdaptor

    bare = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    structure = AseAtomsAdaptor.get_structure(bare)
    structure.add_oxidation_state_by_site([float(charge) for charge in charges])
    return structure


def ewald_energy(atoms: Atoms, charges: np.ndarray) -> float:
    """Return the electrostatic energy of point charges ``[n]`` (e) in a periodic neutral cell, in eV."""
    from pymatgen.analysis.ewald import EwaldSummation

    return float(EwaldSummation(_charged(atoms, charges)).total_energy)


def electrostatic_order(arrangement: Arrangement, host: Host) -> Arrangement:
    """Return the ions with the charge order of lowest point-charge energy (formal charges).

    It represents an arrangement of a charge-blind model, which knows no order, because DFT needs
    one. pymatgen's EwaldMinimizer searches the minimum on the undistorted structure.
    """
    from pymatgen.analysis.ewald import EwaldMinimizer, EwaldSummation

    size = host.n_reduced(arrangement.repeat, len(arrangement.occupied))
    every = tuple(range(host.n_redox(arrangement.repeat)))
    if size in (0, len(every)):
        return Arrangement(arrangement.repeat, arrangement.occupied, every[:size])
    atoms = host.build(Arrangement(arrangement.repeat, arrangement.occupied, every[:size]))
    charges = host.rule.formal(atoms.numbers, atoms.get_array("oxidation_states"))
    sites = np.flatnonzero(atoms.numbers == host.rule.redox_z)
    charges[sites] = host.high
    change = [host.low / host.high, size, [int(site) for site in sites], None]
    matrix = EwaldSummation(_charged(atoms, charges)).total_energy_matrix
    chosen = EwaldMinimizer(matrix, [change], 1, EwaldMinimizer.ALGO_FAST).output_lists[0][1]
    reduced = sorted(int(np.flatnonzero(sites == site)[0]) for site, _ in chosen)
    return Arrangement(arrangement.repeat, arrangement.occupied, tuple(reduced))


def pair_potentials(cell: np.ndarray, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the potentials [a, b] (1/A) at points ``ones`` [a, 3] of unit charges at ``others`` [b, 3].

    Positions and ``cell`` [3, 3] in A. Each charge has its periodic images and a uniform background
    that makes it neutral; a point that is a charge itself sees the images alone. By Ewald's sum, to
    about 1e-12. Only points of all distinct displacements are needed, which pymatgen's summation,
    made for one structure, cannot use.
    """
    from itertools import product

    from scipy.special import erfc

    volume = abs(np.linalg.det(cell))
    reciprocal = 2 * np.pi * np.linalg.inv(cell).T
    width = _ACCURACY / _REACH  # 1/A, the square root of Ewald's splitting parameter
    total = np.full((len(ones), len(others)), -np.pi / (width**2 * volume))
    gap = others[None] - ones[:, None]
    scaled = gap @ np.linalg.inv(cell)
    gap -= np.round(scaled) @ cell
    # Of a displacement reduced to the cell's middle no coordinate exceeds 1/2.
    heights = volume / np.linalg.norm(np.cross(cell[[1, 2, 0]], cell[[2, 0, 1]]), axis=1)
    images = np.ceil(_REACH / heights + 0.5).astype(int)
    for image in product(*(range(-n, n + 1) for n in images)):
        distance = np.linalg.norm(gap + np.array(image) @ cell, axis=-1)
        near = (distance < _REACH) & (distance > _SAME)
        total[near] += erfc(width * distance[near]) / distance[near]
        total[distance <= _SAME] -= 2 * width / np.sqrt(np.pi)
    largest = 2 * width * _ACCURACY
    counts = np.ceil(largest * np.linalg.norm(cell, axis=1) / (2 * np.pi)).astype(int)
    grid = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in counts), indexing="ij"), -1).reshape(-1, 3)
    # Of a wave and its opposite one is enough.
    half = (grid[:, 0] > 0) | (
        (grid[:, 0] == 0) & ((grid[:, 1] > 0) | ((grid[:, 1] == 0) & (grid[:, 2] > 0)))
    )
    waves = grid[half] @ reciprocal
    squares = (waves**2).sum(axis=1)
    waves, squares = waves[squares < largest**2], squares[squares < largest**2]
    weights = 8 * np.pi / volume * np.exp(-squares / (4 * width**2)) / squares
    for first in range(0, len(waves), _WAVES):
        few = slice(first, first + _WAVES)
        left = weights[few, None] * np.exp(1j * (waves[few] @ ones.T))
        total += (left.conj().T @ np.exp(1j * (waves[few] @ others.T))).real
    return total
