"""What an expansion of a few energies proposes, where the lowest arrangement is known."""

from __future__ import annotations

import numpy as np
import pytest
from invented_hosts import oxyfluoride

from workflow_lib.lattice.arrangement import UNIT, Repeat
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.screening import Screen


def test_arrangements_of_anions_are_cooled_with_their_charges():
    """Cooling exchanges nothing with a reservoir: which way ions change the charges is all the same."""
    host = oxyfluoride()
    screen = Screen(host, (2, 1, 1), charges=True)
    coefficients = np.random.default_rng(2).normal(scale=0.05, size=len(screen.space.subspace))
    energy = screen.space.multilinear(screen.repeat, coefficients)
    found = screen.candidates(energy, 2, np.random.default_rng(1))
    states = host.enumerate(screen.repeat, 2, charges=True)
    energies = energy.energy(np.array([screen.space.occupations(a) for a in states]))
    assert host.key(found[0]) == host.key(states[energies.argmin()])


CELL: Repeat = (1, 2, 1)
IONS = 4


@pytest.fixture(scope="module", params=[True, False], ids=["charges", "ions"])
def screen(host: Host, request: pytest.FixtureRequest) -> Screen:
    return Screen(host, CELL, charges=request.param)


@pytest.fixture(scope="module")
def coefficients(screen: Screen) -> np.ndarray:
    """Few functions that count, as the lasso expects."""
    rng = np.random.default_rng(4)
    found = np.zeros(len(screen.space.subspace))
    chosen = rng.choice(np.arange(1, len(found)), size=min(5, len(found) - 1), replace=False)
    found[chosen] = rng.normal(scale=0.05, size=len(chosen))
    return found


def known(screen: Screen, coefficients: np.ndarray, count: int):
    """Arrangements with their energies in eV a host cell, both end members among them."""
    rng, charges = np.random.default_rng(5), screen.space.charges
    empty, full = screen.host.end_members(charges=charges)
    arrangements = [*empty, *full]
    for number in rng.integers(1, screen.host.n_mobile(CELL), count).tolist():
        arrangements.append(screen.host.random(CELL, number, charges=charges, rng=rng))
    return arrangements, screen.space.features(arrangements) @ coefficients


def test_the_first_candidate_is_the_lowest_arrangement(screen: Screen, coefficients: np.ndarray):
    arrangements, energies = known(screen, coefficients, 40)
    energy = screen.fit(arrangements, energies)
    assert energy is not None
    every = screen.host.enumerate(CELL, IONS, charges=screen.space.charges)
    truth = screen.space.features(every) @ coefficients
    found = screen.candidates(energy, IONS, np.random.default_rng(6))
    reached = float((screen.space.features(found[:1]) @ coefficients)[0])
    # 40 exact energies fix the few functions: what is left is what the lasso takes beside them.
    assert reached == pytest.approx(truth.min(), abs=1e-3)
    assert np.ptp(truth) > 0.05, "an energy that tells arrangements apart"


def test_candidates_are_distinct_canonical_and_in_order(screen: Screen, coefficients: np.ndarray):
    energy = screen.fit(*known(screen, coefficients, 20))
    assert energy is not None
    found = screen.candidates(energy, IONS, np.random.default_rng(7))
    assert len(found) > 1
    assert len({screen.host.key(a) for a in found}) == len(found)
    assert all(screen.host.canonical(a) == a and len(a.occupied) == IONS for a in found)
    predicted = energy.energy(np.array([screen.space.occupations(a) for a in found]))
    assert (np.diff(predicted) >= 0).all()


def test_formation_energies_of_another_cell_scale_with_it(screen: Screen, coefficients: np.ndarray):
    """The fit is per host cell; the energy is that of the supercell."""
    arrangements, energies = known(screen, coefficients, 40)
    energy = screen.fit(arrangements, energies)
    assert energy is not None
    own = [(a, e) for a, e in zip(arrangements, energies, strict=True) if a.repeat == CELL]
    occupations = np.array([screen.space.occupations(a) for a, _ in own])
    assert energy.energy(occupations) == pytest.approx(np.array([2 * e for _, e in own]), abs=5e-3)


def test_too_few_arrangements_give_no_expansion(host: Host):
    screen = Screen(host, UNIT, charges=True)
    empty, full = host.end_members(charges=True)
    one = host.enumerate(UNIT, 1, charges=True)  # all orders of one arrangement of ions
    arrangements = [*empty, *full, *one]
    assert screen.fit(arrangements, np.zeros(len(arrangements))) is None
