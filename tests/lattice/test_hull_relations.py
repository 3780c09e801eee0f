"""What holds for the hull and the voltage of any energies."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from workflow_lib.lattice.formation import end_energies, formation_energy, formation_mev_fu
from workflow_lib.lattice.hull import lower_hull
from workflow_lib.lattice.voltage import voltage_distance_mv, voltage_profile

TOLERANCE = 1e-9
"""eV; energies below are at most 1,000 eV, so rounding is some 1e-12."""


@st.composite
def energies(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Filled sites, sites and energies (eV a cell) of some cells of several sizes, both ends among them."""
    sites = [*draw(st.lists(st.sampled_from([2, 4, 12]), min_size=0, max_size=20)), 4, 4]
    filled = [*(draw(st.integers(0, n)) for n in sites[:-2]), 0, 4]
    per_site = st.floats(-20, 20, allow_nan=False)
    energy = [draw(per_site) * n for n in sites]
    return np.array(filled), np.array(sites), np.array(energy)


ANY = settings(max_examples=60, deadline=None)


@ANY
@given(energies(), st.floats(-5, 5), st.sampled_from([1, 2]))
def test_hull_and_voltage(data, metal, charge):
    filled, sites, energy = data
    hull = lower_hull(filled, sites, energy, mobile="Na", where="here")
    x, per_site = filled / sites, energy / sites
    empty, full = end_energies(per_site, x)

    # Below all points, and on some of them: its own vertices.
    line = np.interp(x, hull.x, hull.energy)
    assert np.all(line <= per_site + TOLERANCE)
    np.testing.assert_allclose(per_site - line, hull.above, atol=TOLERANCE)
    np.testing.assert_allclose(hull.above[hull.vertices], 0, atol=TOLERANCE)
    # Convex: slopes rise.
    slopes = np.diff(hull.energy) / np.diff(hull.x)
    assert np.all(np.diff(slopes) >= -TOLERANCE)
    # Zero at both ends, which are the lowest there, and at most zero between them.
    np.testing.assert_allclose(hull.formation_at(np.array([0.0, 1.0])), 0, atol=TOLERANCE)
    assert np.all(hull.formation_at(np.linspace(0, 1, 33)) <= TOLERANCE)
    np.testing.assert_allclose(hull.formation, formation_energy(per_site, x, empty, full), atol=TOLERANCE)

    profile = voltage_profile(hull, mobile_energy=metal, charge=charge)
    # The voltage falls as ions go in; what flows is the reaction energy, whatever lies between.
    assert np.all(np.diff(profile.volts) <= TOLERANCE)
    assert np.isclose(profile.average, -(full - empty - metal) / charge, atol=TOLERANCE)
    assert voltage_distance_mv(profile, profile) == 0


@ANY
@given(energies(), st.floats(-9, 9), st.floats(-9, 9))
def test_zeros_of_energy_do_not_matter(data, host_shift, ion_shift):
    """Other zeros for host and ion, as another code has, change no formation energy."""
    filled, sites, energy = data
    before = formation_mev_fu(energy, sites, filled / sites)
    after = formation_mev_fu(energy + sites * host_shift + filled * ion_shift, sites, filled / sites)
    np.testing.assert_allclose(before, after, atol=1e3 * TOLERANCE)  # meV
    ends = [before[filled == 0].min(), before[filled == sites].min()]
    np.testing.assert_allclose(ends, 0, atol=1e3 * TOLERANCE)


@ANY
@given(energies(), st.integers(2, 5))
def test_a_supercell_has_the_energies_of_its_cell(data, times):
    filled, sites, energy = data
    one = lower_hull(filled, sites, energy, mobile="Na", where="here")
    large = lower_hull(filled * times, sites * times, energy * times, mobile="Na", where="here")
    np.testing.assert_allclose(one.formation, large.formation, atol=TOLERANCE)
    np.testing.assert_allclose(one.above, large.above, atol=TOLERANCE)


def test_formation_energy_by_hand():
    # (-10 - (-8 - 13) / 2) / 2 formula units = 0.25 eV.
    assert formation_energy(-5.0, 0.5, -4.0, -6.5) == 0.25
    found = formation_mev_fu([-8.0, -7.0, -10.0, -26.0], [2, 2, 2, 4], [0, 0, 0.5, 1])
    np.testing.assert_allclose(found, [0, 500, 250, 0], atol=1e-9)
    assert np.isnan(formation_mev_fu([-8.0, -10.0], [2, 2], [0, 0.5])).all()
    assert np.isnan(formation_mev_fu([-8.0, np.nan], [2, 2], [0, 1])).all()
