"""Displacement and diffusion, exact for walks that are known, and refusals where there is no diffusion."""

import math

import numpy as np
import pytest
from ase import Atoms
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.analysis.diffusion.analyzer import fit_arrhenius

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.entropy import BOLTZMANN
from workflow_lib.simulation.analysis.cells import in_mean_cell
from workflow_lib.simulation.analysis.diffusion import (
    MeanSquare,
    arrhenius,
    diffusivity,
    displacements,
    mean_square,
    relative_error,
)

FRAME_PS = 0.1
WALKERS, FIXED = 300, 20
FIXED_CELL = np.eye(3)[None] * 9.0
"""One cell for all frames."""


def crystal(walkers: int = WALKERS, fixed: int = FIXED) -> Atoms:
    return Atoms(
        ["Li"] * walkers + ["O"] * fixed, cell=[9, 9, 9], pbc=True, positions=np.zeros((walkers + fixed, 3))
    )


def walk(frames: int, step: float, seed: int = 0, walkers: int = WALKERS) -> np.ndarray:
    """Independent steps of ``step`` A along each axis; the framework is at rest."""
    moves = np.random.default_rng(seed).choice([-step, step], (frames, walkers, 3))
    moves[0] = 0
    return np.concatenate([moves.cumsum(axis=0), np.zeros((frames, FIXED, 3))], axis=1)


def test_displacement_by_hand():
    """Three frames of two ions and one atom of the framework, computed on paper."""
    x = np.array([[0.0, 1, 5], [1, 1, 5], [2, 3, 5]])
    positions = np.zeros((3, 3, 3))
    positions[:, :, 0] = x
    moved = displacements(positions, np.array([False, False, True]))
    assert moved[:, :, 0].tolist() == [[0, 0, 0], [1, 0, 0], [2, 2, 0]]


def test_a_cell_that_grows_and_shears_moves_nothing():
    """The same walk, told in cells that change on the way: the MSD is that of the walk in the mean cell."""
    rng = np.random.default_rng(5)
    cells = 9 * np.eye(3) + np.linspace(0, 1, 60)[:, None, None] * rng.normal(0, 0.3, (3, 3))
    cells[:, 0, 0] += rng.normal(0, 0.1, 60)
    mean = cells.mean(axis=0)
    still = walk(60, 0.2) + rng.uniform(0, 9, (WALKERS + FIXED, 3))
    breathing = still @ np.linalg.inv(mean) @ cells
    assert np.allclose(in_mean_cell(breathing, cells), still, atol=1e-10)  # A; rounding
    expected = mean_square(still, mean[None], crystal(), "Li", FRAME_PS)
    found = mean_square(breathing, cells, crystal(), "Li", FRAME_PS)
    assert np.allclose(found.msd, expected.msd, atol=1e-10)
    assert found.framework.max() < 1e-18


def test_random_walk_has_the_exact_mean_square_within_its_error():
    """<r^2> after m steps of +-s along three axes is 3 m s^2."""
    found = mean_square(walk(400, 0.2), FIXED_CELL, crystal(), "Li", FRAME_PS)
    lags = found.times_ps / FRAME_PS
    expected = 3 * lags * 0.2**2
    # One step is always 3 s^2, without any spread.
    assert found.error[0] == pytest.approx(0, abs=1e-9)
    assert (np.abs(found.msd - expected) <= 4.5 * found.error + 1e-9).all()
    # The error is one: neither far too large nor too small. At the largest lag two origins are independent,
    # so that the spread over the ions is about sqrt(2 / 3) / sqrt(2) of the mean.
    assert found.error[-1] / expected[-1] == pytest.approx(
        math.sqrt(2 / 3 / 2) / math.sqrt(WALKERS), rel=0.5
    )
    assert found.framework == pytest.approx(np.zeros(len(lags)))
    assert found.atoms == WALKERS


def test_all_time_origins_count():
    positions = walk(40, 1.0)
    found = mean_square(positions, FIXED_CELL, crystal(), "Li", FRAME_PS)
    for lag in (1, 7, 20):
        brute = np.mean(
            [
                ((positions[t + lag, :WALKERS] - positions[t, :WALKERS]) ** 2).sum(axis=1).mean()
                for t in range(40 - lag)
            ]
        )
        assert found.msd[lag - 1] == pytest.approx(brute)


@given(velocity=st.tuples(*[st.integers(-50, 50).map(lambda tenths: tenths / 10)] * 3))
def test_a_drift_of_the_whole_cell_changes_nothing(velocity: tuple[float, float, float]):
    positions = walk(60, 0.3)
    drift = np.arange(60)[:, None, None] * np.array(velocity)
    still = mean_square(positions, FIXED_CELL, crystal(), "Li", FRAME_PS)
    moving = mean_square(positions + drift, FIXED_CELL, crystal(), "Li", FRAME_PS)
    assert moving.msd == pytest.approx(still.msd, abs=1e-6)
    assert moving.framework == pytest.approx(still.framework, abs=1e-6)


