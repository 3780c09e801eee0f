"""Hull and voltage against cases whose answer is known by hand, and against pymatgen's battery code."""

from __future__ import annotations

import numpy as np
import pytest

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.hull import Hull, lower_hull
from workflow_lib.lattice.voltage import (
    VoltageProfile,
    common_grid,
    voltage_distance_mv,
    voltage_profile,
)

E_NA = -1.3287  # eV/atom, bcc Na
TIGHT = 1e-9  # eV; sums of a few hundred eV in double precision are exact to about 1e-13 of that


def hull_of(filled: list[int], sites: list[int], energies: list[float]) -> Hull:
    return lower_hull(filled, sites, energies, mobile="Na", where="test")


def random_case(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """End members and forty cells of two sizes with formation energies of both signs."""
    sites = np.concatenate([[4, 4], rng.choice([4, 12], 40)])
    filled = np.concatenate([[0, 4], [rng.integers(0, n + 1) for n in sites[2:]]])
    x = filled / sites
    energy = sites * (-42.0 - 4.3 * x + np.where((x > 0) & (x < 1), rng.normal(0, 0.05, len(x)), 0))
    return filled, sites, energy


def test_hull_by_hand():
    # Per site, ends at 0: x=1/4 -> -0.02, x=1/2 -> -0.06, x=3/4 -> -0.01. The line from 0 to
    # (1/2, -0.06) passes -0.03 at 1/4, so 1/4 is 0.01 above; 3/4 lies 0.02 above.
    ends = {0: -40.0, 4: -44.0}
    formation = {0: 0.0, 1: -0.02, 2: -0.06, 3: -0.01, 4: 0.0}
    filled = [0, 1, 2, 3, 4]
    energies = [4 * (ends[0] * (1 - n / 4) + ends[4] * n / 4 + formation[n]) for n in filled]
    hull = hull_of(filled, [4] * 5, energies)
    assert hull.x.tolist() == [0.0, 0.5, 1.0]
    assert hull.vertices.tolist() == [0, 2, 4]
    np.testing.assert_allclose(hull.formation, [formation[n] for n in filled], atol=TIGHT)
    np.testing.assert_allclose(hull.above, [0, 0.01, 0, 0.02, 0], atol=TIGHT)
    np.testing.assert_allclose(hull.formation_at(np.array([0.25, 0.5])), [-0.03, -0.06], atol=TIGHT)


def test_positive_formation_energies_leave_only_the_ends():
    hull = hull_of([0, 2, 4], [4, 4, 4], [-160.0, -167.0, -176.0])
    assert hull.x.tolist() == [0.0, 1.0]
    np.testing.assert_allclose(hull.above, [0, 0.25, 0], atol=TIGHT)


def test_cells_of_two_sizes_share_a_hull():
    # A 1x3x1 cell with two thirds of its sites filled is a composition the small cell lacks.
    hull = hull_of([0, 4, 8], [4, 4, 12], [-160.0, -176.0, 12 * (-40 - 4 * 2 / 3 - 0.03)])
    np.testing.assert_allclose(hull.x, [0, 2 / 3, 1])
    np.testing.assert_allclose(hull.formation[2], -0.03, atol=TIGHT)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_lies_below_the_hull_and_the_voltage_falls(seed: int):
    filled, sites, energy = random_case(np.random.default_rng(seed))
    hull = lower_hull(filled, sites, energy, mobile="Na", where="test")
    x = filled / sites
    # Independent of pymatgen's own distances: the straight lines between vertices.
    below = hull.formation - hull.formation_at(x)
    assert below.min() > -TIGHT
    np.testing.assert_allclose(hull.above, below, atol=TIGHT)
    assert len(hull.x) > 2
    assert np.all(np.diff(voltage_profile(hull, mobile_energy=E_NA).volts) < 0)


@pytest.mark.parametrize("seed", range(3))
def test_integral_of_voltage_is_the_reaction_energy(seed: int):
    filled, sites, energy = random_case(np.random.default_rng(100 + seed))
    hull = lower_hull(filled, sites, energy, mobile="Na", where="test")
    profile = voltage_profile(hull, mobile_energy=E_NA)
    x = filled / sites
    full, empty = (energy / sites)[x == 1].min(), (energy / sites)[x == 0].min()
    assert profile.average == pytest.approx(-(full - empty - E_NA), abs=TIGHT)


def test_two_phase_system_has_one_plateau():
    # E(full) - E(empty) = -4.2 eV per site: V = 4.2 + E(Na), and half of it for a divalent ion.
    hull = hull_of([0, 4], [4, 4], [-160.0, -176.8])
    profile = voltage_profile(hull, mobile_energy=E_NA)
    assert profile.volts.tolist() == pytest.approx([4.2 + E_NA], abs=TIGHT)
    half = voltage_profile(hull, mobile_energy=E_NA, charge=2)
    assert half.average == pytest.approx(profile.average / 2, abs=TIGHT)


def test_voltage_equals_pymatgens_battery_code():
    from pymatgen.apps.battery.insertion_battery import InsertionElectrode
    from pymatgen.core import Composition
    from pymatgen.entries.computed_entries import ComputedEntry

    filled, energies = [0, 1, 2, 3, 4], [-171.3, -175.8, -180.2, -184.3, -188.8]
    entries = [ComputedEntry(Composition({"Na": n, "Fe": 4, "P": 4, "O": 16}), e)
               for n, e in zip(filled, energies, strict=True)]  # fmt: skip
    electrode = InsertionElectrode.from_entries(entries, ComputedEntry("Na", E_NA))
    profile = voltage_profile(hull_of(filled, [4] * 5, energies), mobile_energy=E_NA)
    assert len(profile.volts) == electrode.num_steps == 3
    np.testing.assert_allclose(profile.volts, [pair.voltage for pair in electrode.voltage_pairs], atol=1e-6)
    assert profile.average == pytest.approx(electrode.get_average_voltage(), abs=1e-6)


def test_voltage_distance_by_hand():
    one = VoltageProfile(np.array([0, 0.5, 1.0]), np.array([3.0, 2.8]))
    other = VoltageProfile(np.array([0, 0.25, 1.0]), np.array([3.1, 2.9]))
    # 0.1 V for x < 1/4 (3.0 against 3.1), 0.1 for 1/4..1/2 (3.0 against 2.9), 0.1 above (2.8, 2.9).
    assert voltage_distance_mv(one, other) == pytest.approx(100.0, abs=1e-9)
    shifted = VoltageProfile(one.x, one.volts + 0.03)
    assert voltage_distance_mv(one, shifted) == pytest.approx(30.0, abs=1e-9)
    assert voltage_distance_mv(one, one) == 0
    assert common_grid(one, other).tolist() == [0, 0.25, 0.5, 1.0]


@pytest.mark.parametrize(
    ("filled", "energies", "message"),
    [
        ([1, 4], [-164.0, -176.0], "empty end member"),
        ([0, 2], [-160.0, -168.0], "full end member"),
        ([0, 2, 4], [-160.0, float("nan"), -176.0], "not finite"),
    ],
)
def test_refuses_what_has_no_hull(filled: list[int], energies: list[float], message: str):
    with pytest.raises(UserError, match=message):
        hull_of(filled, [4] * len(filled), energies)
