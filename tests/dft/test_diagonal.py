"""The diagonal vacancy order at x = 2/3 and the cell that holds it."""

import numpy as np
import pytest
from ase import Atoms
from matscipy.neighbours import neighbour_list

from campaigns.naxfepo4_gpaw.diagonal import SAME_LATTICE, SHEARED, diagonal_order, sheared_olivine
from campaigns.naxfepo4_gpaw.states import olivine
from workflow_lib.lattice.arrangement import UNIT


@pytest.fixture(scope="module")
def hosts():
    small = olivine()
    return sheared_olivine(small), small


def distances(atoms: Atoms, one: int, other: int) -> np.ndarray:
    """All distances (A) up to 6 A from atoms of one element to those of another, sorted."""
    first, second, length = neighbour_list("ijd", atoms, 6.0)
    return np.sort(length[(atoms.numbers[first] == one) & (atoms.numbers[second] == other)])


def test_the_sheared_cell_is_the_same_crystal(hosts):
    host, small = hosts
    numbers, scaled, cell = host.supercell(UNIT, 1.0)
    assert len(numbers) == 84 and host.n_mobile(UNIT) == host.n_redox(UNIT) == 12
    assert np.linalg.det(cell) == pytest.approx(3 * np.linalg.det(small.cell_full), rel=1e-12)
    larger = Atoms(numbers, scaled_positions=scaled, cell=cell, pbc=True)
    # Every distance up to 6 A between every pair of elements occurs three times as often.
    for one, other in ((11, 11), (11, 26), (26, 8), (15, 8)):
        three, once = (distances(atoms, one, other) for atoms in (larger, small.full_cell(1.0)))
        np.testing.assert_allclose(three, np.repeat(once, 3), atol=1e-6)


def test_vacancies_lie_on_diagonals(hosts):
    host, small = hosts
    order = diagonal_order(host, small)
    assert len(order.occupied) == 8 and len(order.reduced) == 8
    _, scaled, cell = host.supercell(UNIT, 1.0)
    sites = scaled[host.mobile_sites] @ cell
    vacant = np.setdiff1d(np.arange(12), order.occupied)
    a, b, _ = small.cell_full
    for site in sites[vacant]:
        # Along b two occupied sites, then a vacancy; the second chain, at a, is moved by b.
        for shift, wanted in ((b / 2, False), (b, False), (3 * b / 2, True), (a + b, True), (a, False)):
            away = np.linalg.solve(cell.T, (site + shift - sites).T).T
            [there] = np.flatnonzero(np.abs(away - np.round(away)).max(axis=1) < 0.02)
            assert (there in vacant) == wanted


def test_ends_are_sampled_as_the_sheared_cell_is():
    """k-points whose phase along the vectors of the larger cell is one are those of the mesh of the end."""
    mesh = {(0, n) for n in range(3)}  # thirds, in the reciprocal basis of SAME_LATTICE
    found = set()
    for first in range(3):
        for second in range(3):
            k = np.array([first, second]) / 3  # in the reciprocal basis of the olivine cell
            phases = SHEARED[:2, :2] @ k
            if np.allclose(phases, np.round(phases)):
                found.add(tuple(int(v) for v in np.round(3 * (SAME_LATTICE[:2, :2] @ k)).astype(int) % 3))
    assert found == mesh and round(np.linalg.det(SAME_LATTICE)) == 1
