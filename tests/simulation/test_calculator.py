"""A trained model as an ASE calculator."""

import networks
import numpy as np
import pytest
from ase.filters import FrechetCellFilter
from morse_potential import label

from workflow_lib.core.errors import UserError
from workflow_lib.models.testing import olivine
from workflow_lib.models.trained import TrainedModel
from workflow_lib.simulation.calculator import PotentialCalculator


def test_two_lines_from_a_folder(tmp_path):
    potential = networks.build("mace")
    TrainedModel(potential, networks.card("mace", potential)).save(tmp_path)
    atoms = olivine(filled=2)
    atoms.calc = PotentialCalculator(str(tmp_path))
    model = TrainedModel.load(tmp_path, allow_untrained_stress=True)
    [expected] = model.predict([atoms], stress=True)
    assert atoms.get_potential_energy() == expected.energy
    assert np.array_equal(atoms.get_forces(), expected.forces)
    with pytest.raises(UserError, match="trained without stress and gives none"):
        atoms.get_stress()
    with pytest.raises(UserError, match="trained without stress and gives none"):
        FrechetCellFilter(atoms).get_forces()
    atoms.calc = PotentialCalculator(model)
    stress = atoms.get_stress(voigt=False)
    assert np.allclose(stress, expected.stress, rtol=0, atol=1e-12)
    assert atoms.calc.implemented_properties == ["energy", "free_energy", "forces", "stress"]
    assert np.allclose(atoms.calc.embeddings, expected.embeddings, rtol=0, atol=1e-12)


def test_forces_and_stress_are_those_of_ase(blind):
    """ASE's own finite differences (5e-7 eV/A and 5e-8 eV/A^3 of error at these steps)."""
    from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

    atoms = olivine(filled=2)
    atoms.calc = PotentialCalculator(blind)
    numeric = calculate_numerical_forces(atoms, eps=1e-4, iatoms=[0, 9])
    assert np.allclose(atoms.get_forces()[[0, 9]], numeric, rtol=0, atol=2e-6)
    stress = calculate_numerical_stress(atoms, eps=1e-5, voigt=True)
    assert np.allclose(atoms.get_stress(), stress, rtol=0, atol=2e-7)


def test_changed_labels_are_noticed(labelled):
    atoms = olivine(filled=2)
    label(atoms, [0, 1])
    atoms.calc = PotentialCalculator(labelled)
    energies = [atoms.get_potential_energy()]
    sites = np.flatnonzero(atoms.numbers == 26)
    # In place: the array object stays the same.
    atoms.arrays["oxidation_states"][sites] = [3, 2, 3, 2]
    energies.append(atoms.get_potential_energy())
    assert np.array_equal(atoms.calc.oxidation_states[sites], [3, 2, 3, 2])
    # Replaced.
    label(atoms, [0, 1])
    energies.append(atoms.get_potential_energy())
    assert energies[0] == energies[2] and abs(energies[1] - energies[0]) > 1e-4
    # Taken away.
    del atoms.arrays["oxidation_states"]
    with pytest.raises(UserError, match="needs charge states"):
        atoms.get_potential_energy()


def test_nothing_changed_is_not_evaluated_again(labelled, monkeypatch):
    atoms = olivine(filled=2)
    label(atoms, [0, 1])
    atoms.calc = PotentialCalculator(labelled)
    atoms.get_forces()
    monkeypatch.setattr(labelled, "predict", None)
    atoms.get_potential_energy()
    atoms.get_magnetic_moments()


def test_search(labelled):
    atoms = olivine(filled=2)
    atoms.calc = PotentialCalculator(labelled, assign="search")
    [expected] = labelled.predict([atoms], assign="search")
    assert atoms.get_potential_energy() == pytest.approx(expected.energy, abs=1e-10)
    assert np.array_equal(atoms.calc.oxidation_states, expected.oxidation_states)
