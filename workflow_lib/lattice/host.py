"""A host crystal, its symmetry, and arrangements of ions and charge states on it.

The host is a full cell (every mobile site occupied) at both ends of the composition, so that the
cell and the framework of any composition x can be interpolated (Vegard). Symmetry comes from spglib
on the full structure; equivalent arrangements share one canonical form and one key. The redox rule
decides how many redox sites are reduced, for this and every other host.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from itertools import combinations, product
from math import comb, prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workflow_lib.core.elements import SYMBOLS, atomic_number
from workflow_lib.core.errors import UserError
from workflow_lib.lattice.arrangement import UNIT, Arrangement, Repeat, StateKey
from workflow_lib.lattice.host_file import HostFile, read_host_file
from workflow_lib.lattice.redox import IMPOSSIBLE, RedoxRule

if TYPE_CHECKING:
    from ase import Atoms
    from spglib import SpglibDataset

    from workflow_lib.lattice.polaron import Shells
    from workflow_lib.lattice.site_fit import Reading

MOST_ORDERS = 100_000
"""Charge orders of an end member of mixed valence that are listed; half a minute's work."""
_DISTANCES = 4_000_000
"""Distances computed at once, 0.1 GB."""
SYMPREC = 1e-3  # A; host files hold exactly symmetric positions


