"""A source of energies that are known, so that every step after it can be checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from workflow_lib.lattice.arrangement import Arrangement
from workflow_lib.lattice.cluster_space import Space
from workflow_lib.stages.phase_diagram.structures import Answer


class KnownSource:
    """Energies of an expansion with known coefficients; counts what it is asked for."""

    level = "invented"

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
