"""Trained models: files that cannot lie, predictions, which heads have learnt."""

import json
import pickle

import networks
import numpy as np
import pytest
import torch
from ase import Atoms
from morse_potential import label, morse_model
from safetensors.torch import load_file, save_file

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import sha256
from workflow_lib.models.testing import SPECIES, olivine
from workflow_lib.models.trained import TrainedModel, species_from_card, species_to_card
from workflow_lib.simulation.calculator import PotentialCalculator

# The same sums in another batch: double precision, some hundred terms.
SAME = 1e-10


@pytest.fixture
def folder(tmp_path, rule):
    """A saved charge-labelled MACE."""
    potential = networks.build("mace")
    card = networks.card(
        "mace",
        potential,
        variant="entropy",
        redox_embedding="surrogate",
        redox=rule.model_dump(mode="json"),
    )
    TrainedModel(potential, card).save(tmp_path / "model")
    return tmp_path / "model"


def edit_card(folder, **changes):
    path = folder / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# Files ------------------------------------------------------------------------------------------


def test_card_comes_back_as_it_was(folder, rule):
    model = TrainedModel.load(folder)
    assert model.charge_labelled and model.rule == rule
    assert model.card["variant"] == "entropy" and model.card["schema"] == 1
    assert model.card["tensors_sha256"] == sha256(folder / "model.safetensors")
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "model.safetensors"]
    assert species_from_card(species_to_card(SPECIES)) == SPECIES
    assert not any(p.requires_grad for p in model.potential.parameters())


def test_nothing_is_unpickled(folder, monkeypatch):
    def fail(*_args, **_kwargs):
        raise AssertionError("foreign code could have run")

    for module in (torch, pickle):
        monkeypatch.setattr(module, "load", fail)
    monkeypatch.setattr(pickle, "Unpickler", fail)
    TrainedModel.load(folder)


