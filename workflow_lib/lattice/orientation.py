"""One crystal in supercells of any orientation: a hexagonal host's 2x1x1 is its 1x2x1, turned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from math import lcm

import numpy as np

from workflow_lib.core.elements import atomic_number
from workflow_lib.lattice.arrangement import UNIT, Arrangement, Repeat, StateKey
from workflow_lib.lattice.host import Host


def smallest_keys(keys: Iterable[str], host: Host) -> dict[str, str]:
    """Return one key for each crystal, that in its smallest cell, for each state key and key of ions.

    A supercell that repeats a state has the same atoms around each, and so has one that a symmetry of the
    host turns into it. Of several smallest cells the first in order counts. Raises UserError for a key of
    another host, or if spglib finds no symmetry.
    """
    keys = list(keys)
    # Without a supercell nothing is asked of the host's symmetry.
    larger = {key for key in keys if StateKey.parse(key).repeat != UNIT}
    operations = PointOperations(host) if larger else None

    def one(key: str) -> str:
        if operations is None or key not in larger:
            return key
        return min(map(host.key, operations.smallest(host.parse(key))))

    return {key: one(key) for key in keys}


class PointOperations:
    """The point operations of a host's own cell and how each takes sites to sites."""

    def __init__(self, host: Host) -> None:
        symmetry = host.symmetry(UNIT)
        numbers, scaled, _ = host.supercell(UNIT, 1.0)
        # One operation for each rotation: others differ by a translation, which all supercells have.
        self.rotations, first = np.unique(np.asarray(symmetry.rotations), axis=0, return_index=True)
        self.inverse = np.rint(np.linalg.inv(self.rotations)).astype(np.int64)
        self._sources = []
        for name in (host.mobile, host.redox):
            sites = scaled[numbers == atomic_number(name)]
            back = sites[None] - np.asarray(symmetry.translations)[first, None]
            gaps = np.einsum("gab,gsb->gsa", self.inverse, back)[:, :, None] - sites
            cells = np.round(gaps)
            kind = np.abs(gaps - cells).sum(axis=3).argmin(axis=2)
            cell = np.take_along_axis(cells, kind[:, :, None, None], axis=2)[:, :, 0]
            self._sources.append((kind, cell.astype(np.int64)))

    def smallest(self, arrangement: Arrangement) -> Iterator[Arrangement]:
        """Yield the arrangement in its smallest supercell, once for each unlike way of turning it there.

        Supercells are multiples of the host's vectors: a period of the crystal along none of them, such as
        a + b, shortens the cell of an image only.
        """
        parts = [arrangement.occupied] + ([] if arrangement.reduced is None else [arrangement.reduced])
        count = arrangement.cells
        filled = []
        for (kind, _), part in zip(self._sources, parts, strict=False):
            sites = np.zeros(kind.shape[1] * count, dtype=bool)
            sites[list(part)] = True
            filled.append(sites.reshape(-1, count))
        periods = self._periods(arrangement.repeat, filled)
        volumes = periods.prod(axis=1)
        a, b, c = min(periods[volumes == volumes.min()].tolist())
        for g in self._unlike(np.flatnonzero((periods == (a, b, c)).all(axis=1)), (a, b, c)):
            images = [
                self._image(g, sites, source, arrangement.repeat, (a, b, c))
                for sites, source in zip(filled, self._sources, strict=False)
            ]
            yield Arrangement((a, b, c), images[0], images[1] if len(images) > 1 else None)

    def _periods(self, repeat: Repeat, filled: list[np.ndarray]) -> np.ndarray:
        """Return the shortest period along each vector [g, 3] of the crystal after each operation.

        ``filled``: which sites [s, n] are filled in the n cells of ``repeat``.
        """
        cells = _cells(repeat)
        moved = _index(cells[:, None] + cells[None], repeat)
        kept = np.all([(sites[:, moved] == sites[:, None]).all(axis=(0, 2)) for sites in filled], axis=0)
        # A step of the turned crystal is one of the crystal itself, turned back.
        steps = np.arange(1, lcm(*repeat) + 1)[:, None, None, None] * self.inverse.transpose(0, 2, 1)
        periods: np.ndarray = kept[_index(steps, repeat)].argmax(axis=0) + 1
        return periods

    def _unlike(self, chosen: np.ndarray, repeat: Repeat) -> list[int]:
        """Return those of the operations between which lies no symmetry of the supercell."""
        found: list[int] = []
        edges = np.array(repeat)
        for g in chosen.tolist():
            between = self.rotations[g] @ self.inverse[found] if found else np.empty((0, 3, 3), dtype=int)
            if not ((between * edges % edges[:, None]) == 0).all(axis=(1, 2)).any():
                found.append(g)
        return found

    def _image(
        self,
        g: int,
        filled: np.ndarray,
        source: tuple[np.ndarray, np.ndarray],
        own: Repeat,
        repeat: Repeat,
    ) -> tuple[int, ...]:
        """Return the filled sites of the supercell ``repeat`` after an operation on those of ``own``."""
        kind, cell = source[0][g], source[1][g]
        back = cell[:, None] + _cells(repeat) @ self.inverse[g].T
        return tuple(np.flatnonzero(filled[kind[:, None], _index(back, own)]).tolist())


def _cells(repeat: Repeat) -> np.ndarray:
    """Return the places [n, 3] of the host's cells in a supercell, along the third vector fastest."""
    return np.array(list(product(*map(range, repeat))))


def _index(places: np.ndarray, repeat: Repeat) -> np.ndarray:
    """Return the numbers [...] of cells at ``places`` [..., 3], modulo the supercell."""
    inside = np.moveaxis(places % np.array(repeat), -1, 0)
    return np.ravel_multi_index(tuple(inside), repeat)
