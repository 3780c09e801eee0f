"""The charge-balanced example of smol's documentation (LixNiO2), sampled by our kernel.

`running-charge-balanced-gcmc` samples `basic_ce_ewald.mson` (smol, BSD licence) at 500 K and all chemical
potentials zero, and prints a mean energy of -599.4992302891402 eV for 16 formula units, all of them
LiNiO2. Cell, cut-offs and coefficients are those of that file.
"""

from __future__ import annotations

import numpy as np
import pytest
from invented_hosts import rule_of

from workflow_lib.lattice.arrangement import Repeat
from workflow_lib.lattice.cluster_space import Space
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.host_file import HostFile
from workflow_lib.lattice.monte_carlo import Sampler
from workflow_lib.lattice.reservoir import neutral_exchange

CELL = (
    (2.843413003724563, 0.0, 0.8573211961418291),
    (1.5509524920968607, -2.532695099191652, 1.046778248525726e-07),
    (2.843413003724563, 0.0, -4.2866068838581715),
)
SITES = ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.75, 0.75, 0.75), (0.25, 0.25, 0.25))
COEFFICIENTS = (
    -22.72979081377774, 2.005572718816671, 2.0055727188179926, 0.1447786638910994, 0.001935284350347676,
    -0.03679274670002813, -0.018076140227220743, 0.005757491288455564, -0.027379504643108777,
    0.014791922618850966, 0.005840762308979786, 0.10623475865390408,
)  # fmt: skip
EWALD_FULL = -101.85555244351178
"""eV, of LiNiO2 in the file's feature matrix."""
PUBLISHED, CELLS = -599.4992302891402, 16
BIG: Repeat = (4, 2, 2)


@pytest.fixture(scope="module")
def nickelate() -> Host:
    described = {
        "name": "LiNiO2 (R-3m, primitive cell of smol's example)",
        "mobile": "Li",
        "redox": "Ni",
        "oxidation_states": [3, 4],
        "formula_units": 1,
        "numbers": [3, 28, 8, 8],
        "cell_full": CELL,
        "cell_empty": CELL,
        "scaled_full": SITES,
        "scaled_empty": SITES,
    }
    return Host(HostFile.model_validate(described), rule_of("Ni", 3, 4, {"Li": 1, "O": -2}))


@pytest.fixture(scope="module")
def space(nickelate: Host) -> Space:
    return Space.within(nickelate, pairs=5.0, triplets=4.1, charges=True)


def test_functions_and_electrostatics_are_those_of_the_file(nickelate: Host, space: Space):
    assert len(space.subspace) == len(COEFFICIENTS)
    full = nickelate.end_members(charges=True)[1]
    features = space.features(full)[0]
    assert features[-1] == pytest.approx(EWALD_FULL, abs=1e-6)
    # Sinusoids are +1 and -1; the file's full cell has -1 at both sites.
    assert features[:-1].tolist() == [1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1]


def test_sampling_at_zero_potential_fills_the_cell_as_published(nickelate: Host, space: Space):
    rng = np.random.default_rng(3)
    energy = space.multilinear(BIG, np.array(COEFFICIENTS))
    half = nickelate.random(BIG, nickelate.n_mobile(BIG) // 2, charges=True, rng=rng)
    exchange = neutral_exchange(nickelate, charges=True)
    assert exchange == (1, 1), "smol's table flip: 1 Li+ + 1 Ni3+ -> 1 vacancy + 1 Ni4+"
    walk = Sampler(energy, nickelate.n_mobile(BIG), space.occupations(half), exchange=exchange, rng=rng)
    walk.semigrand(500.0, 0.0, 400)
    trace = walk.semigrand(500.0, 0.0, 1000)
    assert nickelate.n_mobile(BIG) == CELLS
    assert set(trace.ions.tolist()) == {CELLS}
    # Electrostatics are summed in another way here; they agree to rounding.
    assert trace.energy.mean() == pytest.approx(PUBLISHED, abs=1e-6)