class Host:
    """A host structure with a mobile ion, a redox element and the rule that keeps it neutral.

    ``numbers`` [n] and ``scaled_full`` [n, 3] describe the full cell, ``scaled_empty`` [n, 3] the
    same sites in the empty end member (mobile sites keep their place); ``cell_full`` and
    ``cell_empty`` [3, 3] are in A.
    """

    def __init__(self, described: HostFile, rule: RedoxRule) -> None:
        described.check_rule(rule)
        self.rule = rule
        self.name, self.mobile, self.redox = described.name, described.mobile, described.redox
        self.formula_units = described.formula_units
        self.numbers = np.array(described.numbers, dtype=np.int64)
        self.cell_full = np.array(described.cell_full, dtype=float)
        self.cell_empty = np.array(described.cell_empty, dtype=float)
        self.scaled_full = np.array(described.scaled_full, dtype=float)
        self.scaled_empty = np.array(described.scaled_empty, dtype=float)
        self.mobile_sites = np.flatnonzero(self.numbers == atomic_number(self.mobile))
        self.redox_sites = np.flatnonzero(self.numbers == rule.redox_z)
        self._permutations: dict[Repeat, tuple[np.ndarray, np.ndarray]] = {}
        # Settings of the crystal found in frames, which ``locate`` tries on later ones.
        self.settings_found: dict[tuple[int, int], list[Reading]] = {}

    @classmethod
    def load(cls, path: str | Path, rule: RedoxRule) -> Host:
        """Read a host file (JSON); raise UserError if it is missing, incomplete or against the rule."""
        return cls(read_host_file(path, rule), rule)

    @property
    def low(self) -> int:
        """Lower oxidation state of the redox element."""
        return self.rule.low

    @property
    def high(self) -> int:
        """Higher oxidation state of the redox element."""
        return self.rule.high

    @property
    def mobile_charge(self) -> int:
        """Formal charge of the mobile ion in e."""
        return self.rule.formal_charges[self.mobile]

    def n_mobile(self, repeat: Repeat) -> int:
        """Return the number of mobile sites in the supercell."""
        return len(self.mobile_sites) * prod(repeat)

    def n_redox(self, repeat: Repeat) -> int:
        """Return the number of redox sites in the supercell."""
        return len(self.redox_sites) * prod(repeat)

    def composition(self, arrangement: Arrangement) -> float:
        """Return x, mobile ions per mobile site."""
        return len(arrangement.occupied) / self.n_mobile(arrangement.repeat)

    # Neutrality

    @cached_property
    def _framework_charge(self) -> int:
        """Formal charge of all ions of the cell except the mobile and the redox ones, in e."""
        fixed = np.delete(self.numbers, np.concatenate([self.mobile_sites, self.redox_sites]))
        return sum(self.rule.formal_charges[SYMBOLS[z]] for z in fixed)

    def _reduced(self, repeat: Repeat, n_occupied: int) -> int:
        charge = prod(repeat) * self._framework_charge + n_occupied * self.mobile_charge
        if not 0 <= n_occupied <= self.n_mobile(repeat):
            return IMPOSSIBLE
        return int(self.rule.reduced_sites(self.n_redox(repeat), charge))

    def n_reduced(self, repeat: Repeat, n_occupied: int) -> int:
        """Return the number of redox sites in the lower state; raise UserError if no number is neutral."""
        reduced = self._reduced(repeat, n_occupied)
        if reduced == IMPOSSIBLE:
            raise UserError(
                f"{self.name} with {n_occupied} {self.mobile} on {self.n_mobile(repeat)} sites has no "
                f"neutral assignment of {self.rule.couple}; {self._neutral(repeat)} have"
            )
        return reduced

    def compositions(self, repeat: Repeat, *, charges: bool = True) -> tuple[int, ...]:
        """Return the numbers of mobile ions, ascending: with ``charges`` those that can be neutral."""
        numbers = range(self.n_mobile(repeat) + 1)
        return tuple(n for n in numbers if not charges or self._reduced(repeat, n) != IMPOSSIBLE)

    def _neutral(self, repeat: Repeat) -> str:
        numbers = self.compositions(repeat)
        if len(numbers) > 2 and len(set(np.diff(numbers))) == 1 and numbers[1] - numbers[0] == 1:
            return f"{numbers[0]} to {numbers[-1]}"
        return ", ".join(map(str, numbers)) or "none of 0 to " + str(self.n_mobile(repeat))

    def end_members(self, *, charges: bool) -> tuple[list[Arrangement], list[Arrangement]]:
        """Return the distinct arrangements of the empty and of the full host, in its own cell.

        With ``charges`` an end member of mixed valence has several charge orders; the energy of the
        end member is the lowest. Raises UserError where an end member is not neutral: formation
        energies need both.
        """
        ends = (0, self.n_mobile(UNIT))
        for number, what in zip(ends, ("empty", "full"), strict=True):
            if charges and self._reduced(UNIT, number) == IMPOSSIBLE:
                raise UserError(
                    f"the {what} end member of {self.name} is not neutral with {self.rule.couple}, and "
                    f"formation energies need both; {self._neutral(UNIT)} {self.mobile} of {ends[1]} are"
                )
            orders = comb(self.n_redox(UNIT), self.n_reduced(UNIT, number)) if charges else 1
            if orders > MOST_ORDERS:
                raise UserError(
                    f"the {what} end member of {self.name} has {orders} charge orders in this cell, more "
                    f"than the {MOST_ORDERS} that are listed; describe the host by a smaller cell"
                )
        empty, full = (self.enumerate(UNIT, number, charges=charges) for number in ends)
        return empty, full

    # Sites and symmetry

    def supercell(self, repeat: Repeat, x: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return numbers [N], scaled positions [N, 3] and cell [3, 3] of the full supercell at x."""
        step = self.scaled_full - self.scaled_empty
        scaled = self.scaled_empty + x * (step - np.round(step))
        mobile = self.mobile_sites
        scaled[mobile] = self.scaled_full[mobile]
        cell = (1 - x) * self.cell_empty + x * self.cell_full
        shifts = np.array(list(product(*(range(n) for n in repeat))), dtype=float)
        # One sublattice after another, so that the site indices of a sublattice are consecutive.
        order = np.argsort(np.tile(np.arange(len(self.numbers)), len(shifts)), kind="stable")
        positions = (scaled[None] + shifts[:, None]).reshape(-1, 3)[order] / np.array(repeat)
        return (
            np.tile(self.numbers, len(shifts))[order],
            positions,
            cell * np.array(repeat)[:, None],
        )

    def full_cell(self, x: float) -> Atoms:
        """Return the host's own cell with all mobile sites occupied, in the geometry of composition x."""
        from ase import Atoms

        numbers, scaled, cell = self.supercell(UNIT, x)
        return Atoms(numbers, scaled_positions=scaled, cell=cell, pbc=True)

    @cached_property
    def shells(self) -> Shells:
        """Anion shells of the redox sites; raises UserError if the host has no anions."""
        from workflow_lib.lattice.polaron import Shells

        return Shells(self)

    @cached_property
    def confusable(self) -> float:
        """How well the host fits itself in a wrong setting, see ``locate.confusable`` (A)."""
        from workflow_lib.lattice.locate import confusable

        return confusable(self)

    def symmetry(self, repeat: Repeat) -> SpglibDataset:
        """Return what spglib finds of the full supercell; raise UserError if it finds no symmetry."""
        import spglib

        numbers, scaled, cell = self.supercell(repeat, 1.0)
        found = spglib.get_symmetry_dataset((cell, scaled, numbers), symprec=SYMPREC)  # type: ignore[arg-type]
        if found is None:
            raise UserError(f"spglib finds no symmetry of {self.name}; are two sites on top of each other?")
        return found

    def permutations(self, repeat: Repeat) -> tuple[np.ndarray, np.ndarray]:
        """Return how symmetry moves sites: ``(mobile [n_ops, n_mobile], redox [n_ops, n_redox])``.

        Entry ``[g, i]`` is the site to which operation g takes site i.
        """
        if repeat not in self._permutations:
            numbers, scaled, cell = self.supercell(repeat, 1.0)
            symmetry = self.symmetry(repeat)
            tables = []
            for z in (atomic_number(self.mobile), atomic_number(self.redox)):
                sites = scaled[numbers == z]
                images = np.einsum("gab,ib->gia", symmetry.rotations, sites)
                images += symmetry.translations[:, None]
                # Some operations at once: all of them would take 20 GB for 432 sites of a cubic crystal.
                parts = np.array_split(images, -(-len(images) * len(sites) ** 2 // _DISTANCES))
                found = []
                for part in parts:
                    gap = part[:, :, None] - sites[None, None]
                    gap -= np.round(gap)
                    found.append(np.linalg.norm(gap @ cell, axis=-1).argmin(axis=-1))
                tables.append(np.concatenate(found))
            both = np.unique(np.concatenate(tables, axis=1), axis=0)
            n = self.n_mobile(repeat)
            self._permutations[repeat] = both[:, :n], both[:, n:]
        return self._permutations[repeat]

    @cached_property
    def space_group(self) -> str:
        """International symbol of the full cell's space group."""
        return str(self.symmetry(UNIT).international)

    def _images(self, arrangement: Arrangement) -> np.ndarray:
        """Return the occupied and reduced sites after each operation ``[n_ops, n]``, each ascending."""
        mobile, redox = self.permutations(arrangement.repeat)
        parts = [np.sort(mobile[:, list(arrangement.occupied)], axis=1)]
        if arrangement.reduced is not None:
            parts.append(np.sort(redox[:, list(arrangement.reduced)], axis=1))
        return np.concatenate(parts, axis=1)

    def canonical(self, arrangement: Arrangement) -> Arrangement:
        """Return the representative of all symmetry-equivalent arrangements (lexicographic minimum)."""
        images = self._images(arrangement)
        best = images[np.lexsort(images.T[::-1])[0]] if images.shape[1] else images[0]
        split = len(arrangement.occupied)
        reduced = None if arrangement.reduced is None else tuple(map(int, best[split:]))
        return Arrangement(arrangement.repeat, tuple(map(int, best[:split])), reduced)

    def degeneracy(self, arrangement: Arrangement) -> int:
        """Return the number of distinct arrangements of the supercell that are equivalent to this one."""
        images = self._images(arrangement)
        return len(np.unique(images, axis=0)) if images.shape[1] else 1

    # Names

    def key(self, arrangement: Arrangement) -> str:
        """Return the canonical name, equal for equivalent arrangements, e.g. ``1x1x1:Na1100:Fe2323``."""
        best = self.canonical(arrangement)
        ions = "".join("1" if i in best.occupied else "0" for i in range(self.n_mobile(best.repeat)))
        if best.reduced is None:
            return str(StateKey(best.repeat, self.mobile, ions))
        states = (self.low if i in best.reduced else self.high for i in range(self.n_redox(best.repeat)))
        return str(StateKey(best.repeat, self.mobile, ions, self.redox, "".join(map(str, states))))

    def parse(self, key: str) -> Arrangement:
        """Return the neutral arrangement that a canonical key names; raise UserError if it names none."""
        hint = f"{key!r} is no state key of {self.name}"
        try:
            parts = StateKey.parse(key)
        except UserError as error:
            like = self.key(Arrangement(UNIT, (), ()))
            raise UserError(f"{hint}; keys look like {like}") from error
        if parts.mobile != self.mobile or parts.redox not in (None, self.redox):
            raise UserError(f"{hint}: its ions are {self.mobile} and {self.redox}")
        needed = (self.n_mobile(parts.repeat), self.n_redox(parts.repeat))
        if parts.sites != needed[0] or (parts.states is not None and len(parts.states) != needed[1]):
            raise UserError(
                f"{hint}: it needs {needed[0]} digits for {self.mobile} and {needed[1]} for {self.redox}"
            )
        occupied = tuple(i for i, digit in enumerate(parts.ions) if digit == "1")
        reduced = None
        if parts.states is not None:
            if set(parts.states) - {str(self.low), str(self.high)}:
                raise UserError(f"{hint}: {self.redox} must be {self.low} or {self.high}")
            reduced = tuple(i for i, digit in enumerate(parts.states) if digit == str(self.low))
            wanted = self.n_reduced(parts.repeat, len(occupied))
            if len(reduced) != wanted:
                raise UserError(
                    f"{hint}: {len(occupied)} {self.mobile} need {wanted} {self.redox}{self.low}+, not "
                    f"{len(reduced)}"
                )
        arrangement = Arrangement(parts.repeat, occupied, reduced)
        if (own := self.key(arrangement)) != key:
            raise UserError(f"{hint}: the same state is called {own}")
        return arrangement

    # All of them, or one at random

    def _all(self, repeat: Repeat, n_occupied: int, charges: bool) -> Iterable[Arrangement]:
        electrons: list[tuple[int, ...] | None] = [None]
        if charges:
            size = self.n_reduced(repeat, n_occupied)
            electrons = list(combinations(range(self.n_redox(repeat)), size))
        for occupied in combinations(range(self.n_mobile(repeat)), n_occupied):
            for reduced in electrons:
                yield Arrangement(repeat, occupied, reduced)

    def enumerate(self, repeat: Repeat, n_occupied: int, *, charges: bool) -> list[Arrangement]:
        """Return all symmetry-distinct arrangements of one composition, in canonical form, ordered."""
        distinct = {self.canonical(a) for a in self._all(repeat, n_occupied, charges)}
        return sorted(distinct, key=lambda a: (a.occupied, a.reduced or ()))

    def random(
        self, repeat: Repeat, n_occupied: int, *, charges: bool, rng: np.random.Generator
    ) -> Arrangement:
        """Draw an arrangement uniformly among all decorations, neutral by construction."""
        occupied = rng.choice(self.n_mobile(repeat), n_occupied, replace=False)
        ions = Arrangement(repeat, tuple(sorted(map(int, occupied))), None)
        return self.random_charges(ions, rng) if charges else ions

    def random_charges(self, ions: Arrangement, rng: np.random.Generator) -> Arrangement:
        """Return the same ions with a charge order drawn uniformly among all neutral ones."""
        size = self.n_reduced(ions.repeat, len(ions.occupied))
        reduced = rng.choice(self.n_redox(ions.repeat), size, replace=False)
        return Arrangement(ions.repeat, ions.occupied, tuple(sorted(map(int, reduced))))

    # Atoms

    def build(self, arrangement: Arrangement, *, polaron_distortion: float = 0.0) -> Atoms:
        """Return the arrangement as atoms in the Vegard cell of its composition.

        ``polaron_distortion`` (A): anions of each higher-state site are drawn in by this much and
        those of each lower-state site pushed out (see ``polaron.distort``). With charge states the
        array ``oxidation_states`` is set (0 outside the couple).
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
        sites = np.flatnonzero(atoms.numbers == self.rule.redox_z)
        states = np.zeros(len(atoms), dtype=np.int64)
        states[sites] = self.high
        states[sites[list(arrangement.reduced)]] = self.low
        atoms.set_array("oxidation_states", states)
        if polaron_distortion:
            from workflow_lib.lattice.polaron import distort

            distort(atoms, self, polaron_distortion)
        return atoms

    def locate(self, atoms: Atoms, oxidation_states: np.ndarray | None) -> Arrangement:
        """Return the arrangement of these atoms, found by matching them to host sites.

        Atoms may be displaced, the cell strained and the crystal given in another setting; see
        ``locate.locate``, which is called with this one frame. Raises UserError if the cell is no
        supercell of the host or an atom is not on a site of its element.
        """
        from workflow_lib.lattice.locate import locate

        states = None if oxidation_states is None else np.asarray(oxidation_states)
        [arrangement], [reason], _, _ = locate(
            self,
            atoms.numbers,
            np.array([0, len(atoms)]),
            atoms.positions,
            np.asarray(atoms.cell[:])[None],
            states,
        )
        if arrangement is None:
            formula = atoms.get_chemical_formula()
            raise UserError(
                f"{formula} is no supercell of {self.name}" if reason is None else f"{formula}: {reason}"
            )
        return arrangement
