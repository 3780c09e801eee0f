"""Free energies and entropies against sums over all arrangements."""

from __future__ import annotations

import numpy as np
import pytest
from exact_sums import averages, neutral_states, random_energy
from hypothesis import given
from hypothesis import strategies as st
from invented_hosts import lithium_manganate, magnesium_silicate, two_sodium

from workflow_lib.lattice.entropy import (
    BOLTZMANN,
    Decomposition,
    ideal_mixing,
    ideal_with_charges,
    ladder,
    log_choices,
    thermal,
)
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.multilinear import Multilinear


def exact_ladder(energy: Multilinear, states: np.ndarray, beta: np.ndarray) -> list:
    with np.errstate(divide="ignore"):
        temperatures = 1 / (BOLTZMANN * beta)
    return [averages(energy, states, 4, float(t)) for t in temperatures]


def test_integration_gives_the_logarithm_of_the_partition_sum():
    energy = random_energy(8, 15, np.random.default_rng(1), scale=0.05)
    states = neutral_states(4, 4, 2, 2)
    beta = ladder(np.array([300.0, 600.0, 1000.0]), 25, hottest=20000.0)
    exact = exact_ladder(energy, states, beta)
    found = thermal(
        beta,
        np.array([item.energy for item in exact]),
        np.array([item.variance for item in exact]),
        np.zeros(len(beta)),
        log_states=2 * log_choices(4, 2),
    )
    logs = np.array([item.log_sum for item in exact])
    # The cubic between 25 rungs: the error of a fourth-order rule on this ladder.
    np.testing.assert_allclose(found.free_energy[1:], -logs[1:] / beta[1:], atol=2e-5)
    energies = np.array([item.energy for item in exact])
    np.testing.assert_allclose(found.entropy, beta * energies + logs, atol=1e-3)
    assert found.entropy[0] == pytest.approx(np.log(len(states)))
    # C = dE/dT, by the difference of neighbouring temperatures.
    for place in np.flatnonzero(np.isclose(found.temperature[:, None], [300.0, 600.0, 1000.0]).any(axis=1)):
        t = float(found.temperature[place])
        near = [averages(energy, states, 4, t + d).energy for d in (-1.0, 1.0)]
        assert found.heat_capacity[place] == pytest.approx((near[1] - near[0]) / 2 / BOLTZMANN, rel=1e-4)


def test_entropy_of_what_does_not_interact_is_that_of_ideal_mixing():
    beta = ladder(np.array([300.0]), 5, hottest=1000.0)
    zero = np.zeros(len(beta))
    found = thermal(beta, zero, zero, zero, log_states=log_choices(1000, 300))
    np.testing.assert_allclose(found.entropy / 1000, ideal_mixing(np.array(0.3)), atol=0.004)  # ln(N) / N
    assert (found.heat_capacity == 0).all()


def test_the_ladder_holds_every_temperature_asked_for_and_ascends():
    wanted = np.array([1000.0, 300.0, 450.0])
    beta = ladder(wanted, 12, hottest=30000.0)
    assert beta[0] == 0
    assert (np.diff(beta) > 0).all()
    for temperature in wanted:
        assert np.isclose(beta, 1 / (BOLTZMANN * temperature), rtol=1e-12).sum() == 1
    assert beta[-1] == pytest.approx(1 / (BOLTZMANN * 300))
    with pytest.raises(ValueError, match="from beta = 0"):
        thermal(beta[1:], *np.zeros((3, len(beta) - 1)), log_states=0.0)


def test_errors_of_the_energies_reach_the_free_energy():
    """The scatter of free energies from noisy energies is the error that is stated."""
    rng = np.random.default_rng(5)
    beta = ladder(np.array([300.0]), 20, hottest=10000.0)
    errors = np.full(len(beta), 0.02)
    zero = np.zeros(len(beta))
    runs = [
        thermal(beta, errors * rng.normal(size=len(beta)), zero, errors, log_states=3.0) for _ in range(400)
    ]
    scatter = np.std([run.free_energy[1:] for run in runs], axis=0)
    np.testing.assert_allclose(scatter, runs[0].error[1:], rtol=0.15)  # 400 runs give it to 4 %


