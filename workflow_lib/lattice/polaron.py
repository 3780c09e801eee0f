"""The distortion around a charge state: anions near a redox site, drawn in or pushed out.

The host defines which neighbours count: anions are its ions of negative formal charge, and the
shell of a redox site ends at the widest gap in its distances to them. In the olivine these are the six
oxygens of the FeO6 octahedron.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError

if TYPE_CHECKING:
    from ase import Atoms

    from workflow_lib.lattice.host import Host

LARGEST = 12
"""Largest number of anions in a shell: close packing."""
REACH = 1.5
"""Neighbours are searched up to this many times the longest bond of the host's shells."""


class Bonds(NamedTuple):
    """Bonds [b]: the ``redox`` atom, the ``anion``, the ``vector`` [b, 3] and its ``length`` in A.

    ``rank`` counts the bonds of a redox atom by length, from 0.
    """

    redox: np.ndarray
    anion: np.ndarray
    vector: np.ndarray
    length: np.ndarray
    rank: np.ndarray


class Shells:
    """Anion shells of a host: ``sizes`` [n_redox] of the sites of its cell, ``reach`` in A."""

    def __init__(self, host: Host) -> None:
        self.redox_z = host.rule.redox_z
        self.anions = np.array(
            sorted({int(z) for z in host.numbers if host.rule.formal_charges.get(SYMBOLS[z], 0) < 0})
        )
        if not len(self.anions):
            raise UserError(f"{host.name} holds no ion of negative formal charge around {host.redox}")
        sizes, longest = [], 0.0
        ends = [_distances(host.full_cell(x), self.redox_z, self.anions) for x in (0.0, 1.0)]
        for site in zip(*ends, strict=True):
            # A gap must be open at both ends of the composition, for cells between them are Vegard's.
            inner = np.maximum(*(distances[:LARGEST] for distances in site))
            outer = np.minimum(*(distances[1 : LARGEST + 1] for distances in site))
            size = int((outer / inner).argmax()) + 1
            sizes.append(size)
            longest = max(longest, float(inner[size - 1]))
        self.sizes = np.array(sizes)
        self.reach = REACH * longest

    def bonds(self, atoms: Atoms) -> Bonds:
        """Return the bonds between redox atoms and the anions near them."""
        return _bonds(atoms, self.redox_z, self.anions, self.reach)


def _bonds(atoms: Atoms, redox_z: int, anions: np.ndarray, reach: float) -> Bonds:
    from matscipy.neighbours import neighbour_list

    first, second, vector = neighbour_list("ijD", atoms, reach)
    wanted = (atoms.numbers[first] == redox_z) & np.isin(atoms.numbers[second], anions)
    first, second, vector = first[wanted], second[wanted], vector[wanted]
    length = np.linalg.norm(vector, axis=1)
    order = np.lexsort((length, first))
    rank = np.empty(len(first), dtype=np.int64)
    rank[order] = np.arange(len(first)) - np.searchsorted(first[order], first[order])
    return Bonds(first, second, vector, length, rank)


def _distances(atoms: Atoms, redox_z: int, anions: np.ndarray) -> list[np.ndarray]:
    """Return distances (A, ascending) of each redox site to at least LARGEST + 1 nearest anions."""
    sites, reach = np.flatnonzero(atoms.numbers == redox_z), 4.0
    while True:
        bonds = _bonds(atoms, redox_z, anions, reach)
        found = [np.sort(bonds.length[bonds.redox == site]) for site in sites]
        if min(map(len, found)) > LARGEST:
            return found
        reach *= 1.5


def distort(atoms: Atoms, host: Host, amplitude: float) -> None:
    """Draw the anions of each higher-state site in by ``amplitude`` (A), push those of lower ones out.

    ``atoms`` come from the host with the array ``oxidation_states``; an anion shared by two sites moves
    by the sum.
    """
    shells = host.shells
    bonds = shells.bonds(atoms)
    sites = np.flatnonzero(atoms.numbers == shells.redox_z)
    # In a supercell all copies of one site of the cell are numbered before those of the next.
    sizes = np.repeat(shells.sizes, len(sites) // len(shells.sizes))
    inside = bonds.rank < sizes[np.searchsorted(sites, bonds.redox)]
    sign = np.where(atoms.arrays["oxidation_states"][bonds.redox[inside]] == host.low, 1.0, -1.0)
    unit = bonds.vector[inside] / bonds.length[inside, None]
    shift = np.zeros((len(atoms), 3))
    np.add.at(shift, bonds.anion[inside], amplitude * sign[:, None] * unit)
    atoms.positions += shift


def bond_gap(atoms: Atoms, host: Host, oxidation_states: np.ndarray) -> float:
    """Return the mean bond length of lower-state sites minus that of higher-state sites, in A.

    Each redox site counts its nearest anions, as many as the smallest shell of the host has. A
    localised polaron shows as a positive gap (about 0.1 A for Fe-O in DFT). nan where the cell holds
    one charge state only, a position is not finite, or a site has lost its neighbours.
    """
    if not np.isfinite(atoms.positions).all():
        return float("nan")
    shells = host.shells
    sites = np.flatnonzero(atoms.numbers == shells.redox_z)
    low = np.asarray(oxidation_states)[sites] == host.low
    if low.all() or not low.any():
        return float("nan")
    bonds, size = shells.bonds(atoms), int(shells.sizes.min())
    nearest = [bonds.length[(bonds.redox == site) & (bonds.rank < size)] for site in sites]
    if min(map(len, nearest)) < size:
        return float("nan")
    mean = np.array([some.mean() for some in nearest])
    # Symmetric starts have a gap of rounding error: no digit below 1e-6 A means anything. Adding
    # zero turns -0.0 into 0.0.
    return round(float(mean[low].mean() - mean[~low].mean()), 6) + 0.0
