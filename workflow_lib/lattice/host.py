"""A host crystal, its symmetry, and arrangements of ions and charge states on it.

The host is a full cell (every mobile site occupied) at both ends of the composition, so that the
cell and the framework of any composition x can be interpolated (Vegard). Symmetry comes from
spglib on the full structure; equivalent arrangements share one canonical form and one key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workflow_lib.core.elements import atomic_number
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json

if TYPE_CHECKING:
    from ase import Atoms

Repeat = tuple[int, int, int]
SYMPREC = 1e-3  # A; host files hold exactly symmetric positions
MATCH = 1.2  # A; farther from its host site than this, an atom is somewhere else


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Which mobile sites are occupied and which redox sites hold the lower charge state.

    Sites are counted over the supercell ``repeat``. ``reduced`` is None where the electrons are
    not part of the arrangement (a charge-blind search).
    """

    repeat: Repeat
    occupied: tuple[int, ...]
    reduced: tuple[int, ...] | None

    def without_charges(self) -> Arrangement:
        """The ions alone."""
        return Arrangement(self.repeat, self.occupied, None)


class Host:
    """A host structure with a mobile ion and one redox element.

    ``numbers`` [n] and ``scaled_full`` [n, 3] describe the full cell, ``scaled_empty`` [n, 3] the
    same sites in the empty end member (mobile sites keep their place); ``cell_full`` and
    ``cell_empty`` [3, 3] are in A.
    """

    def __init__(self, description: dict, where: str) -> None:
        try:
            self.name: str = description["name"]
            self.mobile: str = description["mobile"]
            self.redox: str = description["redox"]
            self.low, self.high = description["oxidation_states"]
            self.formula_units: int = description["formula_units"]
            self.numbers = np.array(description["numbers"], dtype=np.int64)
            self.cell_full = np.array(description["cell_full"], dtype=float)
            self.cell_empty = np.array(description["cell_empty"], dtype=float)
            self.scaled_full = np.array(description["scaled_full"], dtype=float)
            self.scaled_empty = np.array(description["scaled_empty"], dtype=float)
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(f"{where} is no host description: {error!r} is missing or wrong") from error
        shape = (len(self.numbers), 3)
        if self.scaled_full.shape != shape or self.scaled_empty.shape != shape:
            raise UserError(f"{where}: scaled positions must be {shape[0]} rows of 3")
        self.mobile_sites = np.flatnonzero(self.numbers == atomic_number(self.mobile))
        self.redox_sites = np.flatnonzero(self.numbers == atomic_number(self.redox))
        if not len(self.mobile_sites) or not len(self.redox_sites):
            raise UserError(f"{where}: the full cell must hold {self.mobile} and {self.redox}")
        self._permutations: dict[Repeat, tuple[np.ndarray, np.ndarray]] = {}

    @classmethod
    def load(cls, path: str | Path) -> Host:
        """Read a host description (JSON); UserError where it is missing or incomplete."""
        return cls(read_json(path), str(path))

    def n_mobile(self, repeat: Repeat) -> int:
        """Number of mobile sites in the supercell."""
        return len(self.mobile_sites) * int(np.prod(repeat))

    def n_redox(self, repeat: Repeat) -> int:
        """Number of redox sites in the supercell."""
        return len(self.redox_sites) * int(np.prod(repeat))

    def composition(self, arrangement: Arrangement) -> float:
        """x: mobile ions per mobile site."""
        return len(arrangement.occupied) / self.n_mobile(arrangement.repeat)

    def supercell(self, repeat: Repeat, x: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers [N], scaled positions [N, 3] and cell [3, 3] of the full supercell at x."""
        step = self.scaled_full - self.scaled_empty
        scaled = self.scaled_empty + x * (step - np.round(step))
        mobile = self.mobile_sites
        scaled[mobile] = self.scaled_full[mobile]
        cell = (1 - x) * self.cell_empty + x * self.cell_full
        shifts = np.array(list(product(*(range(n) for n in repeat))), dtype=float)
        # One sublattice after another, so that site indices of a kind are consecutive.
        order = np.argsort(np.tile(np.arange(len(self.numbers)), len(shifts)), kind="stable")
        positions = (scaled[None] + shifts[:, None]).reshape(-1, 3)[order] / np.array(repeat)
        return (
            np.tile(self.numbers, len(shifts))[order],
            positions,
            cell * np.array(repeat)[:, None],
        )

    def permutations(self, repeat: Repeat) -> tuple[np.ndarray, np.ndarray]:
        """How symmetry moves sites: ``(mobile [n_ops, n_mobile], redox [n_ops, n_redox])``.

        Entry ``[g, i]`` is the site to which operation g takes site i.
        """
        if repeat not in self._permutations:
            import spglib

            numbers, scaled, cell = self.supercell(repeat, 1.0)
            symmetry = spglib.get_symmetry((cell, scaled, numbers), symprec=SYMPREC)  # type: ignore[arg-type]
            if symmetry is None:
                raise UserError(
                    f"spglib finds no symmetry of {self.name}; are two sites on top of each other?"
                )
            tables = []
            for z in (atomic_number(self.mobile), atomic_number(self.redox)):
                sites = scaled[numbers == z]
                images = np.einsum("gab,ib->gia", symmetry["rotations"], sites)
                images += symmetry["translations"][:, None]
                gap = images[:, :, None] - sites[None, None]
                gap -= np.round(gap)
                distance = np.linalg.norm(gap @ cell, axis=-1)
                tables.append(distance.argmin(axis=-1))
            both = np.unique(np.concatenate(tables, axis=1), axis=0)
            n = self.n_mobile(repeat)
            self._permutations[repeat] = both[:, :n], both[:, n:]
        return self._permutations[repeat]

    def canonical(self, arrangement: Arrangement) -> Arrangement:
        """The representative of all symmetry-equivalent arrangements (lexicographic minimum)."""
        mobile, redox = self.permutations(arrangement.repeat)
        occupied = np.sort(mobile[:, list(arrangement.occupied)], axis=1)
        parts = [occupied]
        if arrangement.reduced is not None:
            parts.append(np.sort(redox[:, list(arrangement.reduced)], axis=1))
        images = np.concatenate(parts, axis=1)
        best = images[np.lexsort(images.T[::-1])[0]] if images.shape[1] else images[0]
        split = len(arrangement.occupied)
        reduced = None if arrangement.reduced is None else tuple(map(int, best[split:]))
        return Arrangement(arrangement.repeat, tuple(map(int, best[:split])), reduced)

    def key(self, arrangement: Arrangement) -> str:
        """Canonical name, equal for symmetry-equivalent arrangements, e.g. ``1x1x1:Na1100:Fe2323``."""
        best = self.canonical(arrangement)
        repeat = "x".join(map(str, best.repeat))
        occupied = "".join("1" if i in best.occupied else "0" for i in range(self.n_mobile(best.repeat)))
        key = f"{repeat}:{self.mobile}{occupied}"
        if best.reduced is None:
            return key
        states = "".join(
            str(self.low if i in best.reduced else self.high) for i in range(self.n_redox(best.repeat))
        )
        return f"{key}:{self.redox}{states}"

    def parse(self, key: str) -> Arrangement:
        """The arrangement a key of this host names; UserError where it is none."""
        parts = key.split(":")
        try:
            repeat: Repeat = tuple(map(int, parts[0].split("x")))  # type: ignore[assignment]
            if len(repeat) != 3 or not 2 <= len(parts) <= 3:
                raise ValueError
            occupied, reduced = self._digits(parts[1], self.mobile, "1"), None
            if len(parts) == 3:
                reduced = self._digits(parts[2], self.redox, str(self.low))
            arrangement = Arrangement(repeat, occupied, reduced)
            if self.key(arrangement) != key:
                raise ValueError
        except (ValueError, IndexError) as error:
            like = self.key(Arrangement((1, 1, 1), (), ()))
            raise UserError(f"{key!r} is no state key of {self.name}; keys look like {like}") from error
        return arrangement

    @staticmethod
    def _digits(part: str, element: str, digit: str) -> tuple[int, ...]:
        if not part.startswith(element):
            raise ValueError
        return tuple(i for i, character in enumerate(part[len(element) :]) if character == digit)

    def degeneracy(self, arrangement: Arrangement) -> int:
        """Number of distinct arrangements of the supercell that are equivalent to this one."""
        mobile, redox = self.permutations(arrangement.repeat)
        images = np.sort(mobile[:, list(arrangement.occupied)], axis=1)
        if arrangement.reduced is not None:
            images = np.concatenate([images, np.sort(redox[:, list(arrangement.reduced)], axis=1)], axis=1)
        return len(np.unique(images, axis=0)) if images.shape[1] else 1

    def n_reduced(self, repeat: Repeat, n_occupied: int) -> int:
        """Redox sites in the lower state: each mobile ion brings one electron."""
        reduced = n_occupied + self.n_redox(repeat) - self.n_mobile(repeat)
        if not 0 <= reduced <= self.n_redox(repeat):
            raise UserError(f"{self.name} with {n_occupied} {self.mobile} has no neutral assignment")
        return reduced

    def _all(self, repeat: Repeat, n_occupied: int, charges: bool) -> Iterable[Arrangement]:
        electrons: list[tuple[int, ...] | None] = [None]
        if charges:
            size = self.n_reduced(repeat, n_occupied)
            electrons = list(combinations(range(self.n_redox(repeat)), size))
        for occupied in combinations(range(self.n_mobile(repeat)), n_occupied):
            for reduced in electrons:
                yield Arrangement(repeat, occupied, reduced)

    def enumerate(self, repeat: Repeat, n_occupied: int, *, charges: bool) -> list[Arrangement]:
        """All symmetry-distinct arrangements of one composition, in canonical form, ordered."""
        distinct = {self.canonical(a) for a in self._all(repeat, n_occupied, charges)}
        return sorted(distinct, key=lambda a: (a.occupied, a.reduced or ()))

    def random(
        self, repeat: Repeat, n_occupied: int, *, charges: bool, rng: np.random.Generator
    ) -> Arrangement:
        """An arrangement drawn uniformly among all decorations, neutral by construction."""
        occupied = rng.choice(self.n_mobile(repeat), n_occupied, replace=False)
        reduced = None
        if charges:
            size = self.n_reduced(repeat, n_occupied)
            reduced = tuple(sorted(map(int, rng.choice(self.n_redox(repeat), size, replace=False))))
        return Arrangement(repeat, tuple(sorted(map(int, occupied))), reduced)

    def build(self, arrangement: Arrangement, *, polaron_distortion: float = 0.0) -> Atoms:
        """The arrangement as atoms in the Vegard cell of its composition.

        ``polaron_distortion`` (A): oxygen neighbours of each higher-state site are drawn in by this much
        and those of each lower-state site pushed out, the polaron's own distortion; neighbours
        shared by two sites move by the sum. With charge states the array ``oxidation_states``
        is set (0 outside the couple).
        """
        from ase import Atoms

        numbers, scaled, cell = self.supercell(arrangement.repeat, self.composition(arrangement))
        mobile = np.flatnonzero(numbers == atomic_number(self.mobile))
        keep = np.ones(len(numbers), dtype=bool)
        keep[np.setdiff1d(mobile, mobile[list(arrangement.occupied)])] = False
        atoms = Atoms(numbers[keep], scaled_positions=scaled[keep], cell=cell, pbc=True)
        if arrangement.reduced is None:
            if polaron_distortion:
                raise ValueError("a distorted start needs an arrangement with charge states")
            return atoms
        sites = np.flatnonzero(atoms.numbers == atomic_number(self.redox))
        states = np.zeros(len(atoms), dtype=np.int64)
        states[sites] = self.high
        states[sites[list(arrangement.reduced)]] = self.low
        atoms.set_array("oxidation_states", states)
        if polaron_distortion:
            self._distort(atoms, sites, polaron_distortion)
        return atoms

    def _distort(self, atoms: Atoms, sites: np.ndarray, amplitude: float) -> None:
        from matscipy.neighbours import neighbour_list

        first, second, vector = neighbour_list("ijD", atoms, 2.6)
        pairs = np.isin(first, sites) & (atoms.numbers[second] == atomic_number("O"))
        first, second, vector = first[pairs], second[pairs], vector[pairs]
        sign = np.where(atoms.arrays["oxidation_states"][first] == self.low, 1.0, -1.0)
        unit = vector / np.linalg.norm(vector, axis=1, keepdims=True)
        shift = np.zeros((len(atoms), 3))
        np.add.at(shift, second, amplitude * sign[:, None] * unit)
        atoms.positions += shift

    def locate(self, atoms: Atoms, oxidation_states: np.ndarray | None) -> Arrangement:
        """The arrangement that these atoms are, found by matching them to host sites.

        Atoms may be displaced and the cell strained. Raises UserError where the cell is no
        supercell of the host or an atom sits on no site of its element.
        """
        from scipy.optimize import linear_sum_assignment

        counts = np.count_nonzero(atoms.numbers == atomic_number(self.redox)) / len(self.redox_sites)
        lengths = atoms.cell.lengths()
        x = np.count_nonzero(atoms.numbers == atomic_number(self.mobile)) / max(
            1, round(counts * len(self.mobile_sites))
        )
        own = np.linalg.norm((1 - x) * self.cell_empty + x * self.cell_full, axis=1)
        repeat: Repeat = tuple(int(max(1, round(r))) for r in lengths / own)  # type: ignore[assignment]
        if int(np.prod(repeat)) != counts or x > 1:
            raise UserError(f"{atoms.get_chemical_formula()} is no supercell of {self.name}")
        numbers, scaled, _ = self.supercell(repeat, x)
        own_scaled = atoms.get_scaled_positions(wrap=False)
        found: dict[int, np.ndarray] = {}
        for z in np.unique(atoms.numbers):
            sites = scaled[numbers == z]
            gap = own_scaled[atoms.numbers == z][:, None] - sites[None]
            distance = np.linalg.norm((gap - np.round(gap)) @ atoms.cell[:], axis=-1)
            if distance.shape[0] > distance.shape[1]:
                raise UserError(f"{atoms.get_chemical_formula()} is no supercell of {self.name}")
            rows, columns = linear_sum_assignment(distance**2)
            if len(rows) and distance[rows, columns].max() > MATCH:
                raise UserError(
                    f"an atom of {atoms.get_chemical_formula()} is "
                    f"{distance[rows, columns].max():.2f} A from its site in {self.name}"
                )
            found[int(z)] = columns
        occupied = found.get(atomic_number(self.mobile), np.array([], dtype=int))
        reduced = None
        if oxidation_states is not None:
            redox = found[atomic_number(self.redox)]
            states = np.asarray(oxidation_states)[atoms.numbers == atomic_number(self.redox)]
            reduced = tuple(sorted(map(int, redox[states == self.low])))
        return Arrangement(repeat, tuple(sorted(map(int, occupied))), reduced)


@lru_cache(maxsize=4)
def load_host(path: str) -> Host:
    """A host read once a process; its symmetry tables are kept with it."""
    return Host.load(path)