@pytest.mark.parametrize("rungs", [24, 48, 96])
@pytest.mark.parametrize(("depth", "entropy"), [(0.04, 0.7), (0.035, 0.5), (0.025, 0.4), (0.02, 0.35)])
def test_an_order_between_two_rungs_is_in_the_error(depth: float, entropy: float, rungs: int):
    """One ordered state of 96 sites, and a disordered phase ``depth`` eV a site above it."""
    beta = ladder(np.arange(200.0, 1001, 100), rungs, hottest=30000.0)
    logs = np.logaddexp(0 * beta, 96 * (entropy - beta * depth))
    part = np.exp(96 * (entropy - beta * depth) - logs)
    found = thermal(
        beta,
        96 * depth * part,
        (96 * depth) ** 2 * part * (1 - part),
        np.zeros(len(beta)),
        log_states=logs[0],
    )
    off = np.abs(found.free_energy[1:] + logs[1:] / beta[1:])
    # What counts as a gap is four errors deep, and not less than 1e-5 eV a site.
    assert (off < 4 * found.error[1:] + 96e-5).all()


@given(st.floats(0, 1))
def test_ideal_mixing_is_symmetric_and_largest_in_the_middle(x: float):
    value = float(ideal_mixing(np.array(x)))
    assert value == pytest.approx(float(ideal_mixing(np.array(1 - x))), abs=1e-9)
    assert 0 <= value <= np.log(2) + 1e-12


def test_parts_of_the_entropy_on_a_small_lattice():
    """S(A,e) = S(A|e) + S(e|A) + I with the parts computed from the joint probabilities themselves."""
    energy = random_energy(8, 10, np.random.default_rng(4), scale=0.08)
    states = neutral_states(4, 4, 2, 2)
    weights = np.exp(-energy.energy(states) / (BOLTZMANN * 800))
    joint = (weights / weights.sum()).reshape(6, 6)  # 6 ways to place the ions, 6 to place the charges
    total = -float((joint * np.log(joint)).sum())
    ions, charges = joint.sum(axis=1), joint.sum(axis=0)
    alone = [-float((p * np.log(p)).sum()) for p in (ions, charges)]
    parts = Decomposition(total, ions=total - alone[1], charges=total - alone[0])
    mutual = float((joint * np.log(joint / np.outer(ions, charges))).sum())
    assert parts.mutual == pytest.approx(mutual, abs=1e-12)
    assert parts.mutual >= 0


def test_the_states_of_the_small_cell_are_as_many_as_their_degeneracies(host: Host):
    """Entropy at infinite temperature, counted in the 16 distinct states of 28 atoms."""
    for ions, distinct in enumerate((1, 2, 10, 2, 1)):
        arrangements = host.enumerate((1, 1, 1), ions, charges=True)
        assert len(arrangements) == distinct
        degenerate = sum(host.degeneracy(arrangement) for arrangement in arrangements)
        assert np.log(degenerate) == pytest.approx(2 * log_choices(4, ions), abs=1e-12)


@pytest.mark.parametrize("make", [magnesium_silicate, two_sodium, lithium_manganate])
def test_ideal_mixing_of_ions_and_charges_is_the_number_of_neutral_arrangements(make):
    """Of any host, also with other numbers of redox sites or an end member of mixed valence."""
    host, cell = make(), (20, 20, 20)
    numbers = host.compositions(cell)[:: len(host.compositions(cell)) // 20]
    mobile, redox = host.n_mobile(cell), host.n_redox(cell)
    counted = [log_choices(mobile, n) + log_choices(redox, host.n_reduced(cell, n)) for n in numbers]
    found = ideal_with_charges(host, np.array(numbers) / mobile)
    np.testing.assert_allclose(found, np.array(counted) / mobile, atol=2e-3)


def test_charges_of_a_full_host_of_mixed_valence_have_entropy():
    """LiMn2O4: half of two sites an ion are reduced, 2 ln 2 a mobile site; there are no vacancies."""
    assert ideal_with_charges(lithium_manganate(), np.array([0.0, 1.0])) == pytest.approx(
        [0, 2 * np.log(2)]
    )
