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
from workflow_lib.lattice.ewald import ewald_energy
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.locate import Located, locate
from workflow_lib.lattice.make_host import make_host
from workflow_lib.lattice.orientation import turned


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


def test_a_supercell_and_the_one_it_is_turned_into_have_the_same_states(o3):
    """In the hexagonal cell the 96 states of 2x1x1 are those of 1x2x1; they could train and test."""
    keys = {}
    for repeat in ((2, 1, 1), (1, 2, 1)):
        found = [a for n in range(7) for a in o3.enumerate(repeat, n, charges=True)]
        images = [[image for image in turned(o3, a) if image.repeat == (1, 2, 1)] for a in found]
        keys[repeat] = {o3.key(image[0] if image else a) for a, image in zip(found, images, strict=True)}
        assert len(keys[repeat]) == len(found) == 96
    assert keys[2, 1, 1] == keys[1, 2, 1]


def test_what_is_turned_keeps_its_electrostatic_energy(o3):
    rng = np.random.default_rng(2)
    for _ in range(5):
        arrangement = o3.random((3, 1, 1), 4, charges=True, rng=rng)
        energies = []
        for own in (arrangement, *turned(o3, arrangement)):
            atoms = o3.build(own)
            charges = o3.rule.formal(atoms.numbers, atoms.arrays["oxidation_states"])
            energies.append(ewald_energy(atoms, charges))
        assert len(energies) == 2  # 3x1x1 and 1x3x1; the long axis is another
        assert energies[1] == pytest.approx(energies[0], abs=1e-6)  # eV; two Ewald sums


def test_the_axes_of_an_orthorhombic_host_are_not_exchanged(host):
    arrangement = host.random((1, 2, 1), 3, charges=True, rng=np.random.default_rng(1))
    assert not list(turned(host, arrangement))
