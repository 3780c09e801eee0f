"""A search that a cluster expansion screens: what it predicts to be low is relaxed next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from workflow_lib.lattice.arrangement import Arrangement
from workflow_lib.stages.search.problem import Evaluation, Problem, Record, State
from workflow_lib.stages.search.random_search import (
    Batch,
    by_generations,
    draw,
    ions_by_key,
    next_compositions,
)
from workflow_lib.stages.search.search import breed
from workflow_lib.stages.search.settings import OperatorWeights

if TYPE_CHECKING:
    from workflow_lib.lattice.multilinear import Multilinear
    from workflow_lib.lattice.screening import Screen

RANDOM, GENETIC = 0.125, 0.125
"""Shares of the new arrangements that are drawn at random and bred; the expansion proposes the rest."""
OPERATOR = "expansion"
"""What the expansion proposes has this operator in the tables."""

Member = tuple[Arrangement, Evaluation]


def screened_search(
    problem: Problem,
    state: State,
    *,
    start: np.random.Generator,
    end_members: Sequence[Member],
    budget: int,
    population: int,
    offspring: int,
    weights: OperatorWeights,
    progress: Callable[[list[Record]], object] = lambda _: None,
) -> list[Record]:
    """Relax ``budget`` distinct arrangements: a random population, then what an expansion proposes.

    Before each generation an expansion is fitted to the ``end_members`` and to all that this search
    has relaxed. For a composition that is not ahead of the others it is sampled while it cools, and the
    lowest arrangement on the way that is not known is relaxed. Some arrangements are drawn at random and
    some are bred as in the genetic search, so that the expansion also learns where it predicts nothing;
    all are where no expansion can be fitted yet. ``start`` draws the same first population as that of
    the other searches. Ends early if every arrangement is known. Returns all records.
    """
    from workflow_lib.lattice.screening import Screen

    lattice = problem.lattice
    screen = Screen(lattice.host, lattice.repeat, charges=lattice.charges)

    def proposed(count: int) -> Batch:
        return _propose(
            problem,
            screen,
            _fit(screen, state.records, end_members),
            state.records,
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
        propose=proposed,
        progress=progress,
    )


def _fit(screen: Screen, records: Sequence[Record], end_members: Sequence[Member]) -> Multilinear | None:
    known = [*end_members, *((record.arrangement, record.evaluation) for record in records)]
    good = [(arrangement, own.formation) for arrangement, own in known if own.formation is not None]
    units = screen.host.formula_units
    energies = np.array([formation * units for _, formation in good])
    return screen.fit([arrangement for arrangement, _ in good], energies) if good else None


def _propose(
    problem: Problem,
    screen: Screen,
    energy: Multilinear | None,
    records: list[Record],
    *,
    count: int,
    population: int,
    weights: OperatorWeights,
    bits: np.random.BitGenerator,
) -> Batch:
    """Return up to ``count`` arrangements that no record has."""
    rng = np.random.Generator(bits)
    found = ions_by_key(records)
    ranked: dict[int, list[Arrangement]] = {}
    batch: Batch = []
    while len(batch) < count and (numbers := next_compositions(problem, found)):
        share = float(rng.random())
        proposed: Batch = []
        if energy is not None and share >= RANDOM + GENETIC:
            ions = numbers[int(rng.random() * len(numbers))]
            if ions not in ranked:
                ranked[ions] = screen.candidates(energy, ions, rng)
            keyed = ((problem.key(arrangement), arrangement) for arrangement in ranked[ions])
            proposed = [(OPERATOR, key, own) for key, own in keyed if key not in found][:1]
        elif share < RANDOM:
            proposed = draw(problem, found, 1, rng)
        if not proposed:
            proposed = breed(
                problem, records, found, count=1, population=population, weights=weights, bits=bits
            )
        batch += proposed
        found |= {key: len(arrangement.occupied) for _, key, arrangement in proposed}
    return batch
