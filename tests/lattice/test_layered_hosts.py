"""Layered oxides: other stackings of the layers are other crystals, smaller cells are said."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from ase import Atoms
from ase.spacegroup import crystal
from invented_hosts import magnesium_silicate, rule_of

from workflow_lib.core.errors import UserError
from workflow_lib.lattice import host as host_module
from workflow_lib.lattice.arrangement import Arrangement, Repeat
from workflow_lib.lattice.ewald import ewald_energy
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.locate import Located, locate
from workflow_lib.lattice.make_host import make_host
from workflow_lib.lattice.orientation import smallest_keys


@pytest.fixture(scope="module")
def o3() -> Host:
    """O3-LiCoO2 in its hexagonal cell of three layers."""
    full = crystal(
        ["Li", "Co", "O"],
        [(0, 0, 0.5), (0, 0, 0), (0, 0, 0.2605)],
        spacegroup=166,
        cellpar=[2.816, 2.816, 14.05, 90, 90, 120],
    )
    described = make_host(full, mobile="Li", redox="Co", oxidation_states=(3, 4))
    return Host(described, rule_of("Co", 3, 4, {"Li": 1, "O": -2}))


def empty_with_glide(host: Host, glide: float) -> Atoms:
    """CoO2 whose layers are moved, each by ``glide`` of (a + 2b) more than the one below."""
    atoms = host.full_cell(1.0)
    del atoms[[atom.index for atom in atoms if atom.symbol == "Li"]]
    scaled = atoms.get_scaled_positions()
    layer = np.floor(np.mod(scaled[:, 2] + 1 / 6, 1) * 3)
    scaled[:, :2] += layer[:, None] * np.array([1 / 3, 2 / 3]) * 3 * glide
    atoms.set_scaled_positions(scaled)
    return atoms


def located(host: Host, atoms: Atoms) -> Located:
    states = np.where(atoms.numbers == host.rule.redox_z, 4, 0)
    ends = np.array([0, len(atoms)])
    return locate(host, atoms.numbers, ends, atoms.positions, np.array(atoms.cell)[None], states)


def test_another_stacking_is_another_crystal(o3):
    """O1 and P3 were taken for O3: no atom is farther than 1.1 A from a site once the mean is removed."""
    same = located(o3, empty_with_glide(o3, 0.0))
    assert same.arrangements[0] is not None and o3.key(same.arrangements[0]) == "1x1x1:Li000:Co444"
    for glide in (1 / 3, 2 / 3):
        other = located(o3, empty_with_glide(o3, glide))
        assert other.arrangements[0] is None and other.foreign[0]
        assert "of a framework 0.7" in str(other.reasons[0])


def test_a_primitive_cell_is_said(o3):
    """One formula unit of the same crystal was passed over without a word."""
    atoms = empty_with_glide(o3, 0.0)
    layer = atoms[np.abs(atoms.get_scaled_positions()[:, 2] - 1 / 3) < 1 / 6]
    assert sorted(layer.symbols) == ["Co", "O", "O"]
    layer.set_cell([*atoms.cell[:2], atoms.cell[2] / 3 + (2 * atoms.cell[0] + atoms.cell[1]) / 3])
    found = located(o3, layer)
    assert found.arrangements[0] is None and "a smaller cell than that of" in str(found.reasons[0])
    other = located(o3, Atoms("FeO2", positions=layer.positions, cell=layer.cell, pbc=True))
    assert other.reasons[0] is None  # another material


def test_end_members_with_too_many_charge_orders_are_refused_before_they_are_listed(monkeypatch):
    """LiMn2O4 in 112 atoms: 601,080,390 charge orders, which filled the machine's memory."""
    full = crystal(
        ["Li", "Mn", "O"],
        [(1 / 8, 1 / 8, 1 / 8), (1 / 2, 1 / 2, 1 / 2), (0.263, 0.263, 0.263)],
        spacegroup=227,
        setting=2,
        cellpar=[8.24, 8.24, 8.24, 90, 90, 90],
    )
    described = make_host(full * (2, 1, 1), mobile="Li", redox="Mn", oxidation_states=(3, 4))
    spinel = Host(described, rule_of("Mn", 3, 4, {"Li": 1, "O": -2}))
    monkeypatch.setattr(Host, "enumerate", None)
    with pytest.raises(UserError, match=rf"full end member of .* has {comb(32, 16)} charge orders"):
        spinel.end_members(charges=True)


def test_operations_are_applied_in_parts_to_the_same_end(monkeypatch):
    whole = magnesium_silicate().permutations((2, 1, 1))
    monkeypatch.setattr(host_module, "_DISTANCES", 1)
    for one, other in zip(whole, magnesium_silicate().permutations((2, 1, 1)), strict=True):
        assert np.array_equal(one, other)


