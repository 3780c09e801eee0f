"""Operators of the genetic algorithm: every child has an allowed composition and is neutral.

ase-ga supplies the plane cut, the exchange of two atoms, the base class of an operator and the
choice among operators. Its own repair of compositions matches elements by their abundance, which
cannot tell ions from vacancies at half filling and knows no electrons; the repair here works on
each sublattice. ase-ga draws from ``numpy.random`` unless told otherwise: all classes here require
``rng``. It is a ``RandomState`` because ase-ga calls ``randint``; it can share its bit generator
with a ``Generator``.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase_ga.offspring_creator import OffspringCreator, OperationSelector
from ase_ga.slab_operators import CutSpliceSlabCrossover, permute2

from workflow_lib.stages.search.genotype import ABSENT, Lattice
from workflow_lib.stages.search.settings import OperatorWeights

NEAREST = 4
"""Number of redox sites near an ion that may hold its electron (olivine: 2 at 3.4 A, 2 at 3.7 A,
the next 2 A farther away)."""
SYMMETRY_TRIES = 12
"""Number of candidates from which RaiseSymmetry keeps the most symmetric one."""


def _choose(rng: np.random.RandomState, sites: np.ndarray) -> int:
    return int(sites[int(rng.random() * len(sites))])


class CutSplice(CutSpliceSlabCrossover):
    """A plane cut: one side from each parent, then the occupation of each sublattice is repaired.

    The second parent is first moved by a random symmetry operation of the host, because it is
    arbitrary which of its equivalent images was stored. The child's composition is the allowed one
    between those of the parents that is closest to the result of the cut. The repair changes sites
    in which the parents differ before those in which they agree.
    """

    descriptor = "crossover"

    def __init__(self, lattice: Lattice, rng: np.random.RandomState) -> None:
        super().__init__(rng=rng)
        self.descriptor = "crossover"
        self.lattice = lattice

    def operate(self, f: Atoms, m: Atoms) -> Atoms:
        """Return the child of two genes."""
        lattice = self.lattice
        m = lattice.move(m, int(self.rng.random() * len(lattice.host.permutations(lattice.repeat)[0])))
        child = super().operate(f, m)
        ends = sorted((lattice.composition(f), lattice.composition(m)))
        allowed = [n for n in lattice.compositions if ends[0] <= n <= ends[1]]
        spliced = lattice.composition(child)
        target = min(allowed, key=lambda n: (abs(n - spliced), n))
        agree = f.numbers == m.numbers
        self._settle(child, lattice.ions, target, agree)
        if lattice.charges:
            self._settle(child, lattice.electrons, lattice.reduced[target], agree)
        return child

    def _settle(self, child: Atoms, part: slice, target: int, agree: np.ndarray) -> None:
        numbers = child.numbers[part]  # a view: writing to it writes to the child
        filled = numbers != ABSENT
        excess = int(np.count_nonzero(filled)) - target
        pool = np.flatnonzero(filled if excess > 0 else ~filled)
        pool = pool[np.argsort(self.rng.random(len(pool)), kind="stable")]
        pool = pool[np.argsort(agree[part][pool], kind="stable")][: abs(excess)]
        numbers[pool] = ABSENT if excess > 0 else self.lattice.present[part][pool]


class Mutation(OffspringCreator):
    """Base class of an operator with one parent; ``mutate`` returns None if it is not possible."""

    name = "mutation"

    def __init__(self, lattice: Lattice, rng: np.random.RandomState) -> None:
        super().__init__(rng=rng)
        self.descriptor = self.name
        self.min_inputs = 1
        self.lattice = lattice

    def get_new_individual(self, parents: tuple[Atoms, ...]) -> tuple[Atoms | None, str]:
        """Return a changed copy of the first parent (None if not possible) and the operator's name."""
        child = self.mutate(parents[0].copy())
        if child is None:
            return None, self.descriptor
        child = self.initialize_individual(parents[0], child)
        child.info["data"]["parents"] = [parents[0].info["confid"]]
        return self.finalize_individual(child), self.descriptor

    def mutate(self, gene: Atoms) -> Atoms | None:
        """Change the gene in place and return it."""
        raise NotImplementedError

    def _exchange(self, gene: Atoms, part: slice) -> bool:
        """Exchange one filled and one empty site of a sublattice; return False if all sites are alike."""
        some = gene[part]
        if len(set(some.numbers)) < 2:
            return False
        permute2(some, rng=self.rng)
        gene.numbers[part] = some.numbers
        return True


class SwapIons(Mutation):
    """A mobile ion goes to a vacancy."""

    name = "ions"

    def mutate(self, gene: Atoms) -> Atoms | None:
        """Exchange on the mobile sublattice."""
        return gene if self._exchange(gene, self.lattice.ions) else None


class SwapElectrons(Mutation):
    """Two redox sites exchange their charge states."""

    name = "electrons"

    def mutate(self, gene: Atoms) -> Atoms | None:
        """Exchange on the redox sublattice."""
        return gene if self._exchange(gene, self.lattice.electrons) else None


