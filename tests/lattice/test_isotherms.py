"""Phase boundaries of models whose boundaries are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq

from workflow_lib.lattice.entropy import BOLTZMANN, ideal_mixing, log_choices
from workflow_lib.lattice.isotherms import (
    common_tangents,
    crossing,
    equilibrium,
    hysteresis,
    integrate_isotherm,
    jumps,
    single_phase,
    voltage,
)

W = 0.1  # eV: a regular solution f = W x (1 - x) - T s(x) unmixes below W / 2k = 580 K
MU = np.arange(-0.30, 0.3001, 0.002)


def regular(temperature: float) -> tuple[float, float]:
    """The binodal of the regular solution: W (1 - 2x) = kT ln((1 - x) / x), symmetric about 1/2."""
    kt = BOLTZMANN * temperature
    low = brentq(lambda x: W * (1 - 2 * x) + kt * np.log(x / (1 - x)), 1e-12, 0.5 - 1e-3)
    return low, 1 - low


def branch(temperature: float, *, from_full: bool) -> np.ndarray:
    """x(mu) on the branch that begins at an end member, metastable part included, then the other one."""
    kt = BOLTZMANN * temperature
    x = np.concatenate([np.geomspace(1e-9, 0.5, 20000), 1 - np.geomspace(0.5, 1e-9, 20000)])
    x = np.unique(x)
    mu = W * (1 - 2 * x) + kt * np.log(x / (1 - x))
    found = []
    for value in MU:
        roots = np.flatnonzero((mu[:-1] - value) * (mu[1:] - value) <= 0)
        found.append(x[roots[-1 if from_full else 0]])
    return np.array(found)


def test_the_binodal_of_a_regular_solution_by_free_energies():
    temperature = 400.0
    up, down = branch(temperature, from_full=False), branch(temperature, from_full=True)
    balance = equilibrium(MU, up, down, energies=(0.0, 0.0), temperature=temperature, species=(1, 1))
    assert balance is not None
    gap, grand = balance
    low, high = regular(temperature)
    # Trapezoids of a grid of 2 meV.
    exact = W * low * (1 - low) - BOLTZMANN * temperature * float(ideal_mixing(np.array(low)))
    assert grand == pytest.approx(exact - gap.mu * low, abs=1e-4)
    assert gap.mu == pytest.approx(0.0, abs=5e-4)
    assert (gap.x_low, gap.x_high) == (pytest.approx(low, abs=5e-3), pytest.approx(high, abs=5e-3))
    assert hysteresis(MU, up, down) > 0.01


def test_the_binodal_by_common_tangents():
    temperature = 400.0
    x = np.linspace(0, 1, 241)
    f = W * x * (1 - x) - BOLTZMANN * temperature * ideal_mixing(x)
    exact = np.zeros(len(x))
    [gap] = common_tangents(x, f, exact)
    low, high = regular(temperature)
    step = 1 / 240
    assert (gap.x_low, gap.x_high) == (pytest.approx(low, abs=step), pytest.approx(high, abs=step))
    assert gap.mu == pytest.approx(0, abs=1e-9)
    hot = W * x * (1 - x) - BOLTZMANN * 700 * ideal_mixing(x)
    assert common_tangents(x, hot, exact) == []
    # A compound at x = 2/3 divides the gap in two.
    compound = f.copy()
    compound[160] -= 0.02
    two = common_tangents(x, compound, exact)
    assert [two[0].x_high, two[1].x_low] == [pytest.approx(2 / 3), pytest.approx(2 / 3)]


@pytest.mark.parametrize("seed", range(5))
def test_noise_makes_no_gap_and_divides_none(seed: int):
    """Of the stated size, at the 25 compositions of the stage: one phase stays one, one gap one."""
    x = np.linspace(0, 1, 25)
    errors = np.where((x == 0) | (x == 1), 0.0, 3e-4)
    noise = errors * np.random.default_rng(seed).normal(size=len(x))
    hot = W * x * (1 - x) - BOLTZMANN * 700 * ideal_mixing(x)
    assert common_tangents(x, hot + noise, errors) == []
    # Two humps whose middle lies on the line between the ends: noise decides on which side.
    humps = 0.01 * np.abs(np.sin(2 * np.pi * x))
    [gap] = common_tangents(x, humps + noise, errors)
    assert (gap.x_low, gap.x_high) == (0, 1)
    # Clearly below it, it is a phase.
    phase = humps - np.where(x == 0.5, 10 * errors, 0)
    assert [g.x_high for g in common_tangents(x, phase + noise, errors)] == [0.5, 1]


@pytest.mark.parametrize("neighbours", [1, 2, 3])
def test_points_within_noise_of_the_line_divide_no_gap(neighbours: int):
    """Also where they are neighbours, so that no tangent ends where the other begins."""
    x = np.linspace(0, 1, 25)
    errors = np.where((x == 0) | (x == 1), 0.0, 3e-4)
    middle = slice(12, 12 + neighbours)
    for depth, count in ((2e-4, 1), (20e-4, 2)):
        f = np.where(errors > 0, 0.01, 0.0)
        f[middle] = -depth
        assert len(common_tangents(x, f, errors)) == count


def test_a_gap_that_is_deeper_than_four_errors_of_its_three_points_counts():
    x = np.array([0.0, 0.5, 1.0])
    errors = np.array([0.0, 1e-3, 0.0])
    for depth, count in ((3.9e-3, 0), (4.1e-3, 1)):
        assert len(common_tangents(x, np.array([0.0, depth, 0.0]), errors)) == count
    # The same at the ends of a tangent: half of each counts for a point half way, so 1.22 errors in all.
    every = np.full(3, 1e-3)
    for depth, count in ((4.8e-3, 0), (5.0e-3, 1)):
        assert len(common_tangents(x, np.array([0.0, depth, 0.0]), every)) == count


@pytest.mark.parametrize("slope", [-0.3, 0.2])
def test_a_slope_of_the_free_energy_is_the_chemical_potential_of_its_gap(slope: float):
    """Another zero of the ion's energy moves mu by as much, and no composition."""
    x = np.linspace(0, 1, 241)
    f = W * x * (1 - x) - BOLTZMANN * 400 * ideal_mixing(x)
    [level], [tilted] = (common_tangents(x, f + k * x, np.zeros(len(x))) for k in (0.0, slope))
    assert (tilted.x_low, tilted.x_high) == (level.x_low, level.x_high)
    assert tilted.mu - level.mu == pytest.approx(slope, abs=1e-12)


