"""Cluster spaces of ions with and without their electrons, and a source of known energies."""

from __future__ import annotations

import numpy as np
import pytest
from known_source import KnownSource

from workflow_lib.lattice.cluster_space import Space
from workflow_lib.lattice.host import Host


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
