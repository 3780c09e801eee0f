"""Find frames that occur twice, also in different files and with atoms in another order.

One geometry may have several charge orders or magnetic orders: frames are duplicates only if
energies, moments and charge states agree too, as far as both have them.

Every frame gets a key (composition and level of theory) and a fingerprint: its cell, and for a few
families of lattice planes the smallest and the largest distance of its atoms from a plane, weighted by
element. The fingerprint does not depend on the order of atoms or their periodic images, it changes no
faster than atoms move, and any atom that moves is likely to change some of it. Frames with the same
key and similar fingerprints are compared atom by atom.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from workflow_lib.frames.frame import Frame
from workflow_lib.frames.magnetism import MAGNETIC
from workflow_lib.lattice.sanity import LAST_ELEMENT

TOLERANCE = 1e-4  # A
ENERGY_TOLERANCE = 1e-4
"""eV/atom; self-consistency and rounding give less, another charge order 1e-3 or more."""
MOMENT_TOLERANCE = 0.1  # muB; Fe2+ and Fe3+ are 0.6 apart
_PLANES = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1]], dtype=float)
WIDTH = 9 + 2 * len(_PLANES)
"""Number of values in a fingerprint."""
_MEMORY = 3_000_000
"""Atoms compared at a time."""
_RNG = np.random.default_rng(20240711)
_CODES = _RNG.integers(0, 2**63, LAST_ELEMENT + 1, dtype=np.uint64)
_WEIGHTS = _RNG.uniform(0.5, 1.0, LAST_ELEMENT + 1)


class Entry(NamedTuple):
    """The properties of a frame that are compared; see the frame table for units.

    ``order`` is its magnetic order, ``labels`` the number of labels it has besides the energy.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    energy: float
    magmoms: np.ndarray | None = None
    states: np.ndarray | None = None
    order: str | None = None
    labels: int = 0


