"""Which arrangement of the host many frames are: ``Host.locate`` and ``Host.key``, all frames at once.

The answers are those of ``Host.locate``, which assigns atoms to sites so that the sum of squared
distances is least. Where the nearest sites of all atoms differ, they are that assignment; where an
atom is farther than ``host.MATCH`` from its nearest site, every assignment is refused. Only where two
atoms share a nearest site does ``Host.locate`` itself have to decide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workflow_lib.core.elements import atomic_number
from workflow_lib.core.errors import UserError
from workflow_lib.lattice.arrangement import Arrangement, Repeat
from workflow_lib.lattice.host import MATCH, Host

if TYPE_CHECKING:
    from workflow_lib.frames.table import FrameBatch

_PAIRS = 60_000
"""Distances computed at once: few enough to stay in a processor's cache."""


def repeats_on_host(host: Host, numbers: np.ndarray, offsets: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Repeats ``[F, 3]`` of the supercells of the host that frames can be; zeros where they are none.

    Looks at the composition and the lengths of the cell ``cells`` ``[F, 3, 3]`` (A) alone. ``numbers``
    holds the atoms of all frames, frame i from ``offsets[i]`` to ``offsets[i + 1]``.
    """
    repeats = np.zeros((len(offsets) - 1, 3), dtype=np.int64)
    counts = {
        int(z): np.add.reduceat(numbers == z, offsets[:-1], dtype=np.int64) for z in np.unique(host.numbers)
    }
    redox, mobile = (counts[atomic_number(symbol)] for symbol in (host.redox, host.mobile))
    copies, rest = np.divmod(redox, len(host.redox_sites))
    fits = (rest == 0) & (copies > 0) & (sum(counts.values()) == np.diff(offsets))
    for z, count in counts.items():
        fits &= count <= copies * np.count_nonzero(host.numbers == z)
    fits = np.flatnonzero(fits)
    x = (mobile[fits] / (copies[fits] * len(host.mobile_sites)))[:, None, None]
    own = np.linalg.norm((1 - x) * host.cell_empty + x * host.cell_full, axis=2)
    found = np.maximum(1, np.round(np.linalg.norm(cells[fits], axis=2) / own)).astype(np.int64)
    right = found.prod(axis=1) == copies[fits]
    repeats[fits[right]] = found[right]
    return repeats


def state_keys(
    host: Host, batch: FrameBatch, states: np.ndarray, wanted: np.ndarray, known: dict[Arrangement, str]
) -> list[str | None]:
    """Keys of the arrangements that frames are ``[F]``; None for frames that fit no site or are not wanted.

    ``states`` ``[N]`` are the charge states of all atoms, ``wanted`` ``[F]`` says which frames have
    them. ``known`` collects the keys of arrangements over the batches.
    """
    keys: list[str | None] = [None] * len(batch)
    if not wanted.any():
        return keys
    cells = batch.flat("cell").reshape(-1, 3, 3)
    repeats = repeats_on_host(host, batch.numbers, batch.offsets, cells)
    frames = np.flatnonzero(wanted & repeats.all(axis=1))
    positions = batch.flat("positions").reshape(-1, 3)
    order = np.lexsort((batch.numbers, batch.owner))  # the atoms of each frame by element
    alike: dict[bytes, list[int]] = {}
    for frame in frames.tolist():
        mine = order[batch.offsets[frame] : batch.offsets[frame + 1]]
        alike.setdefault(repeats[frame].tobytes() + batch.numbers[mine].tobytes(), []).append(frame)
    for members in alike.values():
        atoms = np.array([order[batch.offsets[frame] : batch.offsets[frame + 1]] for frame in members])
        repeat: Repeat = tuple(repeats[members[0]].tolist())
        numbers = batch.numbers[atoms[0]]
        found = _locate(host, repeat, numbers, positions[atoms], cells[members], states[atoms])
        for frame, arrangement in zip(members, found, strict=True):
            if arrangement is not None:
                if arrangement not in known:
                    known[arrangement] = host.key(arrangement)
                keys[frame] = known[arrangement]
    return keys


def _locate(
    host: Host,
    repeat: Repeat,
    numbers: np.ndarray,
    positions: np.ndarray,
    cells: np.ndarray,
    states: np.ndarray,
) -> list[Arrangement | None]:
    """Arrangements of frames ``[G]`` with the same atoms ``numbers`` ``[n]`` in the same supercell.

    ``positions`` ``[G, n, 3]`` and ``cells`` ``[G, 3, 3]`` in A, ``states`` ``[G, n]``.
    """
    mobile, redox = atomic_number(host.mobile), atomic_number(host.redox)
    sites_numbers, sites, _ = host.supercell(
        repeat, np.count_nonzero(numbers == mobile) / host.n_mobile(repeat)
    )
    fits = np.ones(len(cells), dtype=bool)
    shared = np.zeros(len(cells), dtype=bool)
    nearest = np.zeros(states.shape, dtype=np.int64)
    scaled = positions @ np.linalg.inv(cells)
    for z in np.unique(numbers):
        atoms = np.flatnonzero(numbers == z)
        site, distance = _nearest(scaled[:, atoms], sites[sites_numbers == z], cells)
        fits &= distance.max(axis=1) <= MATCH
        shared |= (np.diff(np.sort(site, axis=1), axis=1) == 0).any(axis=1)
        nearest[:, atoms] = site
    found: list[Arrangement | None] = []
    for frame in range(len(cells)):
        if not fits[frame]:
            found.append(None)
        elif shared[frame]:
            found.append(_by_assignment(host, numbers, positions[frame], cells[frame], states[frame]))
        else:
            occupied = nearest[frame, numbers == mobile]
            reduced = nearest[frame, (numbers == redox) & (states[frame] == host.low)]
            found.append(
                Arrangement(repeat, tuple(sorted(occupied.tolist())), tuple(sorted(reduced.tolist())))
            )
    return found


def _nearest(scaled: np.ndarray, sites: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest site and the distance to it (A), both ``[G, a]``, of atoms ``scaled`` ``[G, a, 3]``.

    ``sites`` ``[s, 3]`` are scaled too.
    """
    frames, atoms, _ = scaled.shape
    site = np.empty((frames, atoms), dtype=np.int64)
    distance = np.empty((frames, atoms))
    step = max(1, _PAIRS // (atoms * len(sites)))
    for first in range(0, frames, step):
        few = slice(first, first + step)
        gap = (scaled[few, :, None] - sites).reshape(-1, atoms * len(sites), 3)
        gap -= np.round(gap)
        gap = gap @ cells[few]
        squared = np.einsum("gpi,gpi->gp", gap, gap).reshape(-1, atoms, len(sites))
        site[few] = squared.argmin(axis=2)
        distance[few] = np.sqrt(squared.min(axis=2))
    return site, distance


def _by_assignment(
    host: Host, numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, states: np.ndarray
) -> Arrangement | None:
    from ase import Atoms

    try:
        return host.locate(Atoms(numbers, positions=positions, cell=cell, pbc=True), states)
    except UserError:
        return None  # another material, or an atom far from every site
