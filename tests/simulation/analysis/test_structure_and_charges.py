"""Coordination and diffraction of known crystals; charge states from moments, by hand."""

import numpy as np
import pytest
from ase.build import bulk
from hypothesis import given
from hypothesis import strategies as st

from workflow_lib.simulation.analysis.charges import (
    AMBIGUOUS,
    by_gap,
    by_window,
    classified,
    moment_histogram,
    separation,
)
from workflow_lib.simulation.analysis.coordination import averaged, coordination
from workflow_lib.simulation.analysis.diffraction import broadened, lines, peak

KALPHA = 1.54184
"""A, the mean of Cu K alpha that pymatgen uses."""


@pytest.mark.parametrize(("kind", "a", "neighbours"), [("rocksalt", 5.64, 6), ("zincblende", 5.41, 4)])
def test_coordination_of_known_crystals(kind: str, a: float, neighbours: int):
    atoms = bulk("NaCl", kind, a=a, cubic=True) * (2, 1, 1)
    found = coordination(atoms.positions, atoms.cell[:], atoms.numbers, 11, 17, 3.0)
    assert found.tolist() == [neighbours] * 8
    # Unwrapped atoms have the same neighbours.
    moved = (
        atoms.positions
        + np.array([3, -2, 5])[None] * atoms.cell.lengths()[None] * (atoms.numbers == 11)[:, None]
    )
    assert coordination(moved, atoms.cell[:], atoms.numbers, 11, 17, 3.0).tolist() == [neighbours] * 8


def test_a_vacancy_lowers_the_coordination_of_six():
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True) * 2
    del atoms[int(np.flatnonzero(atoms.numbers == 17)[0])]
    found = coordination(atoms.positions, atoms.cell[:], atoms.numbers, 11, 17, 3.0)
    assert sorted(found.tolist()) == [5] * 6 + [6] * 26


def test_average_takes_the_noise_away():
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    noise = np.random.default_rng(0).normal(0, 0.2, (800, 8, 3))
    mean = averaged(atoms.positions + noise, np.repeat(atoms.cell[:][None], 800, axis=0), atoms)
    assert np.abs(mean.positions - atoms.positions).max() < 4.5 * 0.2 / np.sqrt(800)


def test_lines_of_rock_salt_are_where_bragg_says():
    """All indices odd or all even; the supercell has no others and the same strengths."""
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    angles, strengths = lines(atoms, "CuKa", (10.0, 60.0))
    seen = angles[strengths > 1e-3 * strengths.max()]
    squares = [3, 4, 8, 11, 12]
    expected = [np.degrees(2 * np.arcsin(KALPHA * np.sqrt(n) / (2 * 5.64))) for n in squares]
    assert seen == pytest.approx(expected, abs=0.01)
    assert angles[strengths.argmax()] == pytest.approx(expected[1], abs=0.01)  # (200) is the strongest
    _, larger = lines(atoms * (2, 1, 1), "CuKa", (10.0, 60.0))
    assert larger.sum() == pytest.approx(strengths.sum(), rel=1e-6)


def test_peaks_share_all_intensity():
    angles, strengths = np.array([15.1, 18.0, 30.0]), np.array([2.0, 1.0, 5.0])
    assert peak(angles, strengths, 15, 0.5) == pytest.approx(0.25)
    assert peak(angles, strengths, 18, 0.5) == pytest.approx(0.125)
    assert peak(angles, strengths, 50, 0.5) == 0
    assert broadened(angles, strengths, np.array([30.0]))[0] == pytest.approx(5.0)


def test_gap_divides_two_groups():
    found = by_gap(np.array([1.1, 1.8, 1.05, 1.9, 1.2]), (4, 3))
    assert found.states.tolist() == [4, 3, 4, 3, 4]
    assert found.gap == pytest.approx(0.6)


def test_one_value_is_one_state():
    assert by_gap(np.array([1.0, 1.0]), (4, 3)).states.tolist() == [4, 4]
    assert by_gap(np.array([1.0]), (4, 3)).states.tolist() == [4]


def test_window_leaves_doubt():
    found = by_window(np.array([3.5, 3.95, 4.3, 3.7]), (2, 3), ((3.4, 3.8), (4.1, 4.5)))
    assert found.states.tolist() == [2, AMBIGUOUS, 3, 2]
    assert found.gap == pytest.approx(0.6)
    assert by_window(np.array([3.5]), (2, 3), ((3.4, 3.8), (4.1, 4.5))).gap == 0


@given(st.lists(st.floats(0.1, 5), min_size=2, max_size=30, unique=True), st.randoms())
def test_the_order_of_atoms_decides_nothing(moments: list[float], random):
    values = np.array(moments)
    order = list(range(len(values)))
    random.shuffle(order)
    assert by_gap(values[order], (2, 3)).states.tolist() == by_gap(values, (2, 3)).states[order].tolist()
    assert (by_gap(values, (2, 3)).states == 2).any()
    assert (by_gap(values, (2, 3)).states == 3).any()


def test_separation_of_groups():
    moments, states = np.array([1.0, 1.02, 1.8, 1.82]), np.array([4, 4, 3, 3])
    assert separation(moments, states) == pytest.approx(1 - 0.02 / 0.8, abs=0.01)
    assert separation(moments, states[[0, 2, 1, 3]]) < 0
    assert separation(moments, np.array([4, 4, 4, 3])) is None
    assert separation(moments, np.array([4, 4, AMBIGUOUS, AMBIGUOUS])) is None


def test_histogram_and_classes_by_hand():
    moments = np.array([[3.1, 3.9, 4.3], [4.3, 4.4, 9.0]])
    edges = np.array([3.0, 3.5, 4.0, 4.5])
    assert moment_histogram(moments, edges).tolist() == [[1, 1, 1], [0, 0, 3]]
    assert classified(moments, (3.5, 4.2)).tolist() == [[0, 1, 2], [2, 2, 2]]
    assert classified(np.array([4.2]), (4.2,)).tolist() == [1]
