"""Sampling against sums over all arrangements of small lattices; moves against detailed balance."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from exact_sums import averages, neutral_states, random_energy, ring
from invented_hosts import lithium_manganate, magnesium_phosphate, magnesium_silicate, two_sodium

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.entropy import BOLTZMANN, log_choices
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.monte_carlo import (
    Sampler,
    check_size,
)
from workflow_lib.lattice.multilinear import Multilinear
from workflow_lib.lattice.reservoir import Exchange, dilute_species, neutral_exchange
from workflow_lib.lattice.sampling_statistics import mean_of

ALONE, PAIR = Exchange(1, 0), Exchange(1, 1)
SURE = 4.5
"""Standard errors of a sampled mean that count as agreement; seeds are fixed, so a test passes or fails
once and for all."""


def sampler(
    energy: Multilinear,
    n_mobile: int,
    start: np.ndarray,
    exchange: Exchange,
    seed: int = 1,
    **options: Any,
) -> Sampler:
    rng = np.random.default_rng(seed)
    return Sampler(energy, n_mobile, start, exchange=exchange, rng=rng, **options)


def agrees(series: np.ndarray, expected: float, scale: float = 0.0) -> bool:
    found = mean_of(series)
    return abs(found.value - expected) <= SURE * found.error + 1e-12 + scale


def nothing(n: int) -> Multilinear:
    return Multilinear(0.0, np.zeros(n), np.zeros((n, n)), np.empty(0), np.empty((0, 3), dtype=np.int64))


@pytest.mark.parametrize("mu", [-0.05, 0.0, 0.08])
def test_ideal_mixing(mu: float):
    run = sampler(nothing(64), 64, np.zeros(64), ALONE).semigrand(500.0, mu, 4000)
    expected = 64 / (1 + np.exp(-mu / (BOLTZMANN * 500)))
    assert agrees(run.ions, expected)
    assert (run.energy == 0).all()


def test_ideal_mixing_of_ions_with_their_electrons():
    # Neutrality couples them: the weight of n ions is C(16, n)^2, not C(16, n).
    mu, kt = 0.05, BOLTZMANN * 400
    n = np.arange(17)
    weights = np.exp([2 * log_choices(16, int(k)) + k * mu / kt for k in n])
    run = sampler(nothing(32), 16, np.zeros(32), PAIR).semigrand(400.0, mu, 8000)
    assert agrees(run.ions, float(n @ weights / weights.sum()))


@pytest.mark.parametrize("coupling", [0.06, -0.06])
def test_lattice_gas_on_a_ring(coupling: float):
    n, temperature = 12, 400.0
    energy = ring(n, coupling, field=-0.02)
    every = np.array(list(product((0, 1), repeat=n)), dtype=np.int8)
    half = every[every.sum(axis=1) == 5]
    exact = averages(energy, every, n, temperature, mu=0.01)
    run = sampler(energy, n, np.zeros(n), ALONE).semigrand(temperature, 0.01, 30000)
    assert agrees(run.ions, exact.ions)
    assert agrees(run.energy, exact.energy)
    exact = averages(energy, half, n, temperature)
    run = sampler(energy, n, half[0], ALONE).canonical(temperature, 30000)
    assert (run.ions == 5).all()
    assert agrees(run.energy, exact.energy)
    assert agrees((run.energy - exact.energy) ** 2, exact.variance)


@pytest.mark.parametrize("exchange", [PAIR, Exchange(1, 2), Exchange(2, 1)])
def test_neutral_sampling_with_pairs_and_triplets(exchange: Exchange):
    n_mobile, n_redox = 4, 5
    energy = random_energy(n_mobile + n_redox, 20, np.random.default_rng(3))
    steps = min(n_mobile // exchange.ions, n_redox // exchange.reduced)
    states = np.concatenate(
        [
            neutral_states(n_mobile, n_redox, k * exchange.ions, k * exchange.reduced)
            for k in range(steps + 1)
        ]
    )
    exact = averages(energy, states, n_mobile, 900.0, mu=0.1)
    run = sampler(energy, n_mobile, states[0], exchange).semigrand(900.0, 0.1, 60000)
    assert agrees(run.ions, exact.ions)
    assert agrees(run.energy, exact.energy)
    assert agrees((run.energy - exact.energy) ** 2, exact.variance)


def test_every_state_is_visited_as_often_as_its_weight_says():
    """Detailed balance by counting, also between moves of the two kinds."""
    n_mobile = 3
    energy = random_energy(6, 8, np.random.default_rng(5))
    states = np.concatenate([neutral_states(3, 3, k, k) for k in range(4)])
    exponents = -energy.energy(states) / (BOLTZMANN * 1200)
    weights = np.exp(exponents - exponents.max())
    weights /= weights.sum()
    walk = sampler(energy, n_mobile, states[0], PAIR)
    counts = dict.fromkeys(map(bytes, states), 0)
    total = 15000
    for _ in range(total):
        walk.semigrand(1200.0, 0.0, 1)
        counts[bytes(walk.occupations)] += 1
    seen = np.array([counts[bytes(state)] for state in states]) / total
    # Counting errors are sqrt(w / n) a state; sweeps are correlated over about two of them.
    error = np.sqrt(2 * weights / total)
    assert (np.abs(seen - weights) < SURE * error + 1e-4).all()


def test_flow_between_two_states_is_the_same_both_ways():
    """One trial a time on one site pair: the moves themselves, not only the averages."""
    energy = Multilinear(
        0.0, np.array([0.03, -0.02]), np.zeros((2, 2)), np.empty(0), np.empty((0, 3), dtype=np.int64)
    )
    walk = sampler(energy, 1, np.zeros(2), PAIR)
    filled = np.empty(20000)
    for k in range(len(filled)):
        walk.semigrand(300.0, 0.0, 1)
        filled[k] = walk.ions
    odds = np.exp(-0.01 / (BOLTZMANN * 300))
    assert agrees(filled, odds / (1 + odds))


@pytest.mark.parametrize("frozen", ["ions", "charges"])
def test_a_frozen_sublattice_stays_and_the_other_is_sampled(frozen: str):
    n_mobile = 4
    energy = random_energy(8, 15, np.random.default_rng(8))
    states = neutral_states(4, 4, 2, 2)
    start = states[7]
    held = slice(0, 4) if frozen == "ions" else slice(4, 8)
    allowed = states[(states[:, held] == start[held]).all(axis=1)]
    exact = averages(energy, allowed, n_mobile, 700.0)
    walk = sampler(energy, n_mobile, start, PAIR, frozen=frozen)
    run = walk.canonical(700.0, 20000)
    assert (walk.occupations[held] == start[held]).all()
    assert agrees(run.energy, exact.energy)
    with pytest.raises(ValueError, match="moves both sublattices"):
        walk.semigrand(700.0, 0.0, 10)


def test_at_infinite_temperature_all_arrangements_are_alike():
    energy = random_energy(8, 10, np.random.default_rng(9))
    states = neutral_states(4, 4, 2, 2)
    run = sampler(energy, 4, states[0], PAIR).canonical(np.inf, 20000)
    assert agrees(run.energy, float(energy.energy(states).mean()))


def test_two_sublattices_order_as_they_must():
    """Ions attract reduced neighbours and repel each other: the ground state alternates, in pairs."""
    n = 8
    pairs = np.zeros((2 * n, 2 * n))
    for i in range(n):
        pairs[i, (i + 1) % n] = pairs[(i + 1) % n, i] = 0.2  # ion - ion
        pairs[i, n + i] = pairs[n + i, i] = -0.3  # ion - reduced site beside it
    energy = Multilinear(0.0, np.zeros(2 * n), pairs, np.empty(0), np.empty((0, 3), dtype=np.int64))
    states = neutral_states(n, n, n // 2, n // 2)
    lowest = energy.energy(states).min()
    assert lowest == pytest.approx(-0.3 * n / 2)
    walk = sampler(energy, n, states[0], PAIR)
    for temperature in (3000.0, 1500.0, 800.0, 400.0, 200.0, 100.0):
        run = walk.canonical(temperature, 300)
    assert run.energy[-1] == pytest.approx(lowest, abs=1e-12)
    ions = walk.occupations[:n]
    assert (ions != np.roll(ions, 1)).all()
    assert (walk.occupations[n:] == ions).all()


def test_equal_seeds_give_equal_runs_and_others_do_not():
    energy = random_energy(12, 30, np.random.default_rng(2))
    start = neutral_states(6, 6, 3, 3)[5]
    runs = [sampler(energy, 6, start, PAIR, seed).semigrand(600.0, 0.0, 50) for seed in (4, 4, 5)]
    assert (runs[0].energy == runs[1].energy).all()
    assert (runs[0].energy != runs[2].energy).any()


def test_a_wrong_sum_is_found():
    energy = random_energy(8, 10, np.random.default_rng(2))
    walk = sampler(energy, 4, neutral_states(4, 4, 2, 2)[0], PAIR)
    start, first, second, strength = walk._links
    walk._links = start, first, second, 1.001 * strength
    with pytest.raises(RuntimeError, match="recomputed"):
        walk.canonical(2000.0, 200)


def test_runs_that_mean_nothing_are_refused():
    energy = ring(6, 0.1)
    with pytest.raises(ValueError, match="5 occupations for 6 sites"):
        sampler(energy, 6, np.zeros(5), ALONE)
    with pytest.raises(ValueError, match="nothing may move"):
        sampler(energy, 6, np.zeros(6), ALONE, frozen="ions")
    with pytest.raises(ValueError, match="above 0 K"):
        sampler(energy, 6, np.zeros(6), ALONE).canonical(0.0, 5)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (magnesium_phosphate, Exchange(1, 2)),  # Mg2+ brings two electrons
        (magnesium_silicate, Exchange(1, 1)),  # Fe4+ takes both
        (lambda: two_sodium((2, 4)), Exchange(2, 1)),
    ],
)
def test_an_exchange_keeps_any_host_neutral(host, expected: Exchange):
    assert neutral_exchange(host(), charges=True) == expected
    assert neutral_exchange(host(), charges=False) == ALONE


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (magnesium_silicate, (2, 2)),
        (two_sodium, (1.5, 1.5)),
        (lithium_manganate, (2, 1)),  # full, half of the manganese is reduced: its electrons are not few
    ],
)
def test_what_is_dilute_next_to_an_end_member(host, expected: tuple[float, float]):
    assert dilute_species(host(), charges=True) == expected
    assert dilute_species(host(), charges=False) == (1, 1)


def test_a_supercell_beyond_memory_is_refused(host: Host):
    check_size(host, (8, 6, 4))
    with pytest.raises(UserError, match="20x20x20 has 64000 sites; sampling takes 6000 at most"):
        check_size(host, (20, 20, 20))
