"""The genetic algorithm over arrangements of one supercell."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from workflow_lib.stages.search.operators import make_selector
from workflow_lib.stages.search.population import make_population
from workflow_lib.stages.search.problem import Problem, Record, State
from workflow_lib.stages.search.random_search import (
    Batch,
    by_generations,
    draw,
    ions_by_key,
    next_compositions,
)
from workflow_lib.stages.search.settings import OperatorWeights

ATTEMPTS = 60
"""Number of children tried for one new arrangement before a random one is taken instead."""


def breed(
    problem: Problem,
    records: list[Record],
    known: Mapping[str, int],
    *,
    count: int,
    population: int,
    weights: OperatorWeights,
    bits: np.random.BitGenerator,
) -> Batch:
    """Return up to ``count`` arrangements that are not ``known`` (key to number of mobile ions).

    They come from operators on the fittest of ``records``, or else are drawn at random.
    """
    lattice = problem.lattice
    rng = np.random.RandomState(bits)  # shares its bits with a Generator; ase-ga needs a RandomState
    parents = make_population(lattice, records, population, rng)
    selector = make_selector(lattice, weights, rng)
    found = dict(known)
    batch: Batch = []
    while len(batch) < count and (numbers := next_compositions(problem, found)):
        child = None
        for _ in range(ATTEMPTS):
            pair = parents.get_two_candidates() if len(parents.pop) > 1 else None
            if pair is None:
                break
            gene, _ = selector.get_new_individual(pair)
            if gene is None:
                continue
            arrangement = lattice.decode(gene)
            if len(arrangement.occupied) not in numbers:
                continue
            key = problem.key(arrangement)
            if key not in found:
                operator = gene.info["key_value_pairs"]["origin"]
                child = (operator, key, lattice.host.canonical(arrangement))
                break
        if child is None:
            child = draw(problem, found, 1, np.random.Generator(bits))[0]
        found[child[1]] = len(child[2].occupied)
        batch.append(child)
    return batch


def genetic_search(
    problem: Problem,
    state: State,
    *,
    start: np.random.Generator,
    budget: int,
    population: int,
    offspring: int,
    weights: OperatorWeights,
    progress: Callable[[list[Record]], object] = lambda _: None,
) -> list[Record]:
    """Relax ``budget`` distinct arrangements: a random population, then generations of offspring.

    ``start`` draws the first population; given the same generator as a random search's, both
    searches begin with the same arrangements and differ only afterwards. A child equivalent to an
    arrangement that is already relaxed is bred again, so the budget counts distinct arrangements. A
    child of a composition that is ahead is bred again too, so that every composition gets the same
    share (the authors let shares drift). Ends early if every arrangement of every composition is
    known. ``progress`` is called with the records after each generation. Returns all records.
    """

    def children(count: int) -> Batch:
        return breed(
            problem,
            state.records,
            ions_by_key(state.records),
            count=count,
            population=population,
            weights=weights,
            bits=state.bits,
        )

    return by_generations(
        problem,
        state,
        start=start,
        budget=budget,
        population=population,
        offspring=offspring,
        propose=children,
        progress=progress,
    )
