"""Find the arrangement of frames: match atoms to host sites, in any setting of the crystal.

The setting of the host file is tried first, for all frames at once. Frames that do not fit well in it
are read in every other way in which their cell is a repetition of the host's (see ``setting``), and
the reading in which the atoms fit best counts (see ``site_fit``); a reading that was found is tried on
the frames that follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError
from workflow_lib.lattice.arrangement import Arrangement, Repeat
from workflow_lib.lattice.setting import Basis, bases
from workflow_lib.lattice.site_fit import Fit, Reading, fit_to_sites

if TYPE_CHECKING:
    from ase import Atoms

    from workflow_lib.lattice.host import Host

MATCH = 1.2
"""A; farther from its host site than this, an atom is somewhere else."""
SURE = 0.35
"""A; atoms that lie this well on their sites (root mean square) need no other reading."""
BETTER = 0.05
"""A by which another reading must fit better than the host file's own setting."""
SAME = 0.02
"""A; a reading of the host itself that fits this well is a symmetry of it."""
HOPELESS = 1.0
"""A; a reading in which atoms are this far from their nearest sites is not looked at more closely."""
SMALLEST = 0.1
"""A^3 an atom; less is no cell."""
FOREIGN = 0.7
"""A; a framework this far from its sites (root mean square) is another crystal. Thermal motion at 1000 K
moves it by about 0.3 A, and the frames of a hop keep it."""
REMEMBERED = 16
"""Settings found in earlier frames that are tried on later ones."""


class Located(NamedTuple):
    """The ``arrangements`` [F], None if there is none, and the ``reasons`` [F] why not.

    ``reasons`` are also None for frames that do not have the host's composition: these are another
    material. ``copies`` [F] is the number of host cells that a frame's composition makes, 0 for
    another material. ``foreign`` [F]: it has the host's composition, but its framework is that of another
    crystal, such as another polymorph.
    """

    arrangements: list[Arrangement | None]
    reasons: list[str | None]
    copies: np.ndarray
    foreign: np.ndarray


def _counts(host: Host, numbers: np.ndarray, offsets: np.ndarray) -> dict[int, np.ndarray]:
    """Return how many atoms of each element of the host the frames have [F], of one frame or more."""
    return {
        int(z): np.add.reduceat(numbers == z, offsets[:-1], dtype=np.int64) for z in np.unique(host.numbers)
    }


