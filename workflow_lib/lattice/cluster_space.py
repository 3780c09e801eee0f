"""The functions of a cluster expansion on a host: sites, occupations, correlations, Ewald's energy.

With charge states, mobile sites hold an ion or a vacancy and redox sites the lower or the higher state;
without them a redox site has no state. smol takes seconds to import.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple, Self

import numpy as np
from pymatgen.analysis.ewald import EwaldSummation
from pymatgen.core import DummySpecies, Element, Lattice, Species, Structure
from smol.cofe import ClusterSubspace
from smol.cofe.extern import EwaldTerm
from smol.cofe.space.domain import Vacancy, get_allowed_species

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError
from workflow_lib.lattice.arrangement import UNIT, Arrangement, Repeat
from workflow_lib.lattice.ewald import pair_potentials
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.multilinear import Multilinear, add, from_tables

SAME_SITE = 1e-4
"""Difference of scaled coordinates below which two sites are one."""
COULOMB = EwaldSummation.CONV_FACT
"""e^2 / (4 pi eps0) in eV A."""
_Kind = Species | Element | DummySpecies


class _Cell(NamedTuple):
    """A supercell as smol counts its sites.

    ``matrix`` [3, 3] repeats the cell; ``structure`` holds all sites; ``site`` [N] is smol's index of
    ours, mobile ones first, redox ones after them; ``code`` [2, N] is smol's code of an empty (redox:
    higher state) and of a filled (lower state) site; ``blank`` holds the codes of all other sites.
    """

    matrix: np.ndarray
    structure: Structure
    site: np.ndarray
    code: np.ndarray
    blank: np.ndarray


class Space:
    """The functions of a cluster expansion on a host, evaluated for arrangements."""

    def __init__(self, host: Host, subspace: ClusterSubspace, *, charges: bool) -> None:
        self.host, self.subspace, self.charges = host, subspace, charges
        self._cells: dict[Repeat, _Cell] = {}
        self._ewald: dict[Repeat, Multilinear] = {}

    @classmethod
    def within(cls, host: Host, *, pairs: float, triplets: float, charges: bool) -> Self:
        """Return all pairs and triplets up to these diameters (A), with Ewald's term if ``charges``.

        Raises UserError for triplets where no pair is that near, of which they are made.
        """
        try:
            subspace = ClusterSubspace.from_cutoffs(
                disordered(host, charges=charges),
                cutoffs={2: pairs, 3: triplets} if triplets else {2: pairs},
                basis="sinusoid",
                supercell_size=None,
            )
        except KeyError as error:  # smol looks for its pairs
            raise UserError(
                f"{host.name} has no pair of sites within {pairs:g} A, of which triplets are made; raise "
                "pairs, or set triplets to 0"
            ) from error
        if charges:
            subspace.add_external_term(EwaldTerm())
        return cls(host, subspace, charges=charges)

    @property
    def points(self) -> np.ndarray:
        """Marks [f] the constant and the functions of one site, which span the composition."""
        marks = np.zeros(len(self.subspace), dtype=bool)
        marks[0] = True
        for orbit in self.subspace.orbits:
            if len(orbit.base_cluster.sites) == 1:
                marks[orbit.bit_id : orbit.bit_id + len(orbit.bit_combos)] = True
        return marks

    @property
    def unpenalised(self) -> np.ndarray:
        """Marks [f] what every fit contains: :attr:`points` and Ewald's term."""
        marks = self.points
        marks[len(marks) - len(self.subspace.external_terms) :] = True
        return marks

    @property
    def of_ions(self) -> np.ndarray:
        """Marks [f] the functions of mobile sites alone: they tell arrangements of ions apart."""
        marks = np.zeros(len(self.subspace), dtype=bool)
        for orbit in self.subspace.orbits:
            if all(any(isinstance(kind, Vacancy) for kind in space) for space in orbit.site_spaces):
                marks[orbit.bit_id : orbit.bit_id + len(orbit.bit_combos)] = True
        return marks

    def cell(self, repeat: Repeat) -> _Cell:
        """Return how smol counts the sites of a supercell."""
        if repeat not in self._cells:
            self._cells[repeat] = self._match(repeat)
        return self._cells[repeat]

    def _match(self, repeat: Repeat) -> _Cell:
        structure = self.subspace.structure.copy()
        structure.make_supercell(np.diag(repeat))
        numbers, scaled, _ = self.host.supercell(repeat, 1.0)
        mobile = np.flatnonzero(numbers == self.host.numbers[self.host.mobile_sites[0]])
        ours = np.concatenate([mobile, np.flatnonzero(numbers == self.host.rule.redox_z)])
        from scipy.spatial import cKDTree

        tree = cKDTree(np.mod(np.mod(structure.frac_coords, 1.0) + SAME_SITE, 1.0), boxsize=1.0)
        gap, site = tree.query(np.mod(np.mod(scaled[ours], 1.0) + SAME_SITE, 1.0))
        if gap.max() > SAME_SITE or len(set(site.tolist())) < len(ours):
            raise ValueError("a site of the host is none of the expansion")  # load has checked
        spaces = get_allowed_species(structure)
        code = np.zeros((2, len(ours)), dtype=np.int32)
        low, high = (_redox(self.host, state) for state in (self.host.low, self.host.high))
        for place, index in enumerate(site):
            allowed = list(spaces[index])
            if len(allowed) == 1:
                continue  # a redox site without states
            is_ion = place < len(mobile)
            filled = _mobile(self.host, self.charges) if is_ion else low
            code[1, place] = allowed.index(filled)
            code[0, place] = 1 - code[1, place] if is_ion else allowed.index(high)
        return _Cell(np.diag(repeat), structure, site, code, np.zeros(len(structure), dtype=np.int32))

    def n_sites(self, repeat: Repeat) -> int:
        """Return the number of sites that have two occupations."""
        return self.host.n_mobile(repeat) + (self.host.n_redox(repeat) if self.charges else 0)

    def occupations(self, arrangement: Arrangement) -> np.ndarray:
        """Return the occupations [N] of an arrangement: 1 for an ion and for a site in the lower state.

        ``N`` counts the mobile sites and, if charge states are part of the expansion, the redox sites.
        """
        n_mobile = self.host.n_mobile(arrangement.repeat)
        values = np.zeros(self.n_sites(arrangement.repeat), dtype=np.int8)
        values[list(arrangement.occupied)] = 1
        if self.charges:
            if arrangement.reduced is None:
                raise ValueError("a charge-decorated expansion needs charge states")
            values[n_mobile + np.array(arrangement.reduced, dtype=np.int64)] = 1
        return values

    def arrangement(self, repeat: Repeat, occupations: np.ndarray) -> Arrangement:
        """Return the arrangement of occupations [N]."""
        n_mobile = self.host.n_mobile(repeat)
        occupied = tuple(map(int, np.flatnonzero(occupations[:n_mobile])))
        reduced = tuple(map(int, np.flatnonzero(occupations[n_mobile:]))) if self.charges else None
        return Arrangement(repeat, occupied, reduced)

    def codes(self, repeat: Repeat, occupations: np.ndarray) -> np.ndarray:
        """Return smol's encoded occupancy of all sites of a supercell for our occupations [N]."""
        cell, n = self.cell(repeat), len(occupations)
        codes = cell.blank.copy()
        codes[cell.site[:n]] = np.where(occupations == 1, cell.code[1, :n], cell.code[0, :n])
        return codes

    def features(self, arrangements: Sequence[Arrangement]) -> np.ndarray:
        """Return correlations [n, f] and, last, Ewald's energy in eV per host cell."""
        rows = []
        for arrangement in arrangements:
            repeat, occupations = arrangement.repeat, self.occupations(arrangement)
            container = self.subspace.get_orbit_indices(np.diag(repeat)).container
            row = self.subspace.evaluator.correlations_from_occupancy(
                self.codes(repeat, occupations), container
            )
            if self.charges:
                ewald = float(self.ewald(repeat).energy(occupations)) / arrangement.cells
                row = np.append(row, ewald)
            rows.append(row)
        return np.array(rows).reshape(len(rows), len(self.subspace))

    def ewald(self, repeat: Repeat) -> Multilinear:
        """Return the electrostatic energy of formal charges in a supercell (eV), as smol's term has it.

        The empty host is periodic in its own cell, so what a change at one site feels of it is the same in
        every supercell; changes see each other by potentials of pairs, one for each displacement. smol's
        matrix has a row for each species of each site and would take hours for the largest cells.
        """
        if repeat not in self._ewald:
            own, cells = self.host.supercell(UNIT, 1.0), int(np.prod(repeat))
            fixed = np.array(
                [self.host.rule.formal_charges.get(SYMBOLS[z], 0) for z in own[0]], dtype=float
            )
            fixed[self.host.mobile_sites], fixed[self.host.redox_sites] = 0.0, self.host.high
            changing = np.concatenate([self.host.mobile_sites, self.host.redox_sites])
            step = np.where(fixed[changing] == 0, self.host.mobile_charge, self.host.low - self.host.high)
            places = own[1] @ own[2]
            empty = pair_potentials(own[2], places, places) @ fixed
            scaled, cell = self.host.supercell(repeat, 1.0)[1:]
            # Copies of a site stand together, so the sublattices keep their order.
            rank = np.concatenate([np.arange(cells) + site * cells for site in changing])
            positions = scaled[rank] @ cell
            first = np.arange(0, len(positions), cells)
            rows = pair_potentials(cell, positions[first], positions)
            images = rows[np.arange(len(first)), first]
            field = COULOMB * step * (empty[changing] + step * images / 2)
            pairs = np.empty((len(positions), len(positions)))
            for site, row in enumerate(rows):
                for copy, order in enumerate(_moves(repeat)):
                    # A copy sees at each place what the first one sees at the place moved back.
                    pairs[site * cells + copy] = row.reshape(-1, cells)[:, order].ravel()
            every = np.repeat(step, cells)
            pairs *= COULOMB * every[:, None] * every
            np.fill_diagonal(pairs, 0)
            self._ewald[repeat] = Multilinear(
                cells * COULOMB * float(fixed @ empty) / 2,
                np.repeat(field, cells),
                pairs,
                np.empty(0),
                np.empty((0, 3), dtype=np.int64),
            )
        return self._ewald[repeat]

    def multilinear(self, repeat: Repeat, coefficients: np.ndarray) -> Multilinear:
        """Return the energy (eV a supercell) of ``coefficients`` [f] (eV a host cell) by occupations."""
        cell, n = self.cell(repeat), self.n_sites(repeat)
        cells = int(np.prod(repeat))
        place = np.full(len(cell.structure), -1)
        place[cell.site[:n]] = np.arange(n)
        tables: list[tuple[np.ndarray, np.ndarray]] = []
        indices = self.subspace.get_orbit_indices(cell.matrix).arrays
        for orbit, clusters in zip(self.subspace.orbits, indices, strict=True):
            own = coefficients[orbit.bit_id : orbit.bit_id + len(orbit.bit_combos)]
            if not own.any():
                continue
            values = np.tensordot(own, orbit.correlation_tensors, axes=1) * cells / len(clusters)
            sites = place[clusters]
            for axis in range(sites.shape[1]):
                code = cell.code[:, sites[0, axis]]
                values = np.take(values, code, axis=axis)
            tables.append((sites, values))
        energy = from_tables(n, tables, constant=cells * float(coefficients[0]))
        if self.charges and coefficients[-1]:
            energy = add(energy, _scaled(self.ewald(repeat), float(coefficients[-1])))
        return energy


