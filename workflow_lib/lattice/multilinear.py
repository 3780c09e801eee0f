"""Energies that are multilinear in occupations 0 and 1, up to three sites: what Monte Carlo evaluates.

Every cluster expansion of two species a site, Ewald term included, is one:
E(s) = c + sum_i h_i s_i + sum_{i<j} J_ij s_i s_j + sum_{i<j<k} K_ijk s_i s_j s_k.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

LARGEST_CLUSTER = 3


@dataclass(frozen=True, slots=True)
class Multilinear:
    """An energy in eV over N sites.

    ``constant``; ``field`` [N]; ``pairs`` [N, N], symmetric, zero on the diagonal; ``triplets`` [M] of
    the sites ``triplet_sites`` [M, 3], ascending in each row and each row once.
    """

    constant: float
    field: np.ndarray
    pairs: np.ndarray
    triplets: np.ndarray
    triplet_sites: np.ndarray

    @property
    def n_sites(self) -> int:
        """Number of sites."""
        return len(self.field)

    def energy(self, occupations: np.ndarray) -> np.ndarray:
        """Return the energies of ``occupations`` [..., N] (0 or 1), in eV."""
        s = np.asarray(occupations, dtype=float)
        pairs = 0.5 * ((s @ self.pairs) * s).sum(axis=-1)
        triplets = s[..., self.triplet_sites].prod(axis=-1) @ self.triplets
        return self.constant + s @ self.field + pairs + triplets


def from_tables(
    n_sites: int, tables: list[tuple[np.ndarray, np.ndarray]], *, constant: float = 0.0
) -> Multilinear:
    """Return the sum of tables of cluster energies.

    Each table is ``(sites, values)``: clusters ``sites`` [M, k] of k <= 3 sites, in which a site may
    occur twice (a cluster that meets its own image), and the energy ``values`` [2, ..., 2] (eV) of one
    cluster by the occupations of its sites.
    """
    field, pairs = np.zeros(n_sites), np.zeros((n_sites, n_sites))
    keys: list[np.ndarray] = []
    strengths: list[np.ndarray] = []
    for sites, values in tables:
        clusters = np.asarray(sites, dtype=np.int64)
        if clusters.shape[1] > LARGEST_CLUSTER or np.shape(values) != (2,) * clusters.shape[1]:
            raise ValueError(f"no table of at most {LARGEST_CLUSTER} sites with two occupations each")
        for chosen in product((0, 1), repeat=clusters.shape[1]):
            strength = _moebius(np.asarray(values, dtype=float), chosen)
            if strength == 0:
                continue
            members = np.sort(clusters[:, np.flatnonzero(chosen)], axis=1)
            for group, size in _distinct(members):
                if size == 0:
                    constant += strength * len(group)
                elif size == 1:
                    np.add.at(field, group[:, 0], strength)
                elif size == 2:
                    np.add.at(pairs, (group[:, 0], group[:, 1]), strength)
                else:
                    keys.append(group)
                    strengths.append(np.full(len(group), strength))
    triplet_sites, triplets = np.empty((0, 3), dtype=np.int64), np.empty(0)
    if keys:
        triplet_sites, place = np.unique(np.concatenate(keys), axis=0, return_inverse=True)
        triplets = np.bincount(place.ravel(), np.concatenate(strengths), len(triplet_sites))
        kept = triplets != 0
        triplet_sites, triplets = triplet_sites[kept], triplets[kept]
    return Multilinear(float(constant), field, pairs + pairs.T, triplets, triplet_sites)


def _moebius(values: np.ndarray, chosen: tuple[int, ...]) -> float:
    """Return the coefficient of the product of the ``chosen`` sites in a table of a cluster's energies."""
    total = 0.0
    for below in product(*((0, 1) if bit else (0,) for bit in chosen)):
        total += (-1) ** (sum(chosen) - sum(below)) * float(values[below])
    return total


def _distinct(members: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """Split rows of ascending sites [M, k] by how many different sites they have; s * s is s."""
    if members.shape[1] < 2:
        return [(members, members.shape[1])]
    new = np.concatenate([np.ones((len(members), 1), dtype=bool), np.diff(members, axis=1) != 0], axis=1)
    sizes = new.sum(axis=1)
    return [
        (members[sizes == size][new[sizes == size]].reshape(-1, size), int(size))
        for size in np.unique(sizes)
    ]


def add(one: Multilinear, other: Multilinear) -> Multilinear:
    """Return the sum of two energies of the same sites; at most one may have triplets."""
    if len(one.triplets) and len(other.triplets):
        raise ValueError("both energies have triplets; build them from one list of tables")
    with_triplets = one if len(one.triplets) else other
    return Multilinear(
        one.constant + other.constant,
        one.field + other.field,
        one.pairs + other.pairs,
        with_triplets.triplets,
        with_triplets.triplet_sites,
    )
