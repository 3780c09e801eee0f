"""Residence times and correlations of hops, exact for chains that are known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow_lib.core.errors import UserError
from workflow_lib.simulation.analysis.hopping import correlation, ion_hops, residence, sites_of

FRAME_PS = 0.02


def chain(leave: float, frames: int, carriers: int, seed: int) -> tuple[int, int]:
    """A Markov chain that leaves its site with one probability a frame: steps and hops."""
    moved = np.random.default_rng(seed).random((frames, carriers)) < leave
    return moved.size, int(moved.sum())


def test_residence_of_a_known_chain():
    """The mean is frame / p, and 95 of 100 intervals hold it."""
    leave, known = 0.02, FRAME_PS / 0.02
    found = [residence(*chain(leave, 400, 5, seed), FRAME_PS) for seed in range(200)]
    assert np.mean([item.hops for item in found]) == pytest.approx(400 * 5 * leave, rel=0.03)
    held = [item.low_ps <= known <= item.high_ps for item in found]
    # Clopper and Pearson: at least 95 %; four standard deviations of 200 draws are 6 %.
    assert np.mean(held) >= 0.95 - 0.06
    assert np.mean([item.low_ps > known for item in found]) <= 0.025 + 0.045
    assert np.mean([item.high_ps < known for item in found]) <= 0.025 + 0.045


def test_residence_by_hand():
    found = residence(100, 4, 0.5)
    assert found.mean_ps == pytest.approx(12.5)
    assert found.low_ps < 12.5 < found.high_ps
    always = residence(50, 50, 0.5)
    assert always.mean_ps == always.low_ps == pytest.approx(0.5)


def test_without_hops_there_is_a_lower_limit():
    """(1 - p)^n = 2.5 % at the upper limit of p."""
    found = residence(200, 0, 0.1)
    assert found.mean_ps is None
    assert math.isinf(found.high_ps)
    assert found.low_ps == pytest.approx(0.1 / (1 - 0.025 ** (1 / 200)))
    assert residence(0, 0, 0.1).mean_ps is None


@given(st.integers(1, 300), st.integers(1, 300), st.integers(2, 9))
def test_residence_scales_with_time_alone(stays: int, hops: int, factor: int):
    hops = min(hops, stays)
    one, other = residence(stays, hops, 0.1), residence(stays, hops, 0.1 * factor)
    assert other.mean_ps == pytest.approx(factor * one.mean_ps)
    assert other.low_ps == pytest.approx(factor * one.low_ps)
    assert one.low_ps <= one.mean_ps * (1 + 1e-9)
    assert one.mean_ps <= one.high_ps * (1 + 1e-9)


SITES = np.array([[0.0, 0, 0], [0.5, 0, 0]])
CELL = np.diag([8.0, 5.0, 5.0])


def places(x: list[float], drift: float = 0.0) -> np.ndarray:
    """Sites of one ion at the given x (A) in a cell of two sites, 4 A apart; everything drifts."""
    frames = len(x)
    moved = drift * np.arange(frames)
    ion = np.zeros((frames, 1, 3))
    ion[:, 0, 0] = np.array(x) + moved
    rest = np.zeros((frames, 2, 3))
    rest[:, :, 0] = moved[:, None]
    return sites_of(ion, np.repeat(CELL[None], frames, axis=0), SITES, rest, 1.0)[:, 0]


@pytest.mark.parametrize("drift", [0.0, 0.7])
def test_an_ion_hops_when_it_arrives(drift: float):
    assert places([0.1, 1.9, 2.4, 2.9, 3.2, 4.0], drift).tolist() == [0, 0, 0, 0, 1, 1]
    assert places([0.1, 2.4, 1.8, 0.3], drift).tolist() == [0, 0, 0, 0]
    assert places([3.9, 5.0, 6.2, 7.4, 8.1], drift).tolist() == [1, 1, 1, 0, 0]
    assert places([-4.2, -8.1, -12.0], drift).tolist() == [1, 0, 1]  # unwrapped


def test_ions_begin_on_sites_of_their_own():
    """An ion that begins off all sites, or two on one, are not on the sites that are given."""
    with pytest.raises(UserError, match=r"ion 0 begins 1\.30 A from .*, beyond reach \(1 A\)"):
        places([1.3, 0.0])
    two = np.array([[[0.1, 0, 0], [7.8, 0, 0]]])
    with pytest.raises(UserError, match="ions 0, 1 begin on one site, number 0"):
        sites_of(two, CELL[None], SITES, np.zeros((1, 1, 3)), 1.0)


@given(
    st.lists(st.floats(-12, 12), min_size=2, max_size=8),
    st.lists(st.floats(0.9, 1.1), min_size=8, max_size=8),
    st.floats(-3, 3),
)
def test_sites_follow_cell_and_drift(x: list[float], growth: list[float], shift: float):
    """A cell that breathes with its atoms, and a drift of them all, move no ion to another site."""
    x = [round(place / 4) * 4 + 0.5 for place in x]  # close to a site in a cell of any size here
    frames = len(x)
    scale = np.array([1.0, *growth[1:]])[:frames, None, None]
    moved = shift * np.arange(frames)[:, None, None]
    ion, rest = np.zeros((frames, 1, 3)), np.zeros((frames, 2, 3))
    ion[:, 0, 0], rest[:, 1, 0] = x, 40.0  # an atom far off goes a long way when the cell grows
    cells = np.repeat(CELL[None], frames, axis=0)
    at_rest = sites_of(ion, cells, SITES, rest, 1.0)
    found = sites_of(scale * ion + moved, scale * cells, SITES, scale * rest + moved, 1.0)
    assert found.tolist() == at_rest.tolist()


def test_hops_near_redox_atoms_by_hand():
    found = np.array([[0, 2], [1, 2], [1, 2], [1, 0]])
    near = np.array([[True, False], [False, True], [False, False]])
    assert ion_hops(found, near).tolist() == [[1, 1], [0, 0], [1, 0]]


def hops(seed: int, steps: int = 4000, atoms: int = 4, share: float = 0.05) -> np.ndarray:
    return np.random.default_rng(seed).random((steps, atoms)) < share


def test_hops_that_are_the_same_are_one():
    same = correlation(hops(0), hops(0), 10)
    assert same.value == pytest.approx(1)
    assert same.p_value == pytest.approx(1 / 400)
    assert same.low < 0 < same.high < 0.2


def test_independent_hops_have_no_correlation():
    """The correlation is zero within its spread, and small p-values come as often as they say."""
    found = [correlation(hops(seed), hops(seed + 1000), 10) for seed in range(100)]
    values = np.array([item.value for item in found])
    spread = 1 / math.sqrt(400 * 4)
    assert abs(values.mean()) < 4 * spread / 10
    assert values.std() == pytest.approx(spread, rel=0.3)
    small = np.mean([item.p_value <= 0.1 for item in found])
    assert 0.1 - 4 * 0.03 <= small <= 0.1 + 4 * 0.03
    outside = np.mean([not item.low <= item.value <= item.high for item in found])
    assert outside <= 0.05 + 4 * 0.022


def test_slow_series_are_no_correlation():
    """Two walks that are each correlated in time; shuffled windows would call one in two related."""

    def slow(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        level = np.repeat(rng.random((20, 1)), 200, axis=0)
        return rng.random((4000, 1)) < 0.1 * level

    found = [correlation(slow(seed), slow(seed + 500), 10).p_value for seed in range(80)]
    assert np.mean([value <= 0.05 for value in found]) <= 0.05 + 4 * 0.025


def test_places_that_hop_more_are_no_correlation_in_time():
    rng = np.random.default_rng(3)
    share = np.array([0.2, 0.01, 0.01, 0.2])
    found = correlation(rng.random((4000, 4)) < share, rng.random((4000, 4)) < share, 10)
    assert abs(found.value) < 4 / math.sqrt(400 * 2)


@given(st.integers(0, 50), st.integers(2, 20))
def test_correlation_has_no_direction(seed: int, window: int):
    a, b = hops(seed, steps=400), hops(seed + 7, steps=400)
    assert correlation(a, b, window).value == pytest.approx(correlation(b, a, window).value)


def test_without_hops_nothing_is_said():
    still = np.zeros((100, 2), dtype=bool)
    found = correlation(still, hops(0, 100, 2), 5)
    assert (found.value, found.reason) == (None, "electrons or ions do not hop")
    found = correlation(hops(0, 14, 2), hops(1, 14, 2), 5)
    assert (found.value, found.reason) == (None, "2 windows of time are too few")
    assert correlation(hops(0), hops(1), 10).reason == ""