def test_the_error_of_the_nearer_end_counts_more():
    """A point at 1/4 lies over a line that its left end moves by 3/4: 3 errors of that end are noise."""
    x, errors = np.array([0.0, 0.25, 1.0]), np.array([1e-3, 0.0, 0.0])
    for depth, left, right in ((0.9e-3, 0, 0), (2.9e-3, 0, 1), (3.1e-3, 1, 1)):
        for own, count in ((errors, left), (errors[::-1], right)):
            assert len(common_tangents(x, np.array([0.0, depth, 0.0]), own)) == count


def test_an_isotherm_without_a_jump_is_one_phase_and_its_free_energy_is_that_of_ideal_mixing():
    temperature = 600.0
    kt = BOLTZMANN * temperature
    mu = np.linspace(-0.35, 0.35, 1401)
    x = 1 / (1 + np.exp(-mu / kt))
    for from_full in (False, True):
        phi = integrate_isotherm(
            mu, x, end_energy=0.0, temperature=temperature, from_full=from_full, species=1
        )
        # Exact: -kT ln(1 + exp(mu/kT)). Beyond the grid the first term of the dilute series counts.
        np.testing.assert_allclose(phi, -kt * np.log1p(np.exp(mu / kt)), atol=1e-6)
    assert equilibrium(mu, x, x, energies=(0, 0), temperature=temperature, species=(1, 1)) is None
    assert single_phase(mu, x).all()
    assert jumps(mu, x) == []
    assert hysteresis(mu, x, x) == 0


def test_the_dilute_limit_counts_every_species_that_moves():
    """Ion and electron on lattices of their own, neutral: x = exp(mu / 2kT) where dilute."""
    temperature, kt = 300.0, BOLTZMANN * 300
    mu = np.linspace(-0.3, -0.21, 200)
    x = np.exp(mu / (2 * kt))
    phi = integrate_isotherm(mu, x, end_energy=0.0, temperature=temperature, from_full=False, species=2)
    np.testing.assert_allclose(phi, -2 * kt * x, atol=1e-7)


def test_the_dilute_limit_of_a_full_host_of_mixed_valence():
    """Ions, and electrons on two sites an ion: f = -kT (s(x) + 2 s(x/2)). Vacancies alone are dilute."""
    temperature, kt = 300.0, BOLTZMANN * 300
    vacant = np.geomspace(0.4, 1e-3, 4000)
    x = 1 - vacant
    mu = kt * np.log(x / vacant) + kt * np.log((x / 2) / (1 - x / 2))
    free_energy = -kt * (ideal_mixing(x) + 2 * ideal_mixing(x / 2))
    found = integrate_isotherm(
        mu, x, end_energy=-2 * kt * np.log(2), temperature=temperature, from_full=True, species=1
    )
    np.testing.assert_allclose(found, free_energy - mu * x, atol=1e-7)


@pytest.mark.parametrize("begin", [0.019, 0.021, 0.3])
def test_an_isotherm_that_begins_elsewhere_cannot_be_integrated(begin: float):
    """From the empty host, or, told from the full one, as far from that: the dilute series ends there."""
    mu, x = np.linspace(0, 1, 5), np.linspace(begin, 1, 5)
    options = {"end_energy": 0, "temperature": 300, "species": 1}
    for grid, from_full in ((x, False), (1 - x[::-1], True)):
        if begin < 0.02:
            integrate_isotherm(mu, grid, from_full=from_full, **options)
            continue
        with pytest.raises(ValueError, match=rf"begins at x = {grid[-from_full]:.3f}, not at the end mem"):
            integrate_isotherm(mu, grid, from_full=from_full, **options)


