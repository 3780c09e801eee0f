"""How well atoms lie on the sites of a host, in one reading of their cell.

An atom belongs to its nearest site; if two share one, the assignment of least squared distance decides.
The framework sets the origin: its mean displacement is subtracted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from workflow_lib.lattice.setting import Basis

_PAIRS = 60_000
"""Distances computed at once: few enough to stay in a processor's cache."""


class Reading(NamedTuple):
    """A basis and the shift (scaled, [3]) that takes scaled positions in it to those of the host."""

    basis: Basis
    shift: np.ndarray


class Fit(NamedTuple):
    """How well frames [G] lie on the sites in a reading.

    ``site`` [G, n] counts the sites of each element from 0; ``worst`` and ``rms`` [G] in A are the
    largest displacement of an atom and their root mean square, ``framework`` [G] that of the framework
    alone; ``atom`` [G] is the atom with the largest; ``shift`` [G, 3] the origin (scaled).
    """

    site: np.ndarray
    worst: np.ndarray
    rms: np.ndarray
    framework: np.ndarray
    atom: np.ndarray
    shift: np.ndarray


def fit_to_sites(
    reading: Reading,
    positions: np.ndarray,
    cells: np.ndarray,
    numbers: np.ndarray,
    framework: np.ndarray,
    sites: Mapping[int, np.ndarray],
    hopeless: float = np.inf,
) -> Fit:
    """Match frames ``positions`` [G, n, 3] and ``cells`` [G, 3, 3] (A) in one reading.

    ``numbers`` [n] are the elements of the atoms, ``framework`` [n] marks those that do not move, ``sites``
    holds the scaled positions [s, 3] of the sites of each element. The matrix and the shift of the reading
    may be one for all or one per frame. The shift is where the search starts; the final origin is the one
    at which the framework has no mean displacement. Frames whose atoms are ``hopeless`` (A, root mean
    square) or more from their nearest sites are not assigned, because an assignment to separate sites
    would only be worse.
    """
    edges = reading.basis.matrix @ cells
    scaled = positions @ np.linalg.inv(edges) + np.atleast_2d(reading.shift)[:, None]
    site = np.empty(scaled.shape[:2], dtype=np.int64)
    gap = np.empty_like(scaled)
    for z in np.unique(numbers):
        mine = np.flatnonzero(numbers == z)
        site[:, mine], gap[:, mine] = _nearest(scaled[:, mine], sites[int(z)], edges)
    mean = gap[:, framework].mean(axis=1)
    displaced = np.linalg.norm((gap - mean[:, None]) @ edges, axis=-1)
    worth = (displaced**2).mean(axis=1) <= hopeless**2
    for z in np.unique(numbers):
        mine = np.flatnonzero(numbers == z)
        shared = worth & (np.diff(np.sort(site[:, mine], axis=1), axis=1) == 0).any(axis=1)
        for frame in np.flatnonzero(shared).tolist():
            site[frame, mine], displaced[frame, mine] = _assigned(
                scaled[frame, mine] - mean[frame], sites[int(z)], edges[frame]
            )
    return Fit(
        site,
        displaced.max(axis=1),
        np.sqrt((displaced**2).mean(axis=1)),
        np.sqrt((displaced[:, framework] ** 2).mean(axis=1)),
        displaced.argmax(axis=1),
        np.atleast_2d(reading.shift) - mean,
    )


def _nearest(scaled: np.ndarray, sites: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest site [G, a] of atoms ``scaled`` [G, a, 3] and the gap to it [G, a, 3].

    ``sites`` [s, 3] and the gap are scaled; ``cells`` [G, 3, 3] in A.
    """
    frames, atoms, _ = scaled.shape
    site = np.empty((frames, atoms), dtype=np.int64)
    step = max(1, _PAIRS // (atoms * len(sites)))
    for first in range(0, frames, step):
        few = slice(first, first + step)
        gap = (scaled[few, :, None] - sites).reshape(-1, atoms * len(sites), 3)
        gap -= np.round(gap)
        gap = gap @ cells[few]
        squared = np.einsum("gpi,gpi->gp", gap, gap).reshape(-1, atoms, len(sites))
        site[few] = squared.argmin(axis=2)
    nearest = scaled - sites[site]
    return site, nearest - np.round(nearest)


def _assigned(scaled: np.ndarray, sites: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sites [a] of atoms [a, 3] (scaled) with the least sum of squared distances, and these in A."""
    from scipy.optimize import linear_sum_assignment

    gap = scaled[:, None] - sites[None]
    distance = np.linalg.norm((gap - np.round(gap)) @ cell, axis=-1)
    rows, columns = linear_sum_assignment(distance**2)
    return columns, distance[rows, columns]
