"""Autocorrelation and equilibration on series whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from workflow_lib.lattice.sampling_statistics import autocorrelation_time, mean_of


def autoregressive(n: int, rho: float, seed: int) -> np.ndarray:
    """x_t = rho x_{t-1} + noise: variance 1, autocorrelation rho^t, time (1 + rho) / (1 - rho)."""
    rng = np.random.default_rng(seed)
    x = np.empty(n)
    x[0] = rng.normal()
    for t in range(1, n):
        x[t] = rho * x[t - 1] + np.sqrt(1 - rho**2) * rng.normal()
    return x


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_time_of_a_process_that_is_known(rho: float):
    found = autocorrelation_time(autoregressive(100000, rho, 3))
    # Sokal: the relative error of the time is sqrt(2 (2 W + 1) t / n), here 4 % at most.
    assert found == pytest.approx((1 + rho) / (1 - rho), rel=0.12)


def test_the_error_is_that_of_repeated_runs():
    means = [mean_of(autoregressive(2000, 0.8, seed)) for seed in range(60)]
    scatter = np.std([mean.value for mean in means])
    stated = np.mean([mean.error for mean in means])
    assert stated == pytest.approx(scatter, rel=0.35)  # sixty runs give a deviation to 10 %
    assert all(mean.equilibrated for mean in means)


def test_the_way_to_equilibrium_is_left_out():
    x = autoregressive(4000, 0.5, 1)
    x[:1000] += np.linspace(30, 0, 1000)
    mean = mean_of(x)
    assert 700 <= mean.start <= 1300
    assert abs(mean.value) < 5 * mean.error


def test_a_series_that_only_drifts_is_not_equilibrated():
    assert not mean_of(np.linspace(0, 1, 500)).equilibrated


@pytest.mark.parametrize("value", [0.0, -1e4, 3.7])
def test_a_constant_is_its_own_mean(value: float):
    mean = mean_of(np.full(50, value))
    assert (mean.value, mean.time, mean.start) == (pytest.approx(value, rel=1e-14), 1.0, 0)
    assert mean.error <= 1e-12 * max(1.0, abs(value))
    assert mean.equilibrated


def test_one_sample_has_no_error():
    with pytest.raises(ValueError, match="two samples"):
        mean_of(np.array([1.0]))
