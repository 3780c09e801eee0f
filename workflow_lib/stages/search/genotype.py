"""Arrangements as the genes that ase-ga's operators work on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.geometry import get_distances

from workflow_lib.core.elements import atomic_number
from workflow_lib.lattice.arrangement import Arrangement, Repeat
from workflow_lib.lattice.host import Host

ABSENT = 0
"""Atomic number of ase's dummy element X: a vacancy, or a redox site in the higher state."""


@dataclass
class Lattice:
    """The sites that a search decorates, and the conversion between arrangements and genes.

    A gene is an :class:`ase.Atoms` of all mobile sites, followed by all redox sites if ``charges``
    are arranged too. The mobile element (the redox element) marks an ion (a reduced site), X its
    absence. ``compositions`` are the numbers of mobile ions a search may have; ``reduced`` gives
    the number of reduced sites that makes each of them neutral. ``carried`` is how many of these
    go with an ion that moves: one or more, negative for mobile anions.
    """

    host: Host
    repeat: Repeat
    charges: bool
    compositions: tuple[int, ...]
    template: Atoms = field(init=False)
    reduced: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.n_mobile = self.host.n_mobile(self.repeat)
        self.n_redox = self.host.n_redox(self.repeat) if self.charges else 0
        full = self.host.build(Arrangement(self.repeat, tuple(range(self.n_mobile)), None))
        mobile_z, redox_z = atomic_number(self.host.mobile), atomic_number(self.host.redox)
        sites = np.flatnonzero(full.numbers == mobile_z)
        if self.charges:
            sites = np.concatenate([sites, np.flatnonzero(full.numbers == redox_z)])
        self.template = full[sites]
        self.present = np.array([mobile_z] * self.n_mobile + [redox_z] * self.n_redox)
        self.ions = slice(0, self.n_mobile)
        self.electrons = slice(self.n_mobile, self.n_mobile + self.n_redox)
        carried = self.host.mobile_charge / (self.host.high - self.host.low)
        self.carried = max(1, round(abs(carried))) * (1 if carried > 0 else -1)
        self.reduced = (
            {n: self.host.n_reduced(self.repeat, n) for n in self.compositions} if self.charges else {}
        )
        # Distance of each mobile site to the nearest image of each redox site [n_mobile, n_redox] in A.
        self.distances = np.zeros((self.n_mobile, 0))
        if self.charges:
            ions, electrons = self.template.positions[self.ions], self.template.positions[self.electrons]
            self.distances = get_distances(ions, electrons, cell=full.cell, pbc=True)[1]

    def encode(self, arrangement: Arrangement) -> Atoms:
        """Return the gene of an arrangement (with its charge states if the lattice has charges)."""
        numbers = np.full(len(self.template), ABSENT)
        filled = list(arrangement.occupied)
        if self.charges:
            assert arrangement.reduced is not None, "charge states are arranged: give them"
            filled += [self.n_mobile + site for site in arrangement.reduced]
        numbers[filled] = self.present[filled]
        gene = self.template.copy()
        gene.numbers[:] = numbers
        return gene

    def decode(self, gene: Atoms) -> Arrangement:
        """Return the arrangement of a gene."""
        filled = gene.numbers != ABSENT
        occupied = tuple(map(int, np.flatnonzero(filled[self.ions])))
        reduced = tuple(map(int, np.flatnonzero(filled[self.electrons]))) if self.charges else None
        return Arrangement(self.repeat, occupied, reduced)

    def composition(self, gene: Atoms) -> int:
        """Return the number of mobile ions of a gene."""
        return int(np.count_nonzero(gene.numbers[self.ions] != ABSENT))

    def move(self, gene: Atoms, operation: int) -> Atoms:
        """Return the gene after a symmetry operation of the host (an equivalent arrangement)."""
        mobile, redox = self.host.permutations(self.repeat)
        target = mobile[operation]
        if self.charges:
            target = np.concatenate([target, self.n_mobile + redox[operation]])
        moved = gene.copy()
        moved.numbers[target] = gene.numbers
        return moved
