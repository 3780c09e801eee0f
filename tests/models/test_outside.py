"""Shipped weights by name, calculators of ASE by import path, and the protocol they share."""

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from morse_potential import label, morse_model

from workflow_lib.core.errors import UserError
from workflow_lib.models import outside
from workflow_lib.models.outside import AsePredictor, import_calculator, load_predictor
from workflow_lib.models.testing import check_predictor, olivine
from workflow_lib.simulation.calculator import PotentialCalculator
from workflow_lib.simulation.dynamics.run import weights_identity
from workflow_lib.simulation.relaxation import relax


def copper(seed=0):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=seed)
    return atoms


def test_a_trained_model_keeps_the_protocol(blind, labelled):
    for model in (blind, labelled):
        model.card["tensors_sha256"] = "0"
    check_predictor(blind, [olivine(filled=2), olivine()])
    atoms = [olivine(filled=2), olivine(filled=3)]
    for item, reduced in zip(atoms, ([0, 3], [0, 1, 2]), strict=True):
        label(item, reduced)
    check_predictor(labelled, atoms)


def test_a_calculator_by_path_is_a_potential():
    potential = load_predictor("ase.calculators.emt:EMT")
    assert potential.level is None and not potential.charge_labelled
    check_predictor(potential, [copper(), copper(1)])
    assert potential.predicts == frozenset()  # EMT names moments that it does not give
    atoms, other = copper(), copper()
    atoms.calc = EMT()
    [prediction] = potential.predict([other], stress=True)
    assert prediction.energy == atoms.get_potential_energy()
    assert np.array_equal(prediction.stress, atoms.get_stress(voigt=False))
    assert other.calc is None
    other.calc = PotentialCalculator("ase.calculators.emt:EMT")
    assert other.get_potential_energy() == atoms.get_potential_energy()
    [relaxed] = relax(potential, [copper()], fmax=0.01, max_steps=200, batch_size=1)
    assert relaxed.status == "converged"
    # EMT's perfect crystal: forces vanish by symmetry, so the rattled one returns to it.
    assert relaxed.energy == pytest.approx(EMT().get_potential_energy(bulk("Cu", cubic=True)), abs=1e-3)


def test_dynamics_know_a_calculator_by_what_it_is_not_by_this_programs_code(monkeypatch):
    """A trajectory of days goes on after an update of the program; caches of energies begin anew."""

    def both(path: str, **arguments: object) -> tuple[str, str]:
        model = AsePredictor(import_calculator(path, arguments), path, arguments=arguments)
        return model.identity, weights_identity(model)

    emt, fixed = both("ase.calculators.emt:EMT"), both("ase.calculators.emt:EMT", asap_cutoff=True)
    lj = both("ase.calculators.lj:LennardJones")
    monkeypatch.setattr(outside, "code_checksum", lambda *_: "another version")
    updated = both("ase.calculators.emt:EMT")
    assert updated[0] != emt[0] and updated[1] == emt[1]
    assert len({emt[1], fixed[1], lj[1]}) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "is no potential: it is no folder"),
        ("no.such.module:Name", "gives no calculator (ModuleNotFoundError"),
        ("ase.calculators.emt:Nothing", "gives no calculator (AttributeError"),
        ("ase.atoms:Atoms", "gives a Atoms, not a calculator of ASE"),
    ],
)
def test_what_is_no_potential_is_refused(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as found:
        load_predictor(name)
    assert message in str(found.value) and "\n" not in str(found.value)


def test_an_element_the_calculator_does_not_know():
    with pytest.raises(UserError, match=r"structure 2 of 2: ase\.calculators\.emt:EMT cannot calculate it"):
        load_predictor("ase.calculators.emt:EMT").predict([bulk("Cu"), bulk("Fe")])


def test_shipped_weights_answer_as_upstream():
    """r2SCAN, whose weights no model trained here starts from."""
    from chgnet.model import CHGNet
    from pymatgen.io.ase import AseAtomsAdaptor

    potential = load_predictor("chgnet-r2scan")
    assert "r2SCAN" in potential.level and potential.predicts == {"magmoms"}
    atoms = olivine(filled=2)
    [ours] = potential.predict([atoms], stress=True)
    upstream = CHGNet.load(model_name="r2scan", use_device="cpu", verbose=False)
    theirs = upstream.predict_structure(AseAtomsAdaptor.get_structure(atoms))
    # float32 on both sides; energies of some -6 eV an atom carry seven digits, and either side's forces
    # of up to 24 eV/A are 1e-4 off those in double precision.
    assert ours.energy / len(atoms) == pytest.approx(float(theirs["e"]), abs=1e-5)
    assert np.allclose(ours.forces, theirs["f"], atol=5e-4)
    assert np.allclose(ours.magmoms, theirs["m"], atol=1e-4)
    assert np.allclose(ours.stress / 0.006241509, theirs["s"], atol=1e-2)  # GPa
    assert potential.identity != load_predictor("chgnet-0.3.0").identity
    assert ours.stress is not None and torch.is_tensor(potential.potential.reference_energies)
    assert morse_model().name == "morse"