class _WithElectrons(Mutation):
    """An operator that moves ions with the electrons near them."""

    def _near(self, gene: Atoms, ion: int, *, filled: bool) -> int | None:
        """Return a redox site near a mobile site, with (without) its electron; None if there is none."""
        electrons = gene.numbers[self.lattice.electrons] != ABSENT
        sites = np.flatnonzero(electrons == filled)
        if not len(sites):
            return None
        order = np.argsort(self.lattice.distances[ion][sites], kind="stable")
        return self.lattice.n_mobile + _choose(self.rng, sites[order][:NEAREST])

    def _set(self, gene: Atoms, site: int, *, filled: bool) -> None:
        gene.numbers[site] = self.lattice.present[site] if filled else ABSENT


class MoveCoupled(_WithElectrons):
    """A mobile ion goes to a vacancy and takes its electrons from its old to its new neighbourhood."""

    name = "coupled"

    def mutate(self, gene: Atoms) -> Atoms | None:
        """Exchange on both sublattices."""
        occupied = gene.numbers[self.lattice.ions] != ABSENT
        if occupied.all() or not occupied.any():
            return None
        source = _choose(self.rng, np.flatnonzero(occupied))
        target = _choose(self.rng, np.flatnonzero(~occupied))
        carried, moved = self.lattice.carried, False
        for _ in range(abs(carried)):
            giving = self._near(gene, source, filled=carried > 0)
            taking = self._near(gene, target, filled=carried < 0)
            if giving is None or taking is None:
                break
            self._set(gene, giving, filled=carried < 0)
            self._set(gene, taking, filled=carried > 0)
            moved = True
        if not moved:
            return None
        self._set(gene, source, filled=False)
        self._set(gene, target, filled=True)
        return gene


class ChangeComposition(_WithElectrons):
    """Move to the next lower or higher allowed composition: remove or add ions and their electrons."""

    name = "composition"

    def mutate(self, gene: Atoms) -> Atoms | None:
        """Add or remove ions; change charge states with them so that the child is neutral."""
        lattice = self.lattice
        now = lattice.composition(gene)
        index = lattice.compositions.index(now)
        targets = [
            lattice.compositions[i] for i in (index - 1, index + 1) if 0 <= i < len(lattice.compositions)
        ]
        if not targets:
            return None
        target = targets[int(self.rng.random() * len(targets))]
        adding, steps = target > now, abs(target - now)
        change = lattice.reduced[target] - lattice.reduced[now] if lattice.charges else 0
        for step in range(steps):
            occupied = gene.numbers[lattice.ions] != ABSENT
            site = _choose(self.rng, np.flatnonzero(occupied != adding))
            self._set(gene, site, filled=adding)
            # Whole redox sites follow, also where an ion brings half of one.
            for _ in range(abs(change) * (step + 1) // steps - abs(change) * step // steps):
                redox = self._near(gene, site, filled=change < 0)
                if redox is None:  # cannot be between two neutral compositions
                    raise AssertionError(f"no redox site left to follow an ion at {now} -> {target}")
                self._set(gene, redox, filled=change > 0)
        return gene


class RaiseSymmetry(Mutation):
    """Of several double exchanges, keep the one that leaves the most symmetry.

    Follows ase-ga's SymmetrySlabPermutation; symmetry is counted over the host's operations and
    over ions and charge states together.
    """

    name = "symmetry"

    def mutate(self, gene: Atoms) -> Atoms | None:
        """Return the candidate with the fewest equivalent images."""
        parts = [p for p in (self.lattice.ions, self.lattice.electrons) if len(set(gene.numbers[p])) > 1]
        if not parts:
            return None
        best, images = None, np.inf
        for _ in range(SYMMETRY_TRIES):
            candidate = gene.copy()
            for _ in range(2):
                self._exchange(candidate, parts[int(self.rng.random() * len(parts))])
            count = self.lattice.host.degeneracy(self.lattice.decode(candidate))
            if count < images:
                best, images = candidate, count
        return best


def make_selector(
    lattice: Lattice, weights: OperatorWeights, rng: np.random.RandomState
) -> OperationSelector:
    """Return a selector of the operators that make sense on this lattice, drawn by their weights."""
    operators: list[tuple[float, OffspringCreator]] = [
        (weights.crossover, CutSplice(lattice, rng)),
        (weights.ions, SwapIons(lattice, rng)),
        (weights.symmetry, RaiseSymmetry(lattice, rng)),
    ]
    if len(lattice.compositions) > 1:
        operators.append((weights.composition, ChangeComposition(lattice, rng)))
    if lattice.charges:
        operators.append((weights.electrons, SwapElectrons(lattice, rng)))
        operators.append((weights.coupled, MoveCoupled(lattice, rng)))
    used = [(weight, operator) for weight, operator in operators if weight > 0]
    return OperationSelector([w for w, _ in used], [o for _, o in used], rng=rng)
