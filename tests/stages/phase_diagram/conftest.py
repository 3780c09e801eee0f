"""A source of energies that are known, so that every step after it can be checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from workflow_lib.lattice.arrangement import Arrangement
from workflow_lib.lattice.cluster_expansion import Space
from workflow_lib.lattice.host import Host
from workflow_lib.stages.phase_diagram.structures import Answer


class KnownSource:
    """Energies of an expansion with known coefficients; counts what it is asked for."""

    level, open = "invented", True

    def __init__(self, space: Space, coefficients: np.ndarray) -> None:
        self.space, self.coefficients = space, coefficients
        self.charges = space.charges
        self.name = "known"
        self.asked: list[Arrangement] = []

    def energies(self, arrangements: Sequence[Arrangement]) -> np.ndarray:
        cells = np.array([arrangement.cells for arrangement in arrangements])
        return cells * (self.space.features(arrangements) @ self.coefficients)

    def answers(self, arrangements: Sequence[Arrangement]) -> list[Answer]:
        self.asked += arrangements
        order = "carried" if self.charges else "none"
        return [
            Answer(a, a, order, float(energy), "converged", 0.01)  # type: ignore[arg-type]
            for a, energy in zip(arrangements, self.energies(arrangements), strict=True)
        ]


@pytest.fixture(scope="session")
def decorated_space(host: Host) -> Space:
    return Space.within(host, pairs=3.9, triplets=0.0, charges=True)


@pytest.fixture(scope="session")
def plain_space(host: Host) -> Space:
    return Space.within(host, pairs=5.1, triplets=0.0, charges=False)


@pytest.fixture(scope="session")
def known(decorated_space: Space) -> KnownSource:
    """Pairs of ions repel; ions and their electrons attract; a little of Ewald's energy."""
    coefficients = np.zeros(len(decorated_space.subspace))
    coefficients[0] = -175.0
    coefficients[decorated_space.points] += [0.0, 8.0, 0.5][: decorated_space.points.sum()]
    coefficients[~decorated_space.unpenalised] = np.linspace(
        0.1, -0.1, (~decorated_space.unpenalised).sum()
    )
    coefficients[-1] = 0.05
    return KnownSource(decorated_space, coefficients)