def copies_of_host(host: Host, numbers: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return how many host cells each frame's composition makes [F]; 0 for another material.

    ``numbers`` holds the atoms of all frames, frame i from ``offsets[i]`` to ``offsets[i + 1]``.
    """
    if len(offsets) < 2:
        return np.zeros(0, dtype=np.int64)
    counts = _counts(host, numbers, offsets)
    mobile_z = int(host.numbers[host.mobile_sites[0]])
    copies, rest = np.divmod(counts[host.rule.redox_z], len(host.redox_sites))
    fits = (rest == 0) & (copies > 0) & (sum(counts.values()) == np.diff(offsets))
    for z, count in counts.items():
        sites = copies * np.count_nonzero(host.numbers == z)
        fits &= (count <= sites) if z == mobile_z else (count == sites)
    return np.where(fits, copies, 0)


def _smaller_cells(host: Host, numbers: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return which frames [F] have the host's framework in a cell with fewer atoms than the host's."""
    if len(offsets) < 2:
        return np.zeros(0, dtype=bool)
    counts = _counts(host, numbers, offsets)
    mobile_z = int(host.numbers[host.mobile_sites[0]])
    share = counts[host.rule.redox_z] / len(host.redox_sites)
    smaller = (share > 0) & (share < 1) & (sum(counts.values()) == np.diff(offsets))
    for z, count in counts.items():
        sites = share * np.count_nonzero(host.numbers == z)
        smaller &= (count <= sites + 1e-9) if z == mobile_z else np.isclose(count, sites)
    return smaller


def locate(
    host: Host,
    numbers: np.ndarray,
    offsets: np.ndarray,
    positions: np.ndarray,
    cells: np.ndarray,
    states: np.ndarray | None,
    wanted: np.ndarray | None = None,
) -> Located:
    """Return the arrangements of frames, with the charge ``states`` [N] of their atoms if given.

    ``numbers`` [N] and ``positions`` [N, 3] (A) hold the atoms of all frames, frame i from
    ``offsets[i]`` to ``offsets[i + 1]``; ``cells`` [F, 3, 3] in A, rows are vectors. Frames that
    are not ``wanted`` [F] are skipped without a reason.
    """
    copies = copies_of_host(host, numbers, offsets)
    arrangements: list[Arrangement | None] = [None] * len(copies)
    reasons: list[str | None] = [None] * len(copies)
    for frame in np.flatnonzero(_smaller_cells(host, numbers, offsets) & (copies == 0)).tolist():
        if wanted is None or wanted[frame]:
            reasons[frame] = (
                f"a smaller cell than that of {host.name}; describe the host by it, or repeat the frame"
            )
    foreign = np.zeros(len(copies), dtype=bool)
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
        group = _Group(host, int(copies[members[0]]), numbers[atoms[0]], host.confusable)
        group.locate(positions[atoms], cells[members])
        for row, (frame, mine) in enumerate(zip(members, atoms, strict=True)):
            reasons[frame], foreign[frame] = group.reasons[row], group.foreign[row]
            if reasons[frame] is None:
                own = None if states is None else states[mine]
                arrangements[frame] = group.arrangement(row, own)
            elif (atom := group.misplaced[row]) is not None:
                place = mine[atom] - offsets[frame]
                reasons[frame] = f"atom {place} ({SYMBOLS[numbers[mine[atom]]]}) is {reasons[frame]}"
    return Located(arrangements, reasons, copies, foreign)


def confusable(host: Host) -> float:
    """Return how well the host fits itself in a wrong reading: the smallest root mean square (A).

    A host that is nearly, but not quite, of higher symmetry can be read wrongly at little cost;
    frames must then fit better to need no other reading.
    """
    smallest = np.inf
    for x in (0.0, 1.0):
        atoms = host.full_cell(x)
        kept = np.sort(np.setdiff1d(np.arange(len(atoms)), [] if x else host.mobile_sites))
        kept = kept[np.argsort(atoms.numbers[kept], kind="stable")]
        group = _Group(host, 1, atoms.numbers[kept], np.inf)
        for _, fit in group.trials(atoms.positions[kept], np.asarray(atoms.cell[:])):
            smallest = min(smallest, *fit.rms[fit.rms > SAME].tolist(), np.inf)
    return float(smallest)


class OnSites(NamedTuple):
    """A structure in the setting of the host.

    The host's ``cell`` [3, 3] as the structure has it (A) and, atom by atom, the scaled ``positions``
    [n, 3] from the origin of the host and the ``site`` [n] in its full cell.
    """

    cell: np.ndarray
    positions: np.ndarray
    site: np.ndarray


def onto_sites(host: Host, atoms: Atoms) -> OnSites:
    """Return a structure of one host cell in the setting of the host; UserError if it does not fit."""
    order = np.argsort(atoms.numbers, kind="stable")
    numbers, cell = atoms.numbers[order], np.asarray(atoms.cell[:])
    copies = copies_of_host(host, numbers, np.array([0, len(numbers)]))
    if copies[0] != 1:
        raise UserError(
            f"{atoms.get_chemical_formula()} is not one cell of {host.name}, ions taken out or not"
        )
    group = _Group(host, 1, numbers, host.confusable)
    group.locate(atoms.positions[None, order], cell[None])
    if group.found[0] is None or group.reasons[0] is not None:
        raise UserError(f"{atoms.get_chemical_formula()}: {group.reasons[0]}")
    (basis, shift), found = group.found[0]
    edges = basis.matrix @ cell
    positions, site = np.empty((len(numbers), 3)), np.empty(len(numbers), dtype=np.int64)
    positions[order] = atoms.positions[order] @ np.linalg.inv(edges) + shift
    for z in np.unique(numbers):
        site[order[numbers == z]] = np.flatnonzero(host.numbers == z)[found[numbers == z]]
    return OnSites(edges, positions, site)


def _sound(offsets: np.ndarray, positions: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Return whether the numbers of each frame [F] are finite and its cell has a volume."""
    finite = np.add.reduceat(~np.isfinite(positions).all(axis=1), offsets[:-1], dtype=np.int64) == 0
    finite &= np.isfinite(cells).all(axis=(1, 2))
    volume = np.zeros(len(cells))
    volume[finite] = np.abs(np.linalg.det(cells[finite]))
    return volume > SMALLEST * np.diff(offsets)


class _Group:
    """Frames with the same atoms ``numbers`` [n], sorted, that make ``copies`` cells of the host."""

    def __init__(self, host: Host, copies: int, numbers: np.ndarray, confusable: float) -> None:
        self.host, self.copies, self.numbers = host, copies, numbers
        self.sure, self.better = min(SURE, confusable / 2), min(BETTER, confusable / 4)
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
        self.foreign = np.zeros(0, dtype=bool)
        self.found: list[tuple[Reading, np.ndarray] | None] = []

    def sites(self, repeat: Repeat) -> dict[int, np.ndarray]:
        """Return the scaled positions [s, 3] of the sites of each element in a supercell."""
        if repeat not in self._sites:
            numbers, scaled, _ = self.host.supercell(repeat, self.x)
            self._sites[repeat] = {int(z): scaled[numbers == z] for z in np.unique(numbers)}
        return self._sites[repeat]

    def arrangement(self, row: int, states: np.ndarray | None) -> Arrangement:
        """Return the arrangement of a frame that was located."""
        found = self.found[row]
        assert found is not None
        (basis, _), site = found
        occupied = sorted(site[self.mobile].tolist())
        if states is None:
            return Arrangement(basis.repeat, tuple(occupied), None)
        reduced = site[self.redox][states[self.redox] == self.low]
        return Arrangement(basis.repeat, tuple(occupied), tuple(sorted(reduced.tolist())))

    def locate(self, positions: np.ndarray, cells: np.ndarray) -> None:
        """Match frames ``positions`` [G, n, 3] and ``cells`` [G, 3, 3] (A) to sites."""
        count = len(cells)
        self.found, self.misplaced = [None] * count, [None] * count
        self.reasons = ["unread"] * count
        self.foreign = np.ones(count, dtype=bool)
        rms = np.full(count, np.inf)
        own = np.linalg.norm(self.cell, axis=1)
        repeats = np.maximum(1, np.round(np.linalg.norm(cells, axis=2) / own)).astype(np.int64)
        plain = repeats.prod(axis=1) == self.copies
        for repeat in np.unique(repeats[plain], axis=0).tolist():
            rows = np.flatnonzero(plain & (repeats == repeat).all(axis=1))
            basis = Basis((repeat[0], repeat[1], repeat[2]), np.eye(3, dtype=np.int64))
            self._take(
                rows,
                basis,
                self._fit(Reading(basis, np.zeros(3)), positions[rows], cells[rows]),
                rms,
            )
        doubtful = np.flatnonzero(rms > self.sure)
        for row in doubtful.tolist():
            if rms[row] > self.sure:
                self._other_settings(row, doubtful, positions, cells, rms)

    def _take(self, rows: np.ndarray, basis: Basis, fit: Fit, rms: np.ndarray) -> None:
        """Keep a fit of some frames if it is better than their present one."""
        for place, row in enumerate(rows.tolist()):
            if fit.rms[place] >= rms[row] - (self.better if np.isfinite(rms[row]) else 0):
                continue
            rms[row] = fit.rms[place]
            self.found[row] = Reading(basis, fit.shift[place]), fit.site[place]
            far, foreign = fit.worst[place] > MATCH, fit.framework[place] > FOREIGN
            reason = f"{fit.worst[place]:.2f} A from its site in {self.host.name}" if far else None
            if foreign and not far:  # such as another stacking of the layers
                reason = f"of a framework {fit.framework[place]:.2f} A off that of {self.host.name}"
            self.reasons[row] = reason
            self.misplaced[row] = int(fit.atom[place]) if far or foreign else None
            self.foreign[row] = foreign

    def _other_settings(
        self, row: int, doubtful: np.ndarray, positions: np.ndarray, cells: np.ndarray, rms: np.ndarray
    ) -> None:
        """Read a frame in other settings; try those that fit well on all frames in doubt."""
        known = self.host.settings_found.setdefault((self.copies, len(self.numbers)), [])
        for reading in known:
            fit = self._fit(reading, positions[[row]], cells[[row]])
            if fit.rms[0] <= self.sure:
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
                reading.basis,
                self._fit(reading, positions[[row]], cells[[row]]),
                rms,
            )
            if best[0] <= self.sure:
                known.insert(0, reading)
                del known[REMEMBERED:]
                self._spread(reading, doubtful, positions, cells, rms)
        elif self.found[row] is None:
            edges = " x ".join(f"{edge:.2f}" for edge in np.linalg.norm(cells[row], axis=1))
            self.reasons[row] = f"its cell of {edges} A is no repetition of that of {self.host.name}"
        rms[row] = min(rms[row], self.sure)  # read; nothing fits better

    def _spread(
        self,
        reading: Reading,
        doubtful: np.ndarray,
        positions: np.ndarray,
        cells: np.ndarray,
        rms: np.ndarray,
    ) -> None:
        rows = doubtful[rms[doubtful] > self.sure]
        fit = self._fit(reading, positions[rows], cells[rows])
        sure = fit.rms <= self.sure
        self._take(rows[sure], reading.basis, Fit(*(part[sure] for part in fit)), rms)

    def _readings(self, positions: np.ndarray, cell: np.ndarray) -> Iterator[tuple[Reading, float]]:
        """Yield all readings of a frame [n, 3] that have the host's shape, with the framework's misfit."""
        for basis, fit in self.trials(positions, cell):
            best = int(fit.rms.argmin())
            yield Reading(Basis(basis.repeat, basis.matrix[best]), fit.shift[best]), float(fit.rms[best])

    def trials(self, positions: np.ndarray, cell: np.ndarray) -> Iterator[tuple[Basis, Fit]]:
        """Yield all readings of a frame, those of one supercell together (``matrix`` [T, 3, 3], fit [T]).

        In each basis one atom is placed on each of its sites in turn.
        """
        elements, counts = np.unique(self.numbers[self.framework], return_counts=True)
        z = int(elements[counts.argmin()])
        first = int(np.flatnonzero(self.numbers == z)[0])
        every = bases(self.cell, self.copies, cell)
        for repeat in dict.fromkeys(basis.repeat for basis in every):
            matrices = np.array([basis.matrix for basis in every if basis.repeat == repeat])
            # Copies of a site are consecutive; a shift by a host cell changes no key.
            sites = self.sites(repeat)[z][:: self.copies]
            shifts = sites - (positions[first] @ np.linalg.inv(matrices @ cell))[:, None]
            basis = Basis(repeat, np.repeat(matrices, len(sites), axis=0))
            count = len(basis.matrix)
            frames = np.broadcast_to(positions, (count, *positions.shape))
            cells = np.broadcast_to(cell, (count, 3, 3))
            yield basis, self._fit(Reading(basis, shifts.reshape(-1, 3)), frames, cells, hopeless=HOPELESS)

    def _fit(
        self, reading: Reading, positions: np.ndarray, cells: np.ndarray, hopeless: float = np.inf
    ) -> Fit:
        """Match frames in one reading."""
        sites = self.sites(reading.basis.repeat)
        return fit_to_sites(reading, positions, cells, self.numbers, self.framework, sites, hopeless)
