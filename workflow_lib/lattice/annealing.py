"""Low arrangements of a cluster expansion: simulated annealing at fixed composition."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workflow_lib.lattice.arrangement import Arrangement
from workflow_lib.lattice.monte_carlo import Frozen, Sampler
from workflow_lib.lattice.multilinear import Multilinear
from workflow_lib.lattice.reservoir import Exchange

if TYPE_CHECKING:
    from workflow_lib.lattice.cluster_space import Space

COOLING = np.geomspace(4000.0, 30.0, 16)
"""K, temperatures of one search for a ground state on an expansion."""
COOLING_SWEEPS = 60
"""Sweeps at each of them; the cells are small."""


def anneal(
    space: Space,
    energy: Multilinear,
    start: Arrangement,
    rng: np.random.Generator,
    frozen: Frozen | None = None,
) -> list[Arrangement]:
    """Cool an arrangement at its composition; return what it was after each temperature.

    ``energy`` is that of its supercell on ``space``; a ``frozen`` sublattice stays as it is. The last
    arrangement is the coldest; those before it are low ones that are not yet the lowest. They are as
    sampled, not in canonical form.
    """
    host, repeat = space.host, start.repeat
    walk = Sampler(
        energy,
        host.n_mobile(repeat),
        space.occupations(start),
        exchange=Exchange(1, 0),  # none is made at fixed composition
        rng=rng,
        frozen=frozen,
    )
    passed = []
    for temperature in COOLING:
        walk.canonical(float(temperature), COOLING_SWEEPS)
        passed.append(space.arrangement(repeat, walk.occupations))
    return passed
