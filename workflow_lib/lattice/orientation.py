"""One crystal in supercells of other orientation: a hexagonal host's 2x1x1 is its 1x2x1, turned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import permutations

import numpy as np

from workflow_lib.core.elements import atomic_number
from workflow_lib.lattice.arrangement import UNIT, Arrangement, Repeat, StateKey
from workflow_lib.lattice.host import Host


def turned(host: Host, arrangement: Arrangement) -> Iterator[Arrangement]:
    """Yield the arrangement in each supercell that a symmetry of the host turns its own into.

    Supercells have the same three numbers in another order; its own is not among them. One operation for
    each is enough: all others follow by symmetries of the supercell. Raises UserError if spglib finds no
    symmetry.
    """
    left: set[Repeat] = {(a, b, c) for a, b, c in permutations(arrangement.repeat)} - {arrangement.repeat}
    if not left:
        return
    numbers, scaled, _ = host.supercell(UNIT, 1.0)
    symmetry = host.symmetry(UNIT)
    sites = [scaled[numbers == atomic_number(name)] for name in (host.mobile, host.redox)]
    for rotation, translation in zip(symmetry.rotations, symmetry.translations, strict=True):
        for repeat in sorted(left):
            # Its vectors, rotated, in units of those of the other supercell: whole numbers both ways.
            vectors = rotation * np.array(arrangement.repeat) / np.array(repeat)[:, None]
            whole = np.allclose(vectors, np.round(vectors))
            if not (whole and np.isclose(abs(np.linalg.det(vectors)), 1)):
                continue
            left.discard(repeat)
            turn = partial(_images, own=arrangement.repeat, repeat=repeat, by=(rotation, translation))
            occupied = turn(arrangement.occupied, sites[0])
            reduced = None if arrangement.reduced is None else turn(arrangement.reduced, sites[1])
            yield Arrangement(repeat, occupied, reduced)


def smallest_keys(keys: Iterable[str], host: Host) -> dict[str, str]:
    """Return one key for each crystal, that in its smallest cell, for each state key and key of ions.

    A supercell that repeats a state has the same atoms around each, and so has one that a symmetry of the
    host turns into it. Raises UserError for a key of another host.
    """

    def one(key: str) -> str:
        if StateKey.parse(key).repeat == UNIT:
            return key
        small = host.parse(key).smallest()
        return min(host.key(image) for image in (small, *turned(host, small)))

    return {key: one(key) for key in keys}


def _images(
    part: tuple[int, ...],
    sites: np.ndarray,
    *,
    own: Repeat,
    repeat: Repeat,
    by: tuple[np.ndarray, np.ndarray],
) -> tuple[int, ...]:
    """Return the sites of the supercell ``repeat`` to which an operation takes those of ``own``.

    ``by``: its rotation and translation. ``sites`` [s, 3]: scaled positions in the host's cell; copies of
    one are numbered in turn, along the third vector fastest.
    """
    if not part:
        return ()
    kind, copy = np.divmod(np.array(part), int(np.prod(own)))
    at = sites[kind] + np.stack(np.unravel_index(copy, own), axis=1)
    gaps = (at @ by[0].T + by[1])[:, None] - sites[None]
    cells = np.round(gaps).astype(np.int64)
    to = np.abs(gaps - cells).sum(axis=2).argmin(axis=1)
    place = cells[np.arange(len(to)), to] % np.array(repeat)
    images = to * int(np.prod(repeat)) + np.ravel_multi_index(tuple(place.T), repeat)
    return tuple(sorted(images.tolist()))
