"""Values that no frame can have: numbers beyond any physics, and two atoms in one place.

Values beyond these limits are mistakes of the program that wrote them. If they were read, they
would lead to infinite sums, endless neighbour lists, or missing energies much later.
"""

from __future__ import annotations

import numpy as np

from workflow_lib.core.errors import UserError

LAST_ELEMENT = 118
SMALLEST_VOLUME = 1e-3
"""A^3; below it three vectors make no cell."""
VOLUME_PER_ATOM = 1.0
"""A^3; three vectors that span less for each atom are no cell of a crystal."""
LIMITS = {
    "energy": 1e7,  # eV an atom; all-electron energies reach 1e6
    "positions": 1e6,  # A; beyond it a coordinate has lost its last digits
    "cell": 1e4,  # A
    "forces": 1e6,  # eV/A
    "stress": 1e6,  # in any of the units that files have
    "magmoms": 100.0,  # muB
    "charges": 200.0,  # e
}
"""Largest magnitudes, in the unit of the frame table unless stated."""
COINCIDENT = 0.01  # A; closer atoms are one atom written twice
_DIRECTION = np.array([0.531, 0.327, 0.142])
_ORIGIN = np.array([0.173, 0.419, 0.307])
"""Directions without crystal symmetry, so that few atoms have the same height over these planes."""


def check_geometry(numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, where: str) -> None:
    """Raise UserError for elements, positions [n, 3] (A) and a cell of no structure that can be.

    ``where`` names the file and row for the message.
    """
    for name, value in (("positions", positions), ("cell", cell)):
        if not np.isfinite(value).all() or np.abs(value).max(initial=0) > LIMITS[name]:
            raise UserError(f"{where}: {name} hold values that cannot be; give A")
    if not len(numbers) or min(numbers) < 1 or max(numbers) > LAST_ELEMENT:
        raise UserError(f"{where}: an atom is of no element")
    check_places(positions, cell, where)


def check_places(positions: np.ndarray, cell: np.ndarray, where: str) -> None:
    """Raise UserError for a cell without volume, or two atoms in one place."""
    if abs(np.linalg.det(cell)) < SMALLEST_VOLUME:
        raise UserError(f"{where}: the cell has no volume; give three lattice vectors in A")
    if coincident(positions, np.asarray(cell)[None], np.array([0, len(positions)]))[0]:
        raise UserError(f"{where}: two atoms are in one place; remove one of them")


def coincident(
    positions: np.ndarray, cells: np.ndarray, offsets: np.ndarray, wanted: np.ndarray | None = None
) -> np.ndarray:
    """Return which frames hold two atoms in one place, periodic images included.

    ``positions`` ``[N, 3]`` and ``cells`` ``[F, 3, 3]`` in A; frame i from ``offsets[i]`` to
    ``offsets[i + 1]``. One flag for each of the ``wanted`` frames ``[F]`` (default: all), whose cells
    have a volume.
    """
    frames = np.arange(len(cells)) if wanted is None else np.flatnonzero(wanted)
    sizes = np.diff(offsets)[frames]
    if not len(frames):
        return np.zeros(0, dtype=bool)
    inverse = np.linalg.inv(cells[frames])
    owner = np.repeat(np.arange(len(frames)), sizes)
    if len(frames) < len(cells):
        positions = positions[np.repeat(np.isin(np.arange(len(cells)), frames), np.diff(offsets))]
    scaled = np.einsum("ni,nij->nj", positions, inverse[owner])
    # Heights over three planes, folded so that all images of an atom have the same: atoms in one place
    # share all three, and hardly any others do. Sorted by their sum, they lie side by side.
    heights = scaled + _ORIGIN
    heights -= np.rint(heights)
    np.abs(heights, out=heights)
    reach = COINCIDENT * np.linalg.norm(inverse, axis=1)
    sums, near = heights @ _DIRECTION, reach @ _DIRECTION
    order = np.argsort(owner * 2.0 + sums)
    sums, owner = sums[order], owner[order]
    found = np.zeros(len(frames), dtype=bool)
    close = np.arange(len(order))
    for lag in range(1, len(order)):
        # Atoms that are not close to the one before are not close to any that comes later.
        close = close[: np.searchsorted(close, len(order) - lag)]
        mine = owner[close]
        near_enough = sums[close + lag] - sums[close] <= near[mine]
        close = close[near_enough & (owner[close + lag] == mine)]
        if not len(close):
            break
        one, two = order[close], order[close + lag]
        alike = (np.abs(heights[two] - heights[one]) <= reach[owner[close]]).all(axis=1)
        if alike.any():
            gap = scaled[two[alike]] - scaled[one[alike]]
            gap -= np.rint(gap)
            mine = owner[close[alike]]
            distance = np.linalg.norm(np.einsum("ni,nij->nj", gap, cells[frames[mine]]), axis=1)
            found[mine[distance < COINCIDENT]] = True
    return found
