"""Which arrangements to compute next: a cluster expansion of the few energies known so far.

The expansion has pairs, short triplets and, with charge states, Ewald's term. It is fitted anew as
energies come in, also from fewer arrangements than it has functions: the lasso chooses among them
(:mod:`sparse_fit`). It has no other use than to name arrangements that are worth computing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from workflow_lib.lattice.annealing import anneal
from workflow_lib.lattice.arrangement import Arrangement, Repeat
from workflow_lib.lattice.cluster_space import Space
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.multilinear import Multilinear
from workflow_lib.lattice.sparse_fit import LEAST_GROUPS, groups_of_ions, sparse_fit

PAIRS, TRIPLETS = 8.0, 5.0
"""A, largest clusters of the expansion. The lasso takes few of them."""
WALKS = 4
"""Arrangements cooled independently for one list of candidates."""


class Screen:
    """Expansions of a supercell's energies, refitted as more of them become known.

    ``charges``: whether charge states are part of the arrangements.
    """

    def __init__(self, host: Host, repeat: Repeat, *, charges: bool) -> None:
        self.host, self.repeat = host, repeat
        self.space = Space.within(host, pairs=PAIRS, triplets=TRIPLETS, charges=charges)

    def fit(self, arrangements: Sequence[Arrangement], energies: np.ndarray) -> Multilinear | None:
        """Return the energy of the supercell (eV) from formation energies [n] (eV a host cell).

        None if there are fewer than three arrangements of ions between the end members: too few to
        judge a fit by what it was not fitted to.
        """
        x = np.array([self.host.composition(arrangement) for arrangement in arrangements])
        ends = (x == 0) | (x == 1)
        features = self.space.features(arrangements)
        groups = groups_of_ions(features[:, self.space.of_ions])
        if len(np.unique(groups[~ends])) < LEAST_GROUPS:
            return None
        fit = sparse_fit(features, np.asarray(energies), groups, always=self.space.points, kept=ends)
        return self.space.multilinear(self.repeat, fit.coefficients)

    def candidates(self, energy: Multilinear, ions: int, rng: np.random.Generator) -> list[Arrangement]:
        """Return distinct arrangements of ``ions`` ions in canonical form, lowest by ``energy`` first."""
        passed: dict[str, Arrangement] = {}
        for _ in range(WALKS):
            start = self.host.random(self.repeat, ions, charges=self.space.charges, rng=rng)
            for arrangement in anneal(self.space, energy, start, rng):
                canonical = self.host.canonical(arrangement)
                passed[self.host.key(canonical)] = canonical
        found = list(passed.values())
        predicted = energy.energy(np.array([self.space.occupations(a) for a in found]))
        return [found[place] for place in np.argsort(predicted, kind="stable")]
