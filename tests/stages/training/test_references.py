"""Energies of species where the data cannot tell them apart, and where they can."""

import numpy as np
import pytest

from workflow_lib.models.contract import Species
from workflow_lib.stages.training.references import count_species, fit_references

OX, NA, P, FE, GA, RU = 8, 11, 15, 26, 31, 44
PLAIN = Species((OX, NA, P, FE), {OX: OX, NA: NA, P: P, FE: FE})
LABELLED = Species((OX, NA, P, FE, GA), {OX: OX, NA: NA, P: P, FE: FE, GA: FE})
ZERO = dict.fromkeys(LABELLED.labels, 0.0)
RIDGE = 1e-6
# The ridge holds back eigenvalue/(eigenvalue + ridge) of what the data say: some 1e-6 of tens of eV.
RIDGED = 1e-3


def cell(sodium: int, surrogate: bool, iron: int = 4, neutral: int | None = None) -> np.ndarray:
    """Species of a cell of olivine; one Fe2+ a Na unless ``neutral`` sets their number."""
    reduced = sodium if neutral is None else neutral
    kinds = [FE] * reduced + [GA if surrogate else FE] * (iron - reduced)
    return np.array([NA] * sodium + kinds + [P] * iron + [OX] * 4 * iron)


def test_composition_energies_are_found():
    species = [cell(x, surrogate=False) for x in (0, 1, 2, 3, 4)]
    energies = np.array([-170.0 - 4.4 * x for x in (0, 1, 2, 3, 4)])
    counts = count_species(species, PLAIN.labels)
    found = fit_references(counts, energies, PLAIN, ZERO, RIDGE)
    assert found[NA] == pytest.approx(-4.4, abs=RIDGED)
    predicted = counts @ [found[z] for z in PLAIN.labels]
    assert predicted == pytest.approx(energies, abs=RIDGED)


def test_neutral_data_leave_the_surrogate_at_its_element():
    rng = np.random.default_rng(3)
    sodium = rng.integers(0, 5, 30)
    energies = -170.0 - 4.4 * sodium + rng.normal(0, 0.3, 30)
    found = {}
    for species, labelled in ((PLAIN, False), (LABELLED, True)):
        counts = count_species([cell(x, labelled) for x in sodium], species.labels)
        found[labelled] = fit_references(counts, energies, species, ZERO, RIDGE)
    # The same problem with one column split in two: least squares in double precision.
    assert found[True][GA] == pytest.approx(found[True][FE], abs=1e-9)
    for z in PLAIN.labels:
        assert found[True][z] == pytest.approx(found[False][z], abs=1e-9)


def test_data_that_tell_the_surrogate_apart_move_it():
    # Frames that are not neutral do; no rule lets them through, but other chemistries can.
    pairs = [(x, n) for x in (0, 1, 2, 3, 4) for n in (0, 1, 2, 3, 4)]
    species = [cell(x, True, neutral=n) for x, n in pairs]
    energies = np.array([-170.0 - 4.4 * x + 1.5 * (4 - n) for x, n in pairs])
    counts = count_species(species, LABELLED.labels)
    found = fit_references(counts, energies, LABELLED, ZERO, RIDGE)
    assert found[GA] - found[FE] == pytest.approx(1.5, abs=RIDGED)
    assert counts @ [found[z] for z in LABELLED.labels] == pytest.approx(energies, abs=2e-2)


def test_the_fit_is_drawn_to_the_values_the_model_brings():
    # One composition fixes one number only; the rest stays where it was.
    start = {OX: -4.0, NA: -1.0, P: -5.0, FE: -7.0, GA: -7.0}
    counts = count_species([cell(2, True)] * 3, LABELLED.labels)
    shipped = counts @ [start[z] for z in LABELLED.labels]
    same = fit_references(counts, shipped, LABELLED, start, RIDGE)
    assert same == pytest.approx(start, abs=1e-9)
    shifted = fit_references(counts, shipped + 1.0, LABELLED, start, RIDGE)
    assert max(abs(shifted[z] - start[z]) for z in start) < 1.0
    assert counts @ [shifted[z] for z in LABELLED.labels] == pytest.approx(shipped + 1.0, abs=RIDGED)


def test_both_states_as_surrogates():
    species = Species((NA, GA, RU), {NA: NA, GA: FE, RU: FE})
    counts = np.array([[1.0, 3, 1], [2, 2, 2], [3, 1, 3]])
    energies = np.array([-10.0, -12.0, -14.0])
    found = fit_references(counts, energies, species, dict.fromkeys(species.labels, 0.0), RIDGE)
    assert found[RU] == pytest.approx(found[GA], abs=1e-9)
    assert counts @ [found[z] for z in species.labels] == pytest.approx(energies, abs=RIDGED)
