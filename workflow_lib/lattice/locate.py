"""Which arrangement of the host frames are: atoms matched to sites, in any setting of the crystal.

The setting of the host file is tried first, for all frames at once. Frames that do not fit well there are
read in every other way in which their cell is a repetition of the host's (see ``setting``), and the
reading in which the framework fits best counts; a reading that was found is tried on the frames that
follow. An atom belongs to its nearest site; where two share one, the assignment of least squared
distance decides. The origin is where the framework says: its mean displacement is taken out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.lattice.arrangement import Arrangement, Repeat
from workflow_lib.lattice.setting import Basis, bases

if TYPE_CHECKING:
    from workflow_lib.lattice.host import Host

MATCH = 1.2
"""A; farther from its host site than this, an atom is somewhere else."""
SURE = 0.35
"""A; a framework that lies this well on its sites (root mean square) needs no other reading."""
BETTER = 0.05
"""A by which another reading must fit better than the host file's own setting."""
SMALLEST = 0.1
"""A^3 an atom; less is no cell."""
REMEMBERED = 16
"""Settings found in earlier frames that are tried on later ones."""
_PAIRS = 60_000
"""Distances computed at once: few enough to stay in a processor's cache."""


class Located(NamedTuple):
    """``arrangements`` [F], None where there is none, and why: ``reasons`` [F].

    ``reasons`` are None too for frames that are not of the host's composition: these are another
    material, of which there is nothing to say. ``copies`` [F] is the number of host cells that a frame's
    composition makes, 0 for another material.
    """

    arrangements: list[Arrangement | None]
    reasons: list[str | None]
    copies: np.ndarray


class Reading(NamedTuple):
    """A basis and the shift (scaled, [3]) that takes scaled positions in it to those of the host."""

    basis: Basis
    shift: np.ndarray


class _Fit(NamedTuple):
    """How frames [G] lie on the sites in a reading.

    ``site`` [G, n] counts the sites of each element from 0; ``worst`` and ``rms`` [G] in A are the
    largest displacement of an atom and the root mean square of the framework's; ``atom`` [G] is the
    atom with the largest; ``shift`` [G, 3] the origin (scaled).
    """

    site: np.ndarray
    worst: np.ndarray
    rms: np.ndarray
    atom: np.ndarray
    shift: np.ndarray


