"""Random search: what a genetic algorithm must beat at equal budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping

import numpy as np

from workflow_lib.lattice.arrangement import Arrangement
from workflow_lib.stages.search.problem import Problem, Record, State

Batch = list[tuple[str, str, Arrangement]]
"""The arrangements of one generation: (operator, key, arrangement) each."""


def next_compositions(problem: Problem, found: Mapping[str, int]) -> list[int]:
    """Return the compositions with the fewest arrangements found; an empty list if all are known.

    ``found`` maps keys to numbers of mobile ions. Both searches relax next an arrangement of one of
    these compositions, so that every composition gets the same share of the budget and the lowest
    energies are compared at equal effort.
    """
    have = Counter(found.values())
    unfinished = [n for n in problem.lattice.compositions if have[n] < problem.distinct[n]]
    least = min((have[n] for n in unfinished), default=0)
    return [n for n in unfinished if have[n] == least]


def draw(problem: Problem, found: Mapping[str, int], count: int, rng: np.random.Generator) -> Batch:
    """Return up to ``count`` arrangements that are not in ``found`` (key to number of ions), canonical.

    Each is drawn uniformly from all decorations of the first of :func:`next_compositions`, and
    drawn again if an equivalent one is known. Fewer than ``count`` are returned only if every
    arrangement of every composition is known.
    """
    lattice = problem.lattice
    known = dict(found)
    batch: Batch = []
    while len(batch) < count and (numbers := next_compositions(problem, known)):
        while True:  # ends: at least one decoration of this composition is not known
            arrangement = lattice.host.random(lattice.repeat, numbers[0], charges=lattice.charges, rng=rng)
            key = problem.key(arrangement)
            if key not in known:
                break
        known[key] = numbers[0]
        batch.append(("random", key, lattice.host.canonical(arrangement)))
    return batch


def ions_by_key(records: Collection[Record]) -> dict[str, int]:
    """Return the number of mobile ions of each arrangement found, by key."""
    return {record.key: record.n_occupied for record in records}


def by_generations(
    problem: Problem,
    state: State,
    *,
    start: np.random.Generator,
    budget: int,
    population: int,
    offspring: int,
    propose: Callable[[int], Batch],
    progress: Callable[[list[Record]], object],
) -> list[Record]:
    """Relax a random population, then what ``propose(count)`` gives, up to ``budget`` arrangements in all.

    Ends early if nothing is proposed. ``progress`` is called with the records after each generation.
    Returns all records.
    """
    progress(state.records)
    while len(state.records) < budget:
        if state.records:
            batch = propose(min(offspring, budget - len(state.records)))
        else:
            batch = draw(problem, {}, population, start)
        if not batch:
            break
        state.extend(batch, problem.evaluate([arrangement for _, _, arrangement in batch]))
        progress(state.records)
    return state.records


def random_search(
    problem: Problem,
    state: State,
    *,
    budget: int,
    first: int,
    batch: int,
    progress: Callable[[list[Record]], object] = lambda _: None,
) -> list[Record]:
    """Relax ``budget`` distinct arrangements drawn at random: ``first`` at once, then ``batch``es.

    ``progress`` is called with the records after each batch. Ends early if none is left. Returns
    all records.
    """
    rng = np.random.Generator(state.bits)
    return by_generations(
        problem,
        state,
        start=rng,
        budget=budget,
        population=min(first, budget),
        offspring=batch,
        propose=lambda count: draw(problem, ions_by_key(state.records), count, rng),
        progress=progress,
    )
