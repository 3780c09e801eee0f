"""Every family in the registry keeps the contract; the checks notice an adapter that does not."""

import networks
import numpy as np
import pytest
import torch

from workflow_lib.models.contract import Structure
from workflow_lib.models.hyperparameters import PainnHyperparameters
from workflow_lib.models.painn import PainnPotential
from workflow_lib.models.registry import FAMILIES
from workflow_lib.models.testing import POTENTIAL_CHECKS, Subject, check_potential, evaluate, structure
from workflow_lib.models.trained import TrainedModel


@pytest.mark.parametrize("check", POTENTIAL_CHECKS, ids=lambda check: check.__name__[6:])
@pytest.mark.parametrize("family", FAMILIES)
def test_contract(family, check):
    check(Subject.of(family, **networks.SMALL[family]))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_registry_says_what_the_adapter_predicts(family):
    entry = FAMILIES[family]
    assert entry.load().family == family
    assert entry.load().predicts == entry.predicts


@pytest.mark.parametrize("family", FAMILIES)
def test_save_and_load(family, tmp_path):
    """A loaded model answers bit for bit what the saved one answered."""
    potential, item = networks.build(family), structure(filled=2)
    with torch.no_grad():  # weights no seed would give
        for parameter in potential.parameters():
            parameter.mul_(1.01)
    before = evaluate(potential, item)
    TrainedModel(potential, networks.card(family, potential)).save(tmp_path)
    after = evaluate(TrainedModel.load(tmp_path).potential, item)
    for key, value in before.items():
        assert torch.equal(after[key], value), key


@pytest.mark.parametrize("family", FAMILIES)
def test_in_single_precision_a_large_cell_has_the_energy_of_its_parts(family):
    """Energies are compared across cells: the sum over 1,664 atoms may lose no digits that one cell has."""
    potential = networks.build(family, dtype="float32")
    # Without the energies of the species, which are summed in double precision anyway.
    potential.set_reference_energies(dict.fromkeys(potential.species.labels, 0.0))
    item, count = structure(filled=2), 4**3
    places = np.array(list(np.ndindex(4, 4, 4))) @ item.cell
    large = Structure(
        np.tile(item.species, count),
        np.tile(item.atomic_numbers, count),
        np.concatenate([item.positions + place for place in places]),
        4 * item.cell,
    )
    one, all_of_them = (float(evaluate(potential, each, stress=False)["energy"]) for each in (item, large))
    assert all_of_them == pytest.approx(count * one, rel=1e-6)


class Broken(PainnPotential):
    """PaiNN that gets one thing wrong."""

    def network(self, batch, *, stress):
        output = super().network(batch, stress=stress)
        self.spoil(output, batch)
        return output


class DoubledForces(Broken):
    def spoil(self, output, batch):
        output["forces"] = 2 * output["forces"]


class CompressionPositive(Broken):
    def spoil(self, output, batch):
        if "stress" in output:
            output["stress"] = -output["stress"]


class SeesItsCompany(Broken):
    def spoil(self, output, batch):
        output["energy"] = output["energy"] + 0.01 * len(output["energy"])


class TiedToTheFrame(Broken):
    def spoil(self, output, batch):
        output["node_embeddings"] = output["node_embeddings"] + batch["positions"][:, :1]


class Mutates(Broken):
    def spoil(self, output, batch):
        batch["positions"] += 1e-3


@pytest.mark.parametrize(
    ("adapter", "noticed_by"),
    [
        (DoubledForces, "check_forces"),
        (CompressionPositive, "check_stress"),
        (SeesItsCompany, "check_batch_equals_single"),
        (TiedToTheFrame, "check_translation"),
        (Mutates, "check_no_mutation"),
    ],
)
def test_a_broken_adapter_is_noticed(adapter, noticed_by):
    subject = Subject(adapter, PainnHyperparameters, small=networks.SMALL["painn"])
    [check] = [check for check in POTENTIAL_CHECKS if check.__name__ == noticed_by]
    with pytest.raises(AssertionError):
        check(subject)


def test_all_failures_are_reported_at_once():
    """By name; and an adapter in order needs no place in the registry."""
    check_potential(Subject(PainnPotential, PainnHyperparameters, small=networks.SMALL["painn"]))
    with pytest.raises(AssertionError, match=r"check_rotation: [\s\S]*check_translation: "):
        check_potential(Subject(TiedToTheFrame, PainnHyperparameters, small=networks.SMALL["painn"]))
