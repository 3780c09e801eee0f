"""Charge states of structures: given by label or by moments, or searched for, and never guessed."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from morse_potential import label

from workflow_lib.core.errors import UserError
from workflow_lib.frames.labels import ACCEPTED
from workflow_lib.models import given_states
from workflow_lib.models.testing import olivine
from workflow_lib.simulation.calculator import PotentialCalculator

# The same sums in another batch: double precision, some hundred terms.
SAME = 1e-10


def test_given_labels_reach_the_network(labelled):
    atoms = olivine(filled=2)
    states = label(atoms, [0, 3])
    [prediction] = labelled.predict([atoms])
    assert np.array_equal(prediction.oxidation_states, states)
    species = labelled.structure(atoms).species
    assert np.array_equal(species == 31, states == 3)
    label(atoms, [1, 2])
    [other] = labelled.predict([atoms])
    assert abs(other.energy - prediction.energy) > 1e-3


@pytest.mark.parametrize("column", ACCEPTED["magmoms"])
def test_labels_from_moments(labelled, column):
    atoms = olivine(filled=2)
    expected = label(atoms, [1, 2])
    del atoms.arrays["oxidation_states"]
    moments = np.where(expected == 3, 4.28, np.where(expected == 2, -3.65, 0.01))
    atoms.set_array(column, moments)
    assert np.array_equal(labelled.choose(atoms), expected)
    del atoms.arrays[column]
    atoms.calc = SinglePointCalculator(atoms, magmoms=moments)
    assert np.array_equal(labelled.choose(atoms), expected)


@pytest.mark.parametrize("attached", [True, False])
def test_moments_of_one_number_each_decide(labelled, attached):
    """A column as extended XYZ may give it is read; vectors ended in a traceback of numpy."""
    atoms = olivine(filled=2)
    states = label(atoms, [0, 3])
    order = np.where(states == 2, 3.65, np.where(states == 3, -4.28, 0.0))
    del atoms.arrays["oxidation_states"]
    atoms.set_array("magmoms", order[:, None])
    assert np.array_equal(labelled.choose(atoms), states)
    vectors = np.column_stack([0 * order, 0 * order, order])
    del atoms.arrays["magmoms"]
    if attached:
        atoms.calc = SinglePointCalculator(atoms, magmoms=vectors)
    else:
        atoms.set_array("magmoms", vectors)
    with pytest.raises(UserError, match=rf"{3 * len(atoms)} numbers for {len(atoms)} atoms; give one per"):
        labelled.predict([atoms])


def test_a_structure_without_the_redox_element_needs_no_charge_states(labelled):
    atoms = olivine(filled=2)
    del atoms[atoms.numbers == 26]
    [prediction] = labelled.predict([atoms])
    assert prediction.oxidation_states is None
    assert np.array_equal(labelled.structure(atoms).species, atoms.numbers)
    atoms.numbers[0] = 31  # its label is Fe3+, which this atom is not
    with pytest.raises(UserError, match=r"Ga stands for Fe3\+ in a charge-labelled model"):
        labelled.predict([atoms])


def test_moments_between_the_states_are_an_error(labelled):
    atoms = olivine(filled=2)
    atoms.set_array("magmoms", np.where(atoms.numbers == 26, 4.0, 0.0))
    with pytest.raises(UserError, match="do not settle the charge states"):
        labelled.structure(atoms)


def test_initial_moments_decide_nothing(labelled):
    """They are a guess made before a calculation, whatever they look like."""
    atoms = olivine(filled=2)
    states = label(atoms, [0, 3])
    order = np.where(states == 2, 3.65, np.where(states == 3, 4.28, 0.0))
    atoms.set_initial_magnetic_moments(order[::-1])
    assert np.array_equal(labelled.choose(atoms), states)  # labels count
    del atoms.arrays["oxidation_states"]
    with pytest.raises(UserError, match="needs charge states"):
        labelled.predict([atoms])
    with_guess = labelled.choose(atoms, assign="search")
    atoms.set_initial_magnetic_moments(None)
    assert np.array_equal(labelled.choose(atoms, assign="search"), with_guess)
    atoms.set_array("magmoms", order)
    assert np.array_equal(labelled.choose(atoms), states)  # results count


@pytest.mark.parametrize("value", [2.9, np.nan, np.inf, 1e300, 2 + 1j, "two"])
def test_labels_are_whole_numbers(labelled, value):
    atoms = olivine(filled=2)
    kind = {str: object, complex: complex}.get(type(value), float)
    states = label(atoms, [0, 3]).astype(kind)
    states[np.flatnonzero(states == 2)[0]] = value
    atoms.arrays["oxidation_states"] = states
    with pytest.raises(UserError, match="must be whole numbers, "):
        labelled.predict([atoms])


def test_moments_of_a_live_calculator_are_no_data(labelled):
    """The toy predicts 3.6 muB on every Fe, which would read as Fe2+ everywhere: neutral at x = 1."""
    atoms = olivine(filled=4)
    label(atoms, [0, 1, 2, 3])
    atoms.calc = PotentialCalculator(labelled)
    assert np.allclose(atoms.get_magnetic_moments(), 3.6)
    del atoms.arrays["oxidation_states"]
    with pytest.raises(UserError, match="needs charge states"):
        labelled.predict([atoms])
    with pytest.raises(UserError, match="needs charge states"):
        atoms.get_potential_energy()


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (lambda n: np.where(n == 26, 3, 0), "not neutral"),
        (lambda n: np.where(n == 26, 2.5, 0), "whole numbers"),
        (lambda n: np.where(n == 26, 4, 0), "must be 2 or 3"),
        (lambda n: np.where(n == 26, 3, 1), "must be 0"),
    ],
)
def test_wrong_labels(labelled, states, message):
    atoms = olivine(filled=2)
    atoms.set_array("oxidation_states", states(atoms.numbers))
    with pytest.raises(UserError, match=message):
        labelled.predict([atoms])


def test_search_takes_the_best_neutral_assignment(labelled):
    atoms = olivine(filled=2)
    energies = {}
    for reduced in combinations(range(4), 2):
        trial = atoms.copy()
        label(trial, reduced)
        energies[reduced] = labelled.predict([trial])[0].energy
    best = min(energies, key=energies.get)
    with pytest.raises(UserError, match="--assign search"):
        labelled.predict([atoms])
    [found] = labelled.predict([atoms], assign="search", batch_size=4)
    assert found.energy == pytest.approx(energies[best], abs=SAME)
    assert len(set(np.round(list(energies.values()), 6))) > 1
    trial = atoms.copy()
    assert np.array_equal(found.oxidation_states, label(trial, best))
    assert np.array_equal(labelled.structure(atoms, "search").species, labelled.structure(trial).species)
    # Given labels are never overruled.
    label(atoms, max(energies, key=energies.get))
    [kept] = labelled.predict([atoms], assign="search")
    assert kept.energy == pytest.approx(max(energies.values()), abs=SAME)


@pytest.mark.parametrize("lost", [[0], [1], [0, 1, 2, 3, 4], [*range(6)]])
def test_search_passes_over_energies_that_are_not_finite(labelled, monkeypatch, lost):
    evaluate = type(labelled).evaluate

    def broken(self, structures, *, stress=False):
        output = evaluate(self, structures, stress=stress)
        output["energy"][lost] = torch.nan
        return output

    atoms, trial = olivine(filled=2), olivine(filled=2)
    assignments = labelled.candidates(atoms, "search")
    energies = []
    for states in assignments:
        trial.set_array("oxidation_states", states)
        energies.append(labelled.predict([trial])[0].energy)
    monkeypatch.setattr(type(labelled), "evaluate", broken)
    [found] = labelled.predict([atoms], assign="search")
    left = {place: energy for place, energy in enumerate(energies) if place not in lost}
    best = min(left, key=left.__getitem__, default=0)
    assert found.energy == pytest.approx(left.get(best, np.nan), abs=SAME, nan_ok=True)
    assert np.array_equal(found.oxidation_states, assignments[best])


def test_search_has_a_limit(labelled, monkeypatch):
    atoms = olivine(filled=2).repeat((1, 2, 1))
    monkeypatch.setattr(given_states, "MAX_ASSIGNMENTS", comb(8, 4) - 1)
    with pytest.raises(UserError, match="70 neutral assignments"):
        labelled.predict([atoms], assign="search")
    monkeypatch.setattr(given_states, "MAX_ASSIGNMENTS", comb(8, 4))
    labelled.predict([atoms], assign="search")


def test_blind_model_ignores_labels(blind):
    atoms = olivine(filled=2)
    [without] = blind.predict([atoms])
    label(atoms, [0, 1])
    [given] = blind.predict([atoms])
    assert given.energy == without.energy
    assert given.oxidation_states is None and blind.choose(atoms, "search") is None
