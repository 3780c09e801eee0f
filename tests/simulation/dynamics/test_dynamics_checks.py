"""The checks that fail a run, on series made by hand."""

import math

import numpy as np
import pytest

from workflow_lib.simulation.dynamics.checks import (
    block_mean,
    drift,
    drift_fault,
    frame_fault,
    temperature_fault,
)

TIMES = np.linspace(0, 10, 501)
RNG = np.random.default_rng(0)


def test_drift_is_the_slope_per_atom_and_ps():
    energies = -100 + 0.03 * TIMES + 0.01 * np.sin(40 * TIMES)
    assert drift(TIMES, energies, 10) == pytest.approx(3.0, rel=0.01)
    assert drift_fault(TIMES, energies, 10, 3.5) is None
    assert "3" in str(drift_fault(TIMES, energies, 10, 2.0))
    assert drift_fault(TIMES, -energies, 10, 2.0) is not None
    assert drift_fault(TIMES[:20], energies[:20], 10, 1e-6) is None  # 0.4 ps: too short to judge


def judged(values: np.ndarray, target: float = 500.0) -> str | None:
    return temperature_fault(
        values, target, 300, frame_ps=0.02, relaxation_ps=0.1, tolerance=0.02, spread=1.5
    )


def test_canonical_temperatures_pass_and_others_do_not():
    spread = 500 * math.sqrt(2 / 300)
    good = RNG.normal(500, spread, 1000)
    assert judged(good) is None
    assert "mean temperature is" in str(judged(good + 30))
    assert "spreads by" in str(judged(500 + 2 * (good - 500)))
    assert "spreads by" in str(judged(500 + 0.3 * (good - 500)))
    assert judged((good + 300)[:100]) is None  # too short to judge
    # The first tenth still warms up: the mean may pass, the spread does not, and the cure is another.
    warming = good - 350 * np.clip(1 - np.arange(1000) / 100, 0, 1)
    assert "raise equilibration_ps" in str(judged(warming))
    assert "equilibration_ps" not in str(judged(500 + 2 * (good - 500)))


def test_block_error_counts_correlation():
    """Each value repeated ten times carries no more information; the naive error would be a third."""
    values = RNG.normal(size=1000)
    independent, repeated = block_mean(values), block_mean(np.repeat(values, 10))
    assert repeated.error == pytest.approx(independent.error)
    assert independent.error == pytest.approx(1 / math.sqrt(1000), rel=0.8)
    assert block_mean(values[:5]).error == math.inf


CELL = 10 * np.eye(3)


def fault(positions: np.ndarray, energy: float = -1.0, temperature: float = 300.0) -> str | None:
    return frame_fault(positions, CELL, energy, temperature, hottest=1000, min_distance=0.5)


def test_frames_that_are_no_state():
    good = np.array([[0.0, 0, 0], [5.0, 5, 5]])
    assert fault(good) is None
    assert "atoms 0 and 1 are fused (0.20 A" in str(fault(np.array([[0.1, 0, 0], [9.9, 0, 0]])))
    assert "not finite" in str(fault(np.array([[np.nan, 0, 0], [5.0, 5, 5]])))
    assert "not finite" in str(fault(good, energy=math.inf))
    assert "rose to 2000 K" in str(fault(good, temperature=2000))
