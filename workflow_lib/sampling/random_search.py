"""Random search: what a genetic algorithm must beat at equal budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

import numpy as np

from workflow_lib.host import Arrangement
from workflow_lib.sampling.problem import Problem, Record, State

Batch = list[tuple[str, str, Arrangement]]
"""What a generation asks for: (operator, key, arrangement)."""


def draw(problem: Problem, found: dict[str, int], count: int, rng: np.random.Generator) -> Batch:
    """Up to ``count`` arrangements not in ``found`` (number of mobile ions by key), in canonical form.

    Each has the composition of which the fewest are found; among all its decorations it is drawn
    uniformly, and drawn again where an equivalent one is known. Fewer come back only where every
    arrangement of every composition is known.
    """
    lattice = problem.lattice
    keys = set(found)
    have = Counter(found.values())
    batch: Batch = []
    while len(batch) < count:
        open_ = [n for n in lattice.compositions if have[n] < problem.distinct[n]]
        if not open_:
            break
        number = min(open_, key=lambda n: (have[n], n))
        while True:  # ends: at least one decoration of this composition is not known
            arrangement = lattice.host.random(lattice.repeat, number, charges=lattice.charges, rng=rng)
            key = problem.key(arrangement)
            if key not in keys:
                break
        keys.add(key)
        have[number] += 1
        batch.append(("random", key, lattice.host.canonical(arrangement)))
    return batch


def ions_by_key(records: Collection[Record]) -> dict[str, int]:
    """Number of mobile ions of each arrangement found."""
    return {record.key: record.n_occupied for record in records}


def random_search(
    problem: Problem,
    state: State,
    *,
    budget: int,
    first: int,
    batch: int,
    progress: Callable[[int], object] = lambda _: None,
) -> list[Record]:
    """Relax ``budget`` distinct arrangements drawn at random: ``first`` at once, then ``batch``es.

    ``progress`` is told the number of records after each batch. Ends early where nothing is left.
    """
    rng = np.random.Generator(state.bits)
    progress(len(state.records))
    while len(state.records) < budget:
        size = min(batch if state.records else first, budget - len(state.records))
        drawn = draw(problem, ions_by_key(state.records), size, rng)
        if not drawn:
            break
        state.extend(drawn, problem.evaluate([arrangement for _, _, arrangement in drawn]))
        progress(len(state.records))
    return state.records
