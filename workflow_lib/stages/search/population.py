"""The population, grouped by composition so that one composition does not crowd out the others.

Uses ase-ga's RankFitnessPopulation, as the authors do: fitness is the rank within a composition, so
parents of different compositions meet and pass compositions on to each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from ase import Atoms
from ase_ga.population import RankFitnessPopulation

from workflow_lib.stages.search.genotype import Lattice
from workflow_lib.stages.search.problem import Record


class _Members:
    """The part of ase-ga's DataConnection that a population reads, without a database."""

    def __init__(self, genes: list[Atoms]) -> None:
        self.genes = genes

    def get_all_relaxed_candidates(self, use_extinct: bool = False) -> list[Atoms]:
        """Return all evaluated genes (none is ever made extinct)."""
        return list(self.genes)


class _SameKey:
    """An ase-ga comparator: two genes are equal if their canonical keys are equal."""

    @staticmethod
    def looks_like(first: Atoms, second: Atoms) -> bool:
        """Return whether two genes are equivalent by the host's symmetry."""
        return first.info["key"] == second.info["key"]


def best_ranked(records: Iterable[Record], size: int) -> list[Record]:
    """Return the records whose rank within their composition can put them among the ``size`` fittest.

    These are the records of the first ranks, as many ranks as together hold ``size`` records.
    ase-ga ranks in a time quadratic in the number of records; this leaves it little more than the
    population.
    """
    groups: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        if record.evaluation.formation is not None:
            groups[record.n_occupied].append(record)
    ranks, longest = 1, max(map(len, groups.values()), default=0)
    while ranks < longest and sum(min(len(group), ranks) for group in groups.values()) < size:
        ranks += 1
    kept = []
    for group in groups.values():
        kept += sorted(group, key=lambda record: (record.evaluation.formation, record.order))[:ranks]
    return sorted(kept, key=lambda record: record.order)


def make_population(
    lattice: Lattice, records: Iterable[Record], size: int, rng: np.random.RandomState
) -> RankFitnessPopulation:
    """Return the ``size`` fittest of all records as an ase-ga population that yields pairs of parents.

    The score is the negative formation energy; relaxations that diverged or moved take no part. ``rng`` is
    set on the population because its constructor takes none and would use ``numpy.random``.
    """
    genes = []
    for record in best_ranked(records, size):
        gene = lattice.encode(record.arrangement)
        gene.info = {
            "confid": record.order,
            "relax_id": record.order,
            "key": record.key,
            "key_value_pairs": {"raw_score": -float(record.evaluation.formation or 0.0)},
            "data": {},
        }
        genes.append(gene)
    population = RankFitnessPopulation(
        _Members(genes), size, variable_function=lattice.composition, comparator=_SameKey()
    )
    population.rng = rng
    if genes:
        population.update()
    return population