def test_saving_needs_a_whole_card(folder, tmp_path):
    model = TrainedModel.load(folder)
    del model.card["energy_reference"]
    with pytest.raises(ValueError, match="energy_reference"):
        model.save(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_missing_files(folder, tmp_path):
    with pytest.raises(UserError, match=r"card\.json is missing"):
        TrainedModel.load(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors does not exist"):
        TrainedModel.load(folder)


def test_damaged_tensors(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged or belongs to another card"):
        TrainedModel.load(folder)
    path.write_bytes(data[: len(data) // 2])
    edit_card(folder, tensors_sha256=sha256(path))
    with pytest.raises(UserError, match="no safetensors file"):
        TrainedModel.load(folder)


def edit_tensors(folder, change):
    """Change tensors and let the card's checksum agree, as a careful forger would."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    edit_card(folder, tensors_sha256=sha256(folder / "model.safetensors"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_numbers(folder, value):
    name = next(iter(dict(networks.build("mace").named_parameters())))

    def spoil(tensors):
        tensors[name].view(-1)[0] = value

    edit_tensors(folder, spoil)
    with pytest.raises(UserError, match=f"{name} holds numbers that are not finite"):
        TrainedModel.load(folder)


def test_weights_of_another_type(folder):
    def spoil(tensors):
        tensors["reference_energies"] = tensors["reference_energies"].float()

    edit_tensors(folder, spoil)
    with pytest.raises(UserError, match="reference_energies is float32, its card describes float64"):
        TrainedModel.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "nequip"}, "known are mace"),
        ({"family": "painn"}, "does not describe a painn model"),
        ({"schema": 99}, "schema 99"),
        ({"hyperparameters": {"num_channels": 0}}, "does not describe a mace model"),
        ({"species": {"labels": [8]}}, "does not describe a mace model"),
        ({"redox": None}, "does not describe a mace model"),
    ],
)
def test_card_of_something_else(folder, changes, message):
    edit_card(folder, **changes)
    with pytest.raises(UserError, match=message):
        TrainedModel.load(folder)


def test_tensors_of_another_network(folder):
    card = json.loads((folder / "card.json").read_text())
    edit_card(folder, hyperparameters={**card["hyperparameters"], "num_channels": 8})
    with pytest.raises(UserError, match="does not fit the mace model"):
        TrainedModel.load(folder)


def test_truncated_card(folder):
    path = folder / "card.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(UserError, match="not valid JSON"):
        TrainedModel.load(folder)
    path.write_text("[1, 2]")
    with pytest.raises(UserError, match="not the card of a model"):
        TrainedModel.load(folder)
    path.write_text('{"family": "mace"}')
    with pytest.raises(UserError, match="not the card of a model"):
        TrainedModel.load(folder)


# Predictions ------------------------------------------------------------------------------------


def test_batches_do_not_matter(labelled):
    atoms = [olivine(filled=filled, seed=filled) for filled in (0, 1, 2, 3, 4)]
    together = labelled.predict(atoms, assign="search", batch_size=3, stress=True)
    for item, prediction in zip(atoms, together, strict=True):
        [alone] = labelled.predict([item], assign="search", stress=True)
        assert prediction.energy == pytest.approx(alone.energy, abs=SAME)
        assert np.allclose(prediction.forces, alone.forces, atol=SAME)
        assert np.allclose(prediction.stress, alone.stress, atol=SAME)
        assert prediction.embeddings.shape == (len(item), 2)
        assert np.array_equal(prediction.embeddings[:, 1], labelled.structure(item, "search").species)
    assert labelled.predict([]) == []
    assert labelled.predict([atoms[0]], assign="search")[0].stress is None


def test_errors_name_the_structure(labelled):
    good = olivine(filled=4)
    label(good, [0, 1, 2, 3])
    with pytest.raises(UserError, match="structure 2 of 2"):
        labelled.predict([good, olivine(filled=2)])


def test_an_error_of_a_batch_names_the_structure_whose_it_is(blind, monkeypatch):
    """What only a graph shows, such as an atom without neighbours, is found in batches."""
    structures = [olivine(seed=seed) for seed in range(5)]
    lonely = structures[3].positions

    def evaluate(items, *, stress):
        if any(np.array_equal(item.positions, lonely) for item in items):
            raise UserError("atom 0 (Na) has no neighbour")
        return whole(items, stress=stress)

    whole = blind.evaluate
    monkeypatch.setattr(blind, "evaluate", evaluate)
    for size in (1, 2, 16):
        with pytest.raises(UserError, match=r"structure 4 of 5: atom 0 \(Na\) has no neighbour"):
            blind.predict(structures, batch_size=size)
    assert len(blind.predict(structures[:3])) == 3


@pytest.mark.parametrize("change", ["molecule", "slab", "nan"])
def test_only_sound_crystals(blind, change):
    atoms = olivine()
    if change == "molecule":
        atoms = Atoms("O2", [[0, 0, 0], [0, 0, 1.2]])
    elif change == "slab":
        atoms.pbc = (True, True, False)
    else:
        atoms.positions[3, 1] = np.nan
    with pytest.raises(UserError, match="not finite" if change == "nan" else "not periodic"):
        blind.predict([atoms])


def test_unknown_element(blind):
    atoms = olivine()
    atoms.numbers[0] = 25
    with pytest.raises(UserError, match="Mn"):
        blind.predict([atoms])


# Moments ----------------------------------------------------------------------------------------


def test_moments_are_magnitudes_whatever_the_sign_of_the_head():
    """Of the network and of everything above it."""
    atoms = olivine(filled=2)
    negative = morse_model(moment=-3.6)
    [prediction] = negative.predict([atoms])
    assert np.allclose(prediction.magmoms, 3.6)
    atoms.calc = PotentialCalculator(negative)
    assert np.allclose(atoms.get_magnetic_moments(), 3.6)


# Stress and identity -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("init", "training", "heads"),
    [
        ("scratch", networks.learnt("energy", "forces"), set()),
        ("scratch", networks.learnt("energy", "charges"), {"charges"}),
        ("scratch", networks.learnt("magmoms", "charges") | {"steps": 0}, set()),
        ("pretrained", networks.learnt("energy", "forces"), {"magmoms", "charges"}),  # shipped with them
    ],
)
def test_only_a_learned_head_predicts(init, training, heads):
    """What the head of a random network gives passes for an error of 1.5 muB, or for charge states."""
    potential = networks.build("cpainn")
    model = TrainedModel(potential, networks.card("cpainn", potential, init=init, training=training))
    assert model.predicts == heads
    [found] = model.predict([olivine()])
    assert {name for name in ("magmoms", "charges") if getattr(found, name) is not None} == heads
    assert set(PotentialCalculator(model).implemented_properties) & {"magmoms", "charges"} == heads


LEARNED = networks.learnt("energy", "stress")
TERM = {"loss": [{"label": "energy"}, {"label": "stress"}]}


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({}, False),
        ({"training": networks.learnt("energy")}, False),
        ({"training": networks.learnt("energy") | {"settings": TERM}}, False),  # no step met a stress
        ({"training": LEARNED}, True),
        ({"training": LEARNED | {"steps": 0}}, False),
        ({"init": "pretrained", "training": {"steps": 0}}, True),
        ({"init": "pretrained", "training": networks.learnt()}, False),
    ],
)
def test_only_a_learned_stress_is_handed_out(changes, given):
    """Shipped weights have learned it; a training without a stress term forgets it."""
    model = morse_model()
    model.allow_untrained_stress = False
    model.card |= changes
    if given:
        assert model.predict([olivine()], stress=True)[0].stress.shape == (3, 3)
    else:
        with pytest.raises(UserError, match="model morse was trained without stress and gives none"):
            model.predict([olivine()], stress=True)
        assert model.predict([olivine()])[0].stress is None
