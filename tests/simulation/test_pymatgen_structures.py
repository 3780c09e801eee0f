"""Structures of pymatgen: the same answers as the atoms that they stand for, charge states included."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from morse_potential import label
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from workflow_lib import as_atoms
from workflow_lib.core.errors import UserError
from workflow_lib.models.testing import olivine
from workflow_lib.simulation.calculator import PotentialCalculator
from workflow_lib.simulation.relaxation import relax


@pytest.fixture
def half() -> Atoms:
    """Half of the sodium, the first and the third Fe reduced."""
    atoms = olivine(filled=2)
    label(atoms, [0, 2])
    return atoms


def bare(atoms: Atoms) -> Structure:
    return AseAtomsAdaptor.get_structure(
        Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    )


def decorated(atoms: Atoms) -> Structure:
    structure = bare(atoms)
    structure.add_oxidation_state_by_site([int(state) for state in atoms.arrays["oxidation_states"]])
    return structure


def with_property(atoms: Atoms) -> Structure:
    structure = bare(atoms)
    structure.add_site_property("oxi_states", atoms.arrays["oxidation_states"].tolist())
    return structure


@pytest.mark.parametrize("make", [decorated, with_property])
def test_predictions_are_those_of_the_atoms(make, half: Atoms, labelled) -> None:
    structure = make(half)
    atoms = as_atoms(structure)
    assert np.array_equal(atoms.arrays["oxidation_states"], half.arrays["oxidation_states"])
    [ours], [theirs] = labelled.predict([half]), labelled.predict([structure])
    assert theirs.energy == pytest.approx(ours.energy, abs=1e-9)
    np.testing.assert_allclose(theirs.forces, ours.forces, atol=1e-9)
    assert np.array_equal(theirs.oxidation_states, ours.oxidation_states)
    # Another charge order has another energy: the states were used, not found.
    other = half.copy()
    label(other, [0, 1])
    assert abs(labelled.predict([make(other)])[0].energy - ours.energy) > 1e-4


def test_relaxation_and_calculator_take_them(half: Atoms, labelled) -> None:
    structure = decorated(half)
    [ours], [theirs] = (
        relax(labelled, [item], fmax=1e-3, max_steps=2, batch_size=1) for item in (half, structure)
    )
    np.testing.assert_allclose(theirs.atoms.positions, ours.atoms.positions, atol=1e-9)
    for atoms in (as_atoms(structure), AseAtomsAdaptor.get_atoms(structure)):
        atoms.calc = PotentialCalculator(labelled)
        assert atoms.get_potential_energy() == pytest.approx(labelled.predict([half])[0].energy, abs=1e-9)


def test_ions_that_take_no_part_may_carry_their_charges(half: Atoms, labelled) -> None:
    """Pymatgen decorates every ion: Na+, P5+ and O2- beside Fe2+ and Fe3+."""
    formal = {11: 1, 15: 5, 8: -2}
    states = [
        formal.get(int(number), int(state))
        for number, state in zip(half.numbers, half.arrays["oxidation_states"], strict=True)
    ]
    structure = bare(half)
    structure.add_oxidation_state_by_site(states)
    assert structure.charge == 0
    [prediction] = labelled.predict([structure])
    assert prediction.energy == pytest.approx(labelled.predict([half])[0].energy, abs=1e-9)


def test_without_states_and_what_is_refused(half: Atoms, labelled) -> None:
    assert not as_atoms(bare(half)).has("oxidation_states")
    with pytest.raises(UserError, match="needs charge states"):
        labelled.predict([bare(half)])
    disordered = Structure(Lattice.cubic(4), [{"Na": 0.5}], [[0, 0, 0]])
    with pytest.raises(UserError, match="partially occupied"):
        as_atoms(disordered)
    fractional = bare(half)
    fractional.add_site_property("oxi_states", [2.5] * len(half))
    with pytest.raises(UserError, match="whole numbers"):
        as_atoms(fractional)
    with pytest.raises(UserError, match="no structure"):
        as_atoms("full.cif")