def copies_of_host(host: Host, numbers: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return how many host cells each frame's composition makes [F]; 0 where it is another material.

    ``numbers`` holds the atoms of all frames, frame i from ``offsets[i]`` to ``offsets[i + 1]``.
    """
    if len(offsets) < 2:
        return np.zeros(0, dtype=np.int64)
    counts = {
        int(z): np.add.reduceat(numbers == z, offsets[:-1], dtype=np.int64) for z in np.unique(host.numbers)
    }
    mobile_z = int(host.numbers[host.mobile_sites[0]])
    copies, rest = np.divmod(counts[host.rule.redox_z], len(host.redox_sites))
    fits = (rest == 0) & (copies > 0) & (sum(counts.values()) == np.diff(offsets))
    for z, count in counts.items():
        sites = copies * np.count_nonzero(host.numbers == z)
        fits &= (count <= sites) if z == mobile_z else (count == sites)
    return np.where(fits, copies, 0)


def locate(
    host: Host,
    numbers: np.ndarray,
    offsets: np.ndarray,
    positions: np.ndarray,
    cells: np.ndarray,
    states: np.ndarray | None,
    wanted: np.ndarray | None = None,
) -> Located:
    """Return the arrangements that frames are, with the charge ``states`` [N] of their atoms where given.

    ``numbers`` [N] and ``positions`` [N, 3] (A) hold the atoms of all frames, frame i from
    ``offsets[i]`` to ``offsets[i + 1]``; ``cells`` [F, 3, 3] in A, rows are vectors. Frames that are
    not ``wanted`` [F] are passed over without a reason.
    """
    copies = copies_of_host(host, numbers, offsets)
    arrangements: list[Arrangement | None] = [None] * len(copies)
    reasons: list[str | None] = [None] * len(copies)
    asked = copies > 0 if wanted is None else (copies > 0) & wanted
    for frame in np.flatnonzero(asked & ~_sound(offsets, positions, cells)).tolist():
        reasons[frame], asked[frame] = (
            "its cell and positions are no finite numbers, or span no volume",
            False,
        )
    owner = np.repeat(np.arange(len(copies)), np.diff(offsets))
    order = np.lexsort((numbers, owner))  # the atoms of each frame by element
    alike: dict[bytes, list[int]] = {}
    for frame in np.flatnonzero(asked).tolist():
        mine = order[offsets[frame] : offsets[frame + 1]]
        alike.setdefault(numbers[mine].tobytes(), []).append(frame)
    for members in alike.values():
        atoms = np.array([order[offsets[frame] : offsets[frame + 1]] for frame in members])
        group = _Group(host, int(copies[members[0]]), numbers[atoms[0]])
        group.locate(positions[atoms], cells[members])
        for row, (frame, mine) in enumerate(zip(members, atoms, strict=True)):
            reasons[frame] = group.reasons[row]
            if reasons[frame] is None:
                own = None if states is None else states[mine]
                arrangements[frame] = group.arrangement(row, own)
            elif (atom := group.misplaced[row]) is not None:
                place = mine[atom] - offsets[frame]
                reasons[frame] = f"atom {place} ({SYMBOLS[numbers[mine[atom]]]}) is {reasons[frame]}"
    return Located(arrangements, reasons, copies)


def _sound(offsets: np.ndarray, positions: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Whether the numbers of each frame [F] are finite and its cell has a volume."""
    finite = np.add.reduceat(~np.isfinite(positions).all(axis=1), offsets[:-1], dtype=np.int64) == 0
    finite &= np.isfinite(cells).all(axis=(1, 2))
    volume = np.zeros(len(cells))
    volume[finite] = np.abs(np.linalg.det(cells[finite]))
    return volume > SMALLEST * np.diff(offsets)


class _Group:
    """Frames with the same atoms ``numbers`` [n], sorted, that make ``copies`` cells of the host."""

    def __init__(self, host: Host, copies: int, numbers: np.ndarray) -> None:
        self.host, self.copies, self.numbers = host, copies, numbers
        self.low = host.low
        mobile_z = int(host.numbers[host.mobile_sites[0]])
        self.mobile = np.flatnonzero(numbers == mobile_z)
        self.redox = np.flatnonzero(numbers == host.rule.redox_z)
        self.x = len(self.mobile) / (copies * len(host.mobile_sites))
        self.cell = (1 - self.x) * host.cell_empty + self.x * host.cell_full
        self.framework = numbers != mobile_z
        self._sites: dict[Repeat, dict[int, np.ndarray]] = {}
        self.reasons: list[str | None] = []
        self.misplaced: list[int | None] = []
        self.found: list[tuple[Repeat, np.ndarray] | None] = []

    def sites(self, repeat: Repeat) -> dict[int, np.ndarray]:
        """Scaled positions [s, 3] of the sites of each element in a supercell."""
        if repeat not in self._sites:
            numbers, scaled, _ = self.host.supercell(repeat, self.x)
            self._sites[repeat] = {int(z): scaled[numbers == z] for z in np.unique(numbers)}
        return self._sites[repeat]

    def arrangement(self, row: int, states: np.ndarray | None) -> Arrangement:
        """The arrangement of a frame that was located."""
        found = self.found[row]
        assert found is not None
        repeat, site = found
        occupied = sorted(site[self.mobile].tolist())
        if states is None:
            return Arrangement(repeat, tuple(occupied), None)
        reduced = site[self.redox][states[self.redox] == self.low]
        return Arrangement(repeat, tuple(occupied), tuple(sorted(reduced.tolist())))

    def locate(self, positions: np.ndarray, cells: np.ndarray) -> None:
        """Match frames ``positions`` [G, n, 3] and ``cells`` [G, 3, 3] (A) to sites."""
        count = len(cells)
        self.found, self.misplaced = [None] * count, [None] * count
        self.reasons = ["unread"] * count
        rms = np.full(count, np.inf)
        own = np.linalg.norm(self.cell, axis=1)
        repeats = np.maximum(1, np.round(np.linalg.norm(cells, axis=2) / own)).astype(np.int64)
        plain = repeats.prod(axis=1) == self.copies
        for repeat in np.unique(repeats[plain], axis=0).tolist():
            rows = np.flatnonzero(plain & (repeats == repeat).all(axis=1))
            basis = Basis((repeat[0], repeat[1], repeat[2]), np.eye(3, dtype=np.int64))
            self._take(
                rows,
                basis.repeat,
                self._fit(Reading(basis, np.zeros(3)), positions[rows], cells[rows]),
                rms,
            )
        doubtful = np.flatnonzero(rms > SURE)
        for row in doubtful.tolist():
            if rms[row] > SURE:
                self._other_settings(row, doubtful, positions, cells, rms)

    def _take(self, rows: np.ndarray, repeat: Repeat, fit: _Fit, rms: np.ndarray) -> None:
        """Keep a fit of some frames where it is better than what they have."""
        for place, row in enumerate(rows.tolist()):
            if fit.rms[place] >= rms[row] - (BETTER if np.isfinite(rms[row]) else 0):
                continue
            rms[row] = fit.rms[place]
            self.found[row] = repeat, fit.site[place]
            good = fit.worst[place] <= MATCH
            self.reasons[row] = (
                None if good else f"{fit.worst[place]:.2f} A from its site in {self.host.name}"
            )
            self.misplaced[row] = None if good else int(fit.atom[place])

    def _other_settings(
        self, row: int, doubtful: np.ndarray, positions: np.ndarray, cells: np.ndarray, rms: np.ndarray
    ) -> None:
        """Read a frame in other settings; what fits well is tried on all frames that are in doubt."""
        known = self.host.settings_found.setdefault((self.copies, len(self.numbers)), [])
        for reading in known:
            fit = self._fit(reading, positions[[row]], cells[[row]])
            if fit.rms[0] <= SURE:
                self._spread(reading, doubtful, positions, cells, rms)
                return
        best: tuple[float, Reading] | None = None
        for reading, found in self._readings(positions[row], cells[row]):
            if best is None or found < best[0]:
                best = found, reading
        if best is not None:
            reading = best[1]
            self._take(
                np.array([row]),
                reading.basis.repeat,
                self._fit(reading, positions[[row]], cells[[row]]),
                rms,
            )
            if best[0] <= SURE:
                known.insert(0, reading)
                del known[REMEMBERED:]
                self._spread(reading, doubtful, positions, cells, rms)
        elif self.found[row] is None:
            edges = " x ".join(f"{edge:.2f}" for edge in np.linalg.norm(cells[row], axis=1))
            self.reasons[row] = f"its cell of {edges} A is no repetition of that of {self.host.name}"
        rms[row] = min(rms[row], SURE)  # read; nothing fits better

    def _spread(
        self,
        reading: Reading,
        doubtful: np.ndarray,
        positions: np.ndarray,
        cells: np.ndarray,
        rms: np.ndarray,
    ) -> None:
        rows = doubtful[rms[doubtful] > SURE]
        fit = self._fit(reading, positions[rows], cells[rows])
        sure = fit.rms <= SURE
        self._take(rows[sure], reading.basis.repeat, _Fit(*(part[sure] for part in fit)), rms)

    def _readings(self, positions: np.ndarray, cell: np.ndarray) -> Iterator[tuple[Reading, float]]:
        """All readings of a frame [n, 3] whose shape is that of the host, with the framework's misfit."""
        elements, counts = np.unique(self.numbers[self.framework], return_counts=True)
        z = int(elements[counts.argmin()])
        first = int(np.flatnonzero(self.numbers == z)[0])
        for basis in bases(self.cell, self.copies, cell):
            # Copies of a site follow one another; a shift by a host cell changes no key.
            sites = self.sites(basis.repeat)[z][:: self.copies]
            inverse = np.linalg.inv(basis.matrix @ cell)
            shifts = sites - positions[first] @ inverse
            framework = self.framework
            fit = self._fit(
                Reading(basis, shifts),
                np.repeat(positions[None], len(shifts), axis=0),
                np.repeat(cell[None], len(shifts), axis=0),
                framework,
            )
            best = int(fit.rms.argmin())
            yield Reading(basis, fit.shift[best]), float(fit.rms[best])

    def _fit(
        self, reading: Reading, positions: np.ndarray, cells: np.ndarray, atoms: np.ndarray | None = None
    ) -> _Fit:
        """Match frames in one reading; of ``atoms`` [n] (bool) alone where given.

        The shift of the reading is where to look; the origin that counts is where the framework has no
        mean displacement.
        """
        chosen = np.ones(len(self.numbers), dtype=bool) if atoms is None else atoms
        edges = reading.basis.matrix @ cells
        scaled = positions[:, chosen] @ np.linalg.inv(edges) + np.atleast_2d(reading.shift)[:, None]
        numbers, framework = self.numbers[chosen], self.framework[chosen]
        sites = self.sites(reading.basis.repeat)
        site = np.empty(scaled.shape[:2], dtype=np.int64)
        gap = np.empty_like(scaled)
        for z in np.unique(numbers):
            mine = np.flatnonzero(numbers == z)
            site[:, mine], gap[:, mine] = _nearest(scaled[:, mine], sites[int(z)], edges)
        mean = gap[:, framework].mean(axis=1)
        displaced = np.linalg.norm((gap - mean[:, None]) @ edges, axis=-1)
        for z in np.unique(numbers):
            mine = np.flatnonzero(numbers == z)
            shared = (np.diff(np.sort(site[:, mine], axis=1), axis=1) == 0).any(axis=1)
            for frame in np.flatnonzero(shared).tolist():
                site[frame, mine], displaced[frame, mine] = _assigned(
                    scaled[frame, mine] - mean[frame], sites[int(z)], edges[frame]
                )
        return _Fit(
            site,
            displaced.max(axis=1),
            np.sqrt((displaced[:, framework] ** 2).mean(axis=1)),
            displaced.argmax(axis=1),
            np.atleast_2d(reading.shift) - mean,
        )


def _nearest(scaled: np.ndarray, sites: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest site [G, a] of atoms ``scaled`` [G, a, 3] and the gap to it, scaled too [G, a, 3].

    ``sites`` [s, 3] are scaled; ``cells`` [G, 3, 3] in A.
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
    """Sites [a] of atoms [a, 3] (scaled) with the least sum of squared distances, and the distances (A)."""
    from scipy.optimize import linear_sum_assignment

    gap = scaled[:, None] - sites[None]
    distance = np.linalg.norm((gap - np.round(gap)) @ cell, axis=-1)
    rows, columns = linear_sum_assignment(distance**2)
    return columns, distance[rows, columns]