def test_the_jump_rule_on_a_grid_of_ten_mev():
    mu = np.arange(6) * 0.01
    x = np.array([0.01, 0.04, 0.08, 0.40, 0.93, 0.95])
    [gap] = jumps(mu, x)
    assert (gap.x_low, gap.x_high, gap.mu) == (0.08, 0.93, pytest.approx(0.03))
    assert single_phase(mu, x).tolist() == [True, True, True, False, True, True]
    # Exactly 0.05 per 0.01 eV is a gap, less is none; on half the grid half the rise counts.
    assert jumps(np.array([0, 0.005]), np.array([0.0, 0.024])) == []
    assert len(jumps(np.array([0, 0.005]), np.array([0.0, 0.026]))) == 1
    with pytest.raises(ValueError, match="ascend"):
        jumps(mu[::-1], x)


def test_a_steep_solid_solution_is_no_equilibrium_of_two_phases():
    """One noisy step of 0.051 per 10 meV in both scans: a jump by the rule, but no gap of two phases."""
    mu = np.round(np.arange(-0.4, 0.4001, 0.01), 6)
    x = 1 / (1 + np.exp(-mu / (BOLTZMANN * 700)))
    middle = len(mu) // 2
    noisy = x.copy()
    noisy[middle] += 0.021
    assert len(jumps(mu, noisy)) == 1
    found = equilibrium(mu, noisy, noisy, energies=(0, 0), temperature=700, species=(1, 1))
    assert found is None


@pytest.mark.parametrize("late", [0, 1, 2])
def test_a_gap_without_hysteresis_is_where_the_branches_cross_inside_the_jump(late: int):
    """A finite lattice gas, summed exactly: both scans in equilibrium, or each ``late`` steps behind it."""
    sites, width, temperature = 72, 0.16, 300.0
    kt, number = BOLTZMANN * temperature, np.arange(73)
    energy = sites * width * number / sites * (1 - number / sites)
    levels = energy - kt * np.array([log_choices(sites, n) for n in number])
    for offset in (0.003, 0.005, 0.007):
        mu = np.round(np.arange(-0.3, 0.3001, 0.01) + offset, 6)
        weights = -(levels[None] - mu[:, None] * number) / kt
        weights = np.exp(weights - weights.max(axis=1, keepdims=True))
        x = (weights * number).sum(axis=1) / weights.sum(axis=1) / sites
        low, high = x[mu < 0][-1], x[mu > 0][0]
        up = np.where((mu > 0) & (mu < 0.01 * late), low, x)
        down = np.where((mu < 0) & (mu > -0.01 * late), high, x)
        balance = equilibrium(mu, up, down, energies=(0, 0), temperature=temperature, species=(1, 1))
        assert balance is not None
        gap, _ = balance
        assert gap.mu == pytest.approx(0.0, abs=2e-4)  # trapezoids of 10 meV, plateaus without slope
        assert (gap.x_low, 1 - gap.x_high) == (pytest.approx(0.002, abs=1e-3),) * 2


def test_a_third_phase_between_the_branches_leaves_no_equilibrium_of_them():
    """Up to -30 meV empty, to +30 meV half full, then full, without hysteresis."""
    mu = np.round(np.arange(-0.2, 0.2001, 0.01), 6)
    x = np.where(mu < -0.03, 0.0, np.where(mu < 0.03, 0.5, 1.0))
    assert len(jumps(mu, x)) == 2
    assert equilibrium(mu, x, x, energies=(0, 0), temperature=300, species=(1, 1)) is None


def test_a_branch_ends_at_its_first_jump():
    """With hysteresis the scans cross where one of them is half full already: that is no end member."""
    mu = np.round(np.arange(-0.2, 0.2001, 0.01), 6)
    up = np.where(mu < -0.015, 0.0, np.where(mu < 0.045, 0.5, 1.0))
    down = np.where(mu < -0.045, 0.0, np.where(mu < 0.015, 0.5, 1.0))
    assert hysteresis(mu, up, down) > 0.02
    for full in (-0.005, 0.0, 0.005):
        assert equilibrium(mu, up, down, energies=(0, full), temperature=300, species=(1, 1)) is None


def test_branches_that_do_not_cross_have_no_equilibrium():
    mu = np.linspace(0, 1, 11)
    assert crossing(mu, np.zeros(11), np.ones(11)) is None
    assert crossing(mu, np.zeros(11), 0.52 - mu) == pytest.approx(0.52)


def test_voltage_is_the_chemical_potential_against_the_metal():
    # An ion that the host binds 3 eV more strongly than its metal does gives 3 V; two electrons give half.
    np.testing.assert_allclose(voltage(np.array([-4.3]), metal_energy=-1.3, charge=1), 3.0)
    np.testing.assert_allclose(voltage(np.array([-4.3]), metal_energy=-1.3, charge=2), 1.5)
