"""A trained model as a torch-sim model."""

import numpy as np
import pytest
import torch
import torch_sim as ts
from morse_potential import label
from torch_sim.models.interface import validate_model_outputs
from torch_sim.testing import assert_model_calculator_consistency

from workflow_lib.core.errors import UserError
from workflow_lib.models.testing import olivine
from workflow_lib.simulation.calculator import PotentialCalculator
from workflow_lib.simulation.torchsim import TorchSimModel

CPU = torch.device("cpu")


def test_torch_sim_accepts_the_model(blind):
    """Its own validation: shapes, no mutation, batch = single, periodicity, a molecule."""
    validate_model_outputs(TorchSimModel(blind), CPU, torch.float64)


def test_values_are_those_of_the_calculator(blind):
    model = TorchSimModel(blind)
    model.compute_stress = True
    state = ts.io.atoms_to_state([olivine(filled=2)], CPU, torch.float64)
    assert_model_calculator_consistency(
        model, PotentialCalculator(blind), state, energy_atol=1e-10, force_atol=1e-10, stress_atol=1e-10
    )


def test_labels_travel_with_their_system(labelled):
    atoms = [olivine(filled=2), olivine(filled=3, seed=1), olivine(filled=2)]
    for item, reduced in zip(atoms, ([0, 1], [1, 2, 3], [2, 3]), strict=True):
        label(item, reduced)
    model = TorchSimModel(labelled)
    expected = [prediction.energy for prediction in labelled.predict(atoms)]
    assert abs(expected[0] - expected[2]) > 1e-4
    state = model.initial_state(atoms)
    assert model(state)["energy"].tolist() == pytest.approx(expected, abs=1e-10)
    first, second, third = state.split()
    mixed = ts.concatenate_states([third, first])
    assert model(mixed)["energy"].tolist() == pytest.approx([expected[2], expected[0]], abs=1e-10)
    assert model(state[[1]])["energy"].tolist() == pytest.approx([expected[1]], abs=1e-10)
    mixed = ts.concatenate_states([mixed, second])
    assert model(mixed)["energy"].tolist() == pytest.approx([expected[2], *expected[:2]], abs=1e-10)
    assert model.embeddings.shape == (sum(map(len, atoms)), 2)


@pytest.mark.parametrize("apart", [False, True])
def test_a_structure_without_the_redox_element_needs_no_labels(labelled, monkeypatch, apart):
    """Alone, and beside one that has them: neither is refused for the other's charges."""
    if apart:  # as potentials are evaluated that take no edges
        monkeypatch.setattr(type(labelled), "reach", None)
    with_iron, without = olivine(filled=2), olivine(filled=3, seed=1)
    label(with_iron, [0, 1])
    without = without[without.numbers != 26]
    expected = [prediction.energy for prediction in labelled.predict([with_iron, without])]
    model = TorchSimModel(labelled)
    alone = model(model.initial_state([without]))["energy"].tolist()
    both = model(model.initial_state([with_iron, without]))["energy"].tolist()
    assert [both[0], *alone] == pytest.approx(expected, abs=1e-10) == both


def test_labels_by_torch_sims_own_reader(labelled):
    atoms = olivine(filled=2)
    label(atoms, [0, 2])
    extras = {"oxidation_states": "oxidation_states"}
    state = ts.io.atoms_to_state([atoms], CPU, torch.float64, atom_extras_map=extras)
    [expected] = labelled.predict([atoms])
    assert float(TorchSimModel(labelled)(state)["energy"]) == pytest.approx(expected.energy, abs=1e-10)


def test_labels_missing_or_wrong(labelled):
    model, atoms = TorchSimModel(labelled), olivine(filled=2)
    with pytest.raises(UserError, match="initial_state"):
        model(ts.io.atoms_to_state([atoms], CPU, torch.float64))
    label(atoms, [0, 1, 2])
    with pytest.raises(UserError, match="not neutral"):
        model.initial_state([atoms])


def test_slabs_are_refused(blind):
    atoms = olivine()
    atoms.pbc = (True, True, False)
    state = ts.io.atoms_to_state([atoms], CPU, torch.float64)
    with pytest.raises(UserError, match="neither"):
        TorchSimModel(blind)(state)


def test_stress_only_when_asked_for(blind):
    model = TorchSimModel(blind)
    state = ts.io.atoms_to_state([olivine()], CPU, torch.float64)
    assert set(model(state)) == {"energy", "forces"}
    model.compute_stress = True
    [expected] = blind.predict([olivine()], stress=True)
    assert np.allclose(model(state)["stress"][0].numpy(), expected.stress, rtol=0, atol=1e-12)
