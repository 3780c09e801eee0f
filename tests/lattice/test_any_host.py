"""Relations that hold for any host, whatever its symmetry, ions and charges."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from ase import Atoms
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from invented_hosts import hosts, magnesium_phosphate, magnesium_silicate, two_sodium
from other_settings import other_setting

from workflow_lib.core.elements import SYMBOLS, atomic_number
from workflow_lib.core.errors import UserError
from workflow_lib.lattice.arrangement import UNIT, Arrangement, StateKey
from workflow_lib.lattice.counting import count_distinct
from workflow_lib.lattice.ewald import electrostatic_order, ewald_energy
from workflow_lib.lattice.host import Host

REPEATS = st.sampled_from([(1, 1, 1), (2, 1, 1), (1, 1, 2)])
LABELS = "oxidation_states"
ANY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def neutral_by_trial(host: Host, repeat: tuple[int, int, int], occupied: int) -> list[int]:
    """Numbers of reduced sites that make a composition neutral, by trying all."""
    charge = dict(host.rule.formal_charges)
    cells = int(np.prod(repeat))
    fixed = sum(charge[SYMBOLS[z]] for z in host.numbers if SYMBOLS[z] not in (host.mobile, host.redox))
    redox = host.n_redox(repeat)
    return [
        reduced
        for reduced in range(redox + 1)
        if cells * fixed
        + occupied * charge[host.mobile]
        + host.low * reduced
        + host.high * (redox - reduced)
        == 0
    ]


def drawn(host: Host, repeat: tuple[int, int, int], data: st.DataObject, *, charges: bool = True):
    numbers = host.compositions(repeat) if charges else range(host.n_mobile(repeat) + 1)
    assume(len(numbers) > 0)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    return host.random(repeat, data.draw(st.sampled_from(list(numbers))), charges=charges, rng=rng)


@ANY
@given(host=hosts(), repeat=REPEATS)
def test_neutrality_is_what_trying_all_counts_finds(host, repeat):
    compositions = host.compositions(repeat)
    for occupied in range(host.n_mobile(repeat) + 1):
        possible = neutral_by_trial(host, repeat, occupied)
        assert (occupied in compositions) == bool(possible)
        if possible:
            assert [host.n_reduced(repeat, occupied)] == possible
            atoms = host.build(Arrangement(repeat, tuple(range(occupied)), tuple(range(possible[0]))))
            assert host.rule.n_reduced(atoms.numbers) == possible[0]
            assert host.rule.formal(atoms.numbers, atoms.arrays[LABELS]).sum() == 0
        else:
            with pytest.raises(UserError, match="has no neutral assignment"):
                host.n_reduced(repeat, occupied)


@ANY
@given(host=hosts(), repeat=REPEATS, charges=st.booleans(), data=st.data())
def test_canonical_form_and_key_are_those_of_the_class(host, repeat, charges, data):
    arrangement = drawn(host, repeat, data, charges=charges)
    best, key = host.canonical(arrangement), host.key(arrangement)
    assert host.canonical(best) == best
    assert host.parse(key) == best
    parts = StateKey.parse(key)
    assert (parts.repeat, parts.filled) == (repeat, len(arrangement.occupied))
    assert parts.x == host.composition(arrangement)
    assert parts.ion_key == host.key(arrangement.without_charges())
    mobile, redox = host.permutations(repeat)
    for operation in range(len(mobile)):
        moved = Arrangement(
            repeat,
            tuple(mobile[operation, list(arrangement.occupied)].tolist()),
            tuple(redox[operation, list(arrangement.reduced)].tolist()) if charges else None,
        )
        assert host.key(moved) == key
        assert host.degeneracy(moved) == host.degeneracy(arrangement)


@ANY
@given(host=hosts(), repeat=REPEATS, charges=st.booleans())
def test_degeneracies_sum_to_the_binomials_and_counting_is_enumerating(host, repeat, charges):
    sites, redox = host.n_mobile(repeat), host.n_redox(repeat)
    assume(sites <= 6)
    for occupied in host.compositions(repeat):
        found = host.enumerate(repeat, occupied, charges=charges)
        ways = comb(redox, host.n_reduced(repeat, occupied)) if charges else 1
        assert sum(host.degeneracy(one) for one in found) == comb(sites, occupied) * ways
        assert len(found) == count_distinct(host, repeat, occupied, charges=charges)
        assert len({host.key(one) for one in found}) == len(found)


@ANY
@given(host=hosts(), repeat=REPEATS, data=st.data())
def test_the_electrostatic_energy_does_not_depend_on_the_image(host, repeat, data):
    """Independent of the symmetry tables: energies of all images of an arrangement are equal."""
    arrangement = drawn(host, repeat, data)
    mobile, redox = host.permutations(repeat)
    # In the geometry of the full cell, whose symmetry it is.
    numbers, scaled, cell = host.supercell(repeat, 1.0)
    ions, couple = (np.flatnonzero(numbers == atomic_number(z)) for z in (host.mobile, host.redox))
    energies = []
    for operation in range(0, len(mobile), max(1, len(mobile) // 4)):
        states = np.zeros(len(numbers), dtype=int)
        states[couple] = host.high
        states[couple[redox[operation, list(arrangement.reduced)]]] = host.low
        gone = np.delete(ions, mobile[operation, list(arrangement.occupied)])
        kept = np.delete(np.arange(len(numbers)), gone)
        atoms = Atoms(numbers[kept], scaled_positions=scaled[kept], cell=cell, pbc=True)
        energies.append(ewald_energy(atoms, host.rule.formal(atoms.numbers, states[kept])))
    assert np.ptp(energies) < 1e-6 * max(1.0, abs(energies[0]))


@ANY
@given(host=hosts(((4.6, 5.4, 6.3),)), repeat=REPEATS, seed=st.integers(0, 999))
def test_an_arrangement_is_found_again_in_any_setting(host, repeat, seed):
    """Full cells, any charge states: without some ions a framework may have more symmetry than the host.

    Three different edges: repetitions that symmetry exchanges are one supercell with several names.
    """
    assume(host.confusable > 0.1)
    rng = np.random.default_rng(seed)
    reduced = np.flatnonzero(rng.integers(0, 2, host.n_redox(repeat)))
    arrangement = Arrangement(repeat, tuple(range(host.n_mobile(repeat))), tuple(reduced.tolist()))
    atoms = host.build(arrangement)
    atoms.rattle(0.01, seed=seed)
    moved = other_setting(atoms, rng)
    assert host.key(host.locate(moved, moved.arrays[LABELS])) == host.key(arrangement)


def test_two_electrons_an_ion():
    host = magnesium_phosphate()
    assert host.compositions(UNIT) == (0, 1, 2)
    assert [host.n_reduced(UNIT, n) for n in (0, 1, 2)] == [0, 2, 4]
    assert len(host.enumerate(UNIT, 1, charges=True)) == 4
    assert host.compositions((1, 2, 1)) == (0, 1, 2, 3, 4)
    with pytest.raises(UserError, match="with 3 Mg on 4 sites has no neutral assignment of Fe2"):
        host.n_reduced(UNIT, 3)
    with pytest.raises(UserError, match="the full end member of invented MgFePO4 is not neutral"):
        host.end_members(charges=True)
    assert [len(end) for end in host.end_members(charges=False)] == [1, 1]


def test_two_ions_a_redox_site():
    host = two_sodium()
    assert host.compositions((2, 1, 1)) == (0, 2, 4)
    assert [host.n_reduced((2, 1, 1), n) for n in (0, 2, 4)] == [0, 1, 2]
    empty, full = host.end_members(charges=True)
    assert [host.key(end) for end in (*empty, *full)] == ["1x1x1:Na00:Fe4", "1x1x1:Na11:Fe2"]
    with pytest.raises(UserError, match="the empty end member of invented Na2FeOF2 is not neutral"):
        two_sodium((2, 3)).end_members(charges=True)
    # Of the four anions next to Fe the two in the plane are nearer than the two above and below.
    assert host.shells.sizes.tolist() == [6]


@pytest.mark.parametrize("host", [magnesium_silicate(), two_sodium()], ids=lambda host: host.name)
def test_the_electrostatic_order_is_the_lowest_for_other_charges(host):
    repeat = (2, 1, 1)
    rng = np.random.default_rng(2)
    ions = host.random(repeat, 2, charges=False, rng=rng)
    size = host.n_reduced(repeat, 2)
    energies = {}
    for reduced in combinations(range(host.n_redox(repeat)), size):
        atoms = host.build(Arrangement(repeat, ions.occupied, reduced))
        energies[reduced] = ewald_energy(atoms, host.rule.formal(atoms.numbers, atoms.arrays[LABELS]))
    chosen = electrostatic_order(ions, host)
    # Both are Ewald sums of pymatgen; equivalent orders tie, so energies are compared.
    assert energies[chosen.reduced] == pytest.approx(min(energies.values()), abs=1e-6)
