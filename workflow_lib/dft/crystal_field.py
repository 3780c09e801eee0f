"""Which d orbitals an ion fills first: an angular-overlap estimate from its oxygen neighbours.

The starting guess of occupation control. Angular overlap model (C. E. Schaeffer, Struct. Bond. 14
(1973) 69): each ligand raises the orbital that points at it by e_sigma and the two that share its
axis as a pi bond by e_pi; for oxide ligands e_pi is about a quarter of e_sigma, and both fall off as
the fifth power of the distance. Orbitals are GPAW's real harmonics xy, yz, 3z2-r2, zx, x2-y2.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError

if TYPE_CHECKING:
    from ase import Atoms

LIGANDS = ("O", "F", "S")
REACH = 2.8  # A; metal-oxygen bonds of the 3d oxides end below 2.5, the next shell begins above 3
PI_OVER_SIGMA = 0.25
D_ORBITALS = 5
T2G = 3
VALENCE_ELECTRONS = dict(
    zip(("Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn"), range(3, 13), strict=True)
)
"""Electrons outside the argon core of the neutral atom."""


def d_electrons(number: int, oxidation_state: int) -> int:
    """Return the d electrons of a 3d ion; UserError for other elements or impossible charges."""
    symbol = SYMBOLS[number]
    if symbol not in VALENCE_ELECTRONS:
        raise UserError(f"{symbol} has no 3d shell to steer; give it oxidation state 0")
    electrons = VALENCE_ELECTRONS[symbol] - oxidation_state
    if not 0 <= electrons <= 2 * D_ORBITALS:
        raise UserError(f"{symbol}{oxidation_state}+ would hold {electrons} d electrons; check the charge")
    return electrons


def unpaired_electrons(number: int, oxidation_state: int) -> int:
    """Return the unpaired d electrons of a high-spin 3d ion; UserError as :func:`d_electrons`."""
    electrons = d_electrons(number, oxidation_state)
    return min(electrons, 2 * D_ORBITALS - electrons)


def has_open_shell(number: int, charge: int) -> bool:
    """Return whether an ion of formal ``charge`` is one of a 3d metal with one to nine d electrons."""
    electrons = VALENCE_ELECTRONS.get(SYMBOLS[number])
    return electrons is not None and 0 < electrons - charge < 2 * D_ORBITALS


def _harmonics(direction: np.ndarray) -> np.ndarray:
    """Return the d harmonics [5] along a unit vector, scaled so that their squares sum to 1."""
    x, y, z = direction
    root = np.sqrt(3.0)
    return np.array(
        [root * x * y, root * y * z, (3 * z * z - 1) / 2, root * z * x, root * (x * x - y * y) / 2]
    )


def _gradient_harmonics(direction: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Return the pi orbital [5]: derivative of the sigma one when the ligand turns towards ``along``."""
    x, y, z = direction
    a, b, c = along
    root = np.sqrt(3.0)
    slope = np.array(
        [
            root * (a * y + x * b),
            root * (b * z + y * c),
            3 * z * c,
            root * (c * x + z * a),
            root * (x * a - y * b),
        ]
    )
    return slope / np.linalg.norm(slope)


def crystal_field(atoms: Atoms, site: int) -> tuple[np.ndarray, np.ndarray]:
    """Return levels [5], in units of e_sigma at 2.1 A, ascending, and orbitals [5, 5] (columns) of a site.

    Raises UserError where the site has fewer than four ligands within 2.8 A.
    """
    from matscipy.neighbours import neighbour_list

    # All images count: in a small cell several ligands of a site may be images of one atom.
    centre, ligand, vectors = neighbour_list("ijD", atoms, REACH)
    vectors = vectors[(centre == site) & np.isin(atoms.symbols, LIGANDS)[ligand]]
    if len(vectors) < 4:
        raise UserError(
            f"atom {site} ({atoms.symbols[site]}) has {len(vectors)} ligands within {REACH} A; "
            "a steered ion needs at least four: check the structure"
        )
    matrix = np.zeros((D_ORBITALS, D_ORBITALS))
    for vector, length in zip(vectors, np.linalg.norm(vectors, axis=1), strict=True):
        direction = vector / length
        strength = (2.1 / length) ** 5
        sigma = _harmonics(direction)
        matrix += strength * np.outer(sigma, sigma)
        first = np.cross(direction, np.eye(3)[np.abs(direction).argmin()])
        first /= np.linalg.norm(first)
        for along in (first, np.cross(direction, first)):
            pi = _gradient_harmonics(direction, along)
            matrix += PI_OVER_SIGMA * strength * np.outer(pi, pi)
    return np.linalg.eigh(matrix)


def orbital_seeds(number: int, oxidation_state: int) -> tuple[str, ...]:
    """Name the ways to fill the three low orbitals: ``a`` first (the estimate's ground state)."""
    n = d_electrons(number, oxidation_state) % D_ORBITALS
    size = n if n <= T2G else 0
    return tuple("abc"[: len(list(combinations(range(T2G), size)))])


def target_occupation(atoms: Atoms, site: int, oxidation_state: int, orbital: str) -> np.ndarray:
    """Return the wanted high-spin d occupation matrices [2, 5, 5] (majority, minority spin) of a site.

    The values of full and empty orbitals (1.03 and 0.04, for an empty shell 0.12) are those that
    converged oxides show in GPAW: covalency leaves minority charge in every orbital.
    """
    electrons = d_electrons(int(atoms.numbers[site]), oxidation_state)
    spins = []
    for n, full, rest in (
        (min(electrons, D_ORBITALS), 1.03, 0.12),
        (max(electrons - D_ORBITALS, 0), 0.97, 0.04),
    ):
        if n == 0:
            spins.append(0.12 * np.eye(D_ORBITALS))
            continue
        if n == D_ORBITALS:
            spins.append(full * np.eye(D_ORBITALS))
            continue
        _, vectors = crystal_field(atoms, site)
        ways = list(combinations(range(T2G), n)) if n <= T2G else [tuple(range(n))]
        index = "abc".find(orbital)
        if not 0 <= index < len(ways):
            raise UserError(
                f"{atoms.symbols[site]}{oxidation_state}+ has {len(ways)} orbital seeds "
                f"({', '.join('abc'[: len(ways)])}), not {orbital!r}"
            )
        chosen = vectors[:, list(ways[index])]
        spins.append(rest * np.eye(D_ORBITALS) + (full - rest) * chosen @ chosen.T)
    return np.array(spins)