@lru_cache(maxsize=1024)
def _code(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def fingerprints(frames: Sequence[Frame]) -> tuple[np.ndarray, np.ndarray]:
    """Return key [frames] (uint64) and fingerprint [frames, WIDTH] (A for the cell, else pure numbers)."""
    if not frames:
        return np.zeros(0, dtype=np.uint64), np.zeros((0, WIDTH))
    sizes = np.array([len(frame) for frame in frames])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    numbers = np.concatenate([frame.numbers for frame in frames])
    positions = np.concatenate([frame.positions for frame in frames])
    cells = np.array([frame.cell for frame in frames])
    keys = np.add.reduceat(_CODES[numbers], starts)
    keys ^= np.array([_code(frame.energy_reference) for frame in frames], dtype=np.uint64)
    vectors = np.linalg.inv(cells) @ _PLANES.T
    owner = np.repeat(np.arange(len(frames)), sizes)
    heights = np.einsum("ij,ijk->ik", positions, vectors[owner])
    heights -= np.rint(heights)
    np.abs(heights, out=heights)
    heights *= _WEIGHTS[numbers][:, None]
    ends = [end.reduceat(heights, starts) for end in (np.minimum, np.maximum)]
    return keys, np.hstack([cells.reshape(-1, 9), *ends])


def _tolerances(cells: np.ndarray) -> np.ndarray:
    """Return how far apart fingerprints [WIDTH] of one geometry can be, for these cells [frames, 9].

    An atom's height over a plane, in plane spacings, changes with its displacement by the
    reciprocal vector's length times at most sqrt(3) tolerances; a change of the cell moves it by at
    most three such displacements. Weights are below 1.
    """
    vectors = np.linalg.inv(cells.reshape(-1, 3, 3)) @ _PLANES.T
    longest = np.linalg.norm(vectors, axis=1).max(axis=0)
    return np.concatenate([np.full(9, TOLERANCE), np.tile(longest * (1 + 3) * np.sqrt(3) * TOLERANCE, 2)])


def candidates(keys: np.ndarray, prints: np.ndarray) -> list[np.ndarray]:
    """Return groups of rows that may be one geometry, each sorted, in the order of their first rows."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    order = np.argsort(keys, kind="stable")
    edges: list[np.ndarray] = []
    for rows in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1):
        if len(rows) < 2:
            continue
        scaled = prints[rows] / _tolerances(prints[rows, :9])
        # Exact copies are grouped first, because a thousand of them would make half a million pairs.
        _, first, inverse = np.unique(np.round(scaled, 3), axis=0, return_index=True, return_inverse=True)
        representative = rows[first]
        edges.append(np.column_stack([rows, representative[inverse.ravel()]]))
        pairs = cKDTree(scaled[first]).query_pairs(1.01, p=np.inf, output_type="ndarray")
        edges.append(representative[pairs])
    if not edges:
        return []
    joined = np.concatenate(edges)
    graph = coo_array((np.ones(len(joined)), (joined[:, 0], joined[:, 1])), shape=(len(keys), len(keys)))
    _, label = connected_components(graph, directed=False)
    order = np.argsort(label, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(label[order])) + 1)
    return sorted((group for group in groups if len(group) > 1), key=lambda group: int(group[0]))


class Found(NamedTuple):
    """The result of a search for duplicates.

    ``repeats``: row of each duplicate -> the row that is kept for it. ``twins``: number of frames
    that are kept although they share their geometry with another one, because charge states,
    moments or energy differ.
    """

    repeats: dict[int, int]
    twins: int


def find_duplicates(
    keys: np.ndarray,
    prints: np.ndarray,
    sizes: np.ndarray,
    load: Callable[[np.ndarray], dict[int, Entry]],
) -> Found:
    """Find the frames that repeat another one; of duplicates the one with most labels is kept.

    ``sizes`` [frames] are numbers of atoms; ``load`` returns the entries of sorted rows. Of equally
    labelled duplicates the first is kept.
    """
    groups = candidates(keys, prints)
    repeats: dict[int, int] = {}
    twins = 0
    batch: list[np.ndarray] = []
    atoms = 0
    for number, group in enumerate(groups):
        batch.append(group)
        atoms += int(sizes[group].sum())
        if atoms < _MEMORY and number + 1 < len(groups):
            continue
        entries = load(np.sort(np.concatenate(batch)))
        for one in batch:
            found = _within(one, entries)
            repeats |= found.repeats
            twins += found.twins
        batch, atoms = [], 0
    return Found(repeats, twins)


def _within(group: np.ndarray, entries: dict[int, Entry]) -> Found:
    kept: list[int] = []
    repeats: dict[int, int] = {}
    twins = 0
    # The frame with most labels first, so that there are labels to compare.
    for row in sorted(group.tolist(), key=lambda row: (-entries[row].labels, row)):
        mine, twin = entries[row], False
        for other in kept:
            atoms = match_atoms(entries[other], mine)
            if atoms is None:
                continue
            if same_answer(entries[other], mine, atoms):
                repeats[row] = other
                break
            twin = True
        else:
            kept.append(row)
            twins += twin
    return Found(repeats, twins)


def same_answer(one: Entry, two: Entry, atoms: np.ndarray) -> bool:
    """Return whether two frames of one geometry may be one calculation.

    ``atoms`` [n] as from :func:`match_atoms`. Energies, magnitudes of moments, their order (up to a
    reversal of all) and charge states must agree, as far as both frames have them.
    """
    if abs(one.energy - two.energy) > ENERGY_TOLERANCE * len(one.numbers):
        return False
    if None not in (one.order, two.order) and one.order != two.order:
        return False
    if one.states is not None and two.states is not None and (one.states != two.states[atoms]).any():
        return False
    if one.magmoms is None or two.magmoms is None:
        return True
    mine, theirs = one.magmoms, two.magmoms[atoms]
    if np.abs(np.abs(mine) - np.abs(theirs)).max() > MOMENT_TOLERANCE:
        return False
    turned = (np.sign(mine) * np.sign(theirs))[np.abs(mine) >= MAGNETIC]
    return len(turned) == 0 or bool((turned == turned[0]).all())


def match_atoms(one: Entry, two: Entry) -> np.ndarray | None:
    """Return the atom of ``two`` that matches each atom of ``one`` [n]; None if the geometries differ.

    Cells and atoms match within :data:`TOLERANCE` (A, each coordinate), whatever the order and periodic
    image of the atoms.
    """
    if len(one.numbers) != len(two.numbers) or np.abs(one.cell - two.cell).max() > TOLERANCE:
        return None
    inverse = np.linalg.inv(one.cell)

    def apart(difference: np.ndarray) -> np.ndarray:
        scaled = difference @ inverse
        return np.abs((scaled - np.round(scaled)) @ one.cell).max(axis=-1)

    places = np.arange(len(one.numbers))
    if np.array_equal(one.numbers, two.numbers):
        if (apart(two.positions - one.positions) <= TOLERANCE).all():
            return places
    elif not np.array_equal(np.sort(one.numbers), np.sort(two.numbers)):
        return None
    partners = np.empty(len(places), dtype=np.int64)
    for z in np.unique(one.numbers):
        mine, theirs = places[one.numbers == z], places[two.numbers == z]
        near = apart(two.positions[theirs][None] - one.positions[mine][:, None]) <= TOLERANCE
        # Atoms are much farther apart than the tolerance, so each has one partner or none.
        if not ((near.sum(axis=0) == 1).all() and (near.sum(axis=1) == 1).all()):
            return None
        partners[mine] = theirs[near.argmax(axis=1)]
    return partners