@pytest.fixture(scope="module")
def one_layer() -> Host:
    """A hexagonal cell of one layer of LiCoO2."""
    sites = [(0, 0, 0.5), (0, 0, 0), (1 / 3, 2 / 3, 0.2)]
    full = crystal(["Li", "Co", "O"], sites, spacegroup=164, cellpar=[2.816, 2.816, 4.7, 90, 90, 120])
    described = make_host(full, mobile="Li", redox="Co", oxidation_states=(3, 4))
    return Host(described, rule_of("Co", 3, 4, {"Li": 1, "O": -2}))


def smallest(host: Host, key: str) -> str:
    return smallest_keys([key], host)[key]


def tiled(arrangement: Arrangement, times: Repeat) -> Arrangement:
    """The same crystal in a larger cell: copies of each site along the three vectors, the last fastest."""
    own = arrangement.repeat
    repeat = tuple(np.multiply(own, times).tolist())

    def copies(part: tuple[int, ...]) -> tuple[int, ...]:
        filled = np.zeros((1000, *own), dtype=bool)  # more sites than any host has
        filled.reshape(-1)[list(part)] = True
        return tuple(np.flatnonzero(np.tile(filled, (1, *times))).tolist())

    reduced = None if arrangement.reduced is None else copies(arrangement.reduced)
    return Arrangement(repeat, copies(arrangement.occupied), reduced)


@pytest.mark.parametrize("charges", [True, False])
@pytest.mark.parametrize(
    ("name", "own", "times"),
    [
        ("one_layer", (1, 3, 1), (3, 1, 1)),
        ("one_layer", (2, 3, 1), (3, 2, 1)),
        ("one_layer", (2, 4, 1), (2, 1, 1)),
        ("host", (2, 1, 1), (1, 2, 1)),
        ("host", (1, 2, 1), (1, 2, 1)),
    ],
)
def test_a_supercell_that_repeats_an_arrangement_is_that_arrangement(name, own, times, charges, request):
    """The name of a larger hexagonal cell may be of an image whose shortest period is along a + b."""
    crystals = request.getfixturevalue(name)
    rng = np.random.default_rng(3)
    for _ in range(10):
        ions = int(rng.choice(crystals.compositions(own)))
        arrangement = crystals.random(own, ions, charges=charges, rng=rng)
        key = smallest(crystals, crystals.key(arrangement))
        assert smallest(crystals, crystals.key(tiled(arrangement, times))) == key
        assert smallest(crystals, key) == key
        again = crystals.parse(key)
        if not np.any(np.mod(own, again.repeat)):  # else it is named in a turned cell
            factors = tuple(np.floor_divide(own, again.repeat).tolist())
            assert smallest(crystals, crystals.key(tiled(again, factors))) == key


@pytest.mark.parametrize(
    ("large", "small"),
    [
        ("4x4x1:Li1100100000110010:Co3443443443343444", "2x4x1:Li11000010:Co43343444"),
        (
            f"6x6x1:Li{'1' * 6}{'0' * 12}{'1' * 6}{'0' * 12}:Co{'34' * 6}{'4' * 6}{'43' * 6}{'4' * 6}",
            "2x3x1:Li100100:Co344434",
        ),
    ],
)
def test_a_crystal_in_a_large_hexagonal_cell_has_one_smallest_key(one_layer, large, small):
    """No period of the larger name lies along a vector of its small cell."""
    assert smallest(one_layer, large) == smallest(one_layer, small)


def test_a_supercell_and_the_one_it_is_turned_into_have_the_same_states(o3):
    """In the hexagonal cell the 96 states of 2x1x1 are those of 1x2x1; they could train and test."""
    keys = {}
    for repeat in ((2, 1, 1), (1, 2, 1)):
        found = [o3.key(a) for n in range(7) for a in o3.enumerate(repeat, n, charges=True)]
        keys[repeat] = set(smallest_keys((key for key in found), o3).values())
        assert len(keys[repeat]) == len(found) == 96
    assert keys[2, 1, 1] == keys[1, 2, 1]


def test_what_is_turned_keeps_its_electrostatic_energy(o3, one_layer):
    rng = np.random.default_rng(2)
    for host, repeat in ((o3, (3, 1, 1)), (one_layer, (3, 1, 1)), (one_layer, (4, 2, 1))):
        arrangement = host.random(repeat, host.n_mobile(repeat) // 2, charges=True, rng=rng)
        named = host.parse(smallest(host, host.key(arrangement)))
        assert named.repeat < repeat
        energies = []
        for own in (arrangement, named):
            atoms = host.build(own)
            charges = host.rule.formal(atoms.numbers, atoms.arrays["oxidation_states"])
            energies.append(ewald_energy(atoms, charges) / own.cells)
        assert energies[1] == pytest.approx(energies[0], abs=1e-6)  # eV; two Ewald sums


def test_the_axes_of_an_orthorhombic_host_are_not_exchanged(host):
    arrangement = host.random((1, 2, 1), 3, charges=True, rng=np.random.default_rng(1))
    assert smallest(host, host.key(arrangement)) == host.key(arrangement)