def disordered(host: Host, *, charges: bool) -> Structure:
    """Return the full host with both species on every site that has two."""
    numbers, scaled, cell = host.supercell(UNIT, 1.0)
    mobile, redox = int(host.numbers[host.mobile_sites[0]]), host.rule.redox_z
    kinds: list[dict[Any, float]] = []
    for z in numbers.tolist():
        if z == mobile:
            kinds.append({_mobile(host, charges): 0.5})  # the rest is vacant
        elif z == redox and charges:
            kinds.append({_redox(host, host.low): 0.5, _redox(host, host.high): 0.5})
        elif charges:
            kinds.append({Species(SYMBOLS[z], host.rule.formal_charges[SYMBOLS[z]]): 1.0})
        else:
            kinds.append({Element(SYMBOLS[z]): 1.0})
    return Structure(Lattice(cell), kinds, scaled)


def _moves(repeat: Repeat) -> np.ndarray:
    """Return, for each copy of a host cell [n], where the others [n] lie as seen from it."""
    places = np.array(list(product(*(range(count) for count in repeat))))
    back = np.mod(places[None] - places[:, None], repeat)
    return np.ravel_multi_index(tuple(np.moveaxis(back, -1, 0)), repeat)


def _mobile(host: Host, charges: bool) -> _Kind:
    return Species(host.mobile, host.mobile_charge) if charges else Element(host.mobile)


def _redox(host: Host, state: int) -> Species:
    return Species(host.redox, state)


def _scaled(energy: Multilinear, factor: float) -> Multilinear:
    return Multilinear(
        factor * energy.constant,
        factor * energy.field,
        factor * energy.pairs,
        factor * energy.triplets,
        energy.triplet_sites,
    )