def test_walk_diffuses_as_it_must():
    """D = s^2 / (2 dt) along each axis, within the error of He et al."""
    found = diffusivity(
        mean_square(walk(2000, 0.2), FIXED_CELL, crystal(), "Li", FRAME_PS), 0.2 * math.sqrt(3)
    )
    expected = 0.2**2 / (2 * FRAME_PS) * 1e-4  # A^2/ps = 1e-4 cm^2/s
    assert found.value == pytest.approx(expected, abs=2 * found.error)
    assert found.error / found.value == pytest.approx(relative_error(found.hops))
    # Every step is a hop: as many as walkers times steps to the longest lag.
    assert found.hops == pytest.approx(WALKERS * 1000, rel=0.1)
    assert found.exponent == pytest.approx(1, abs=0.1)


def test_diffusion_over_known_barriers():
    """Overdamped in U cos(q x): D = D0 / I0(U / kT)^2 (Lifson and Jackson, J. Chem. Phys. 36, 2410)."""
    rng = np.random.default_rng(1)
    barrier, q, d0, dt, every = 1.0, 2 * np.pi, 0.2, 0.001, 100  # U / kT, 1 / A, A^2/ps, ps
    x = np.zeros((WALKERS, 3))
    frames = []
    for step in range(20000):
        if step % every == 0:
            frames.append(x.copy())
        x = x + d0 * barrier * q * np.sin(q * x) * dt + math.sqrt(2 * d0 * dt) * rng.normal(size=x.shape)
    positions = np.concatenate([np.array(frames), np.zeros((len(frames), FIXED, 3))], axis=1)
    found = diffusivity(mean_square(positions, FIXED_CELL, crystal(), "Li", every * dt), 1.0)
    expected = d0 / np.i0(barrier) ** 2 * 1e-4
    # 900 independent coordinates over 20 ps in windows of 2 to 10 ps: 2 % at best.
    assert found.value == pytest.approx(expected, rel=0.12)


def test_a_bound_particle_does_not_diffuse():
    rng = np.random.default_rng(0)
    positions = np.concatenate([rng.normal(0, 2, (500, WALKERS, 3)), np.zeros((500, FIXED, 3))], axis=1)
    found = diffusivity(mean_square(positions, FIXED_CELL, crystal(), "Li", FRAME_PS), 1.0)
    assert found.value is None
    assert found.error is None
    assert "not linearly" in found.reason


def test_ballistic_motion_is_no_diffusion():
    velocities = np.random.default_rng(0).normal(size=(1, WALKERS, 3))
    moved = np.arange(300)[:, None, None] * velocities * 0.1
    positions = np.concatenate([moved, np.zeros((300, FIXED, 3))], axis=1)
    found = diffusivity(mean_square(positions, FIXED_CELL, crystal(), "Li", FRAME_PS), 1.0)
    assert found.value is None
    assert found.exponent == pytest.approx(2)


def test_few_hops_say_so():
    found = diffusivity(mean_square(walk(200, 0.002), FIXED_CELL, crystal(), "Li", FRAME_PS), 2.0)
    assert found.value is None
    assert "effective hops are too few" in found.reason


def test_error_of_he_et_al():
    assert relative_error(100) == pytest.approx(0.383)
    assert relative_error(1e12) == pytest.approx(0.04, abs=1e-5)


def test_input_without_an_answer():
    with pytest.raises(UserError, match="holds no Na"):
        mean_square(walk(30, 1.0), FIXED_CELL, crystal(), "Na", FRAME_PS)
    with pytest.raises(UserError, match="too few"):
        mean_square(walk(10, 1.0), FIXED_CELL, crystal(), "Li", FRAME_PS)
    few = MeanSquare(np.arange(1, 4) * 1.0, np.ones(3), np.ones(3), np.zeros(3), 1)
    assert "too few frames" in diffusivity(few, 0.01).reason


@given(energy=st.floats(0.05, 1.5), prefactor=st.floats(1e-5, 1e-1), error=st.floats(0.05, 0.9))
def test_arrhenius_is_exact_on_exact_data(energy: float, prefactor: float, error: float):
    temperatures = np.array([600.0, 800.0, 1000.0, 1400.0])
    values = prefactor * np.exp(-energy / (BOLTZMANN * temperatures))
    found = arrhenius(temperatures, values, error * values)
    assert found is not None
    assert found.energy == pytest.approx(energy, rel=1e-6)
    assert found.prefactor == pytest.approx(prefactor, rel=1e-6)
    # Weighted least squares: the variance of the slope is s^2 / sum (x - mean)^2.
    inverse = 1 / temperatures
    spread = error / math.sqrt(((inverse - inverse.mean()) ** 2).sum()) * BOLTZMANN
    assert found.energy_error == pytest.approx(spread, rel=1e-6)
    assert found.at(np.array([800.0])) == pytest.approx(values[1:2], rel=1e-6)


def test_arrhenius_is_pymatgens_where_all_errors_are_equal():
    temperatures = np.array([600.0, 800.0, 1000.0])
    values = np.array([1e-6, 9e-6, 2.5e-5])
    found = arrhenius(temperatures, values, 0.2 * values)
    energy, prefactor, _ = fit_arrhenius(temperatures, values)
    assert found is not None
    assert found.energy == pytest.approx(energy, rel=1e-5)
    assert found.prefactor == pytest.approx(prefactor, rel=1e-5)
    assert arrhenius(temperatures[:1], values[:1], values[:1]) is None
