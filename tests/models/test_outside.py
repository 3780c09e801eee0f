"""Shipped weights by name, calculators of ASE by import path, and the protocol they share."""

import sys
from importlib.util import spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from morse_potential import label, morse_model
from networks import build, card

from workflow_lib.core.errors import UserError
from workflow_lib.models import outside
from workflow_lib.models.outside import AsePredictor, import_calculator, load_predictor
from workflow_lib.models.outside_settings import OutsideModel, module_files
from workflow_lib.models.testing import check_predictor, olivine
from workflow_lib.models.trained import TrainedModel
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


def test_a_structure_that_was_refused_is_refused_again():
    """EMT checks elements only where they changed since its last call, and calculates what it then has."""
    potential = load_predictor("ase.calculators.emt:EMT")
    for _ in range(2):
        with pytest.raises(UserError, match=r"^ase\.calculators\.emt:EMT cannot calculate it"):
            potential.predict([bulk("Fe")])
    [right] = potential.predict([bulk("Cu")])
    [alone] = load_predictor("ase.calculators.emt:EMT").predict([bulk("Cu")])
    assert right.energy == alone.energy


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


def test_a_calculator_is_also_the_files_that_it_reads(tmp_path, monkeypatch):
    """Weights that are trained again under one path are another potential, whatever they are called."""
    (tmp_path / "of_a_file.py").write_text(
        "from ase.calculators.lj import LennardJones\n"
        "def make(weights):\n"
        "    return LennardJones(rc=float(open(weights).read()))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    arguments = {"weights": str(tmp_path / "weights.txt")}

    def identities(text: str) -> tuple[str, str]:
        Path(arguments["weights"]).write_text(text)
        calculator = import_calculator("of_a_file:make", arguments)
        calculator.parameters = {}  # one that says nothing of what it has read
        model = AsePredictor(calculator, "of_a_file:make", arguments=arguments)
        return model.identity, weights_identity(model)

    first, again, other = identities("6.0"), identities("6.0"), identities("7.0")
    assert first == again and not set(first) & set(other)


def test_files_in_lists_mappings_and_folders_count_too(tmp_path, monkeypatch):
    """A committee of two models, weights in a nested mapping, and a model that is a folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.model", "b.model", "c.model", "saved/variables/index", "saved/graph", "work/log"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    arguments = {
        **{"model_paths": ["a.model", "b.model"], "dtype": "float64", "cutoff": 5.0, "label": ""},
        **{"options": {"weights": "c.model"}, "folder": "saved", "directory": "work", "where": "."},
    }
    model = OutsideModel(name="mine", potential="no.such.module:make", arguments=arguments)
    files = ["a.model", "b.model", "c.model", "saved/graph", "saved/variables/index"]
    assert model.files == files

    def identity() -> str:
        return AsePredictor(EMT(), "ase.calculators.emt:EMT", arguments=arguments).calculator_identity

    first = identity()
    for name in files:
        Path(name).write_text("trained again")
        assert identity() != first
        Path(name).write_text(name)
    Path("work/log").write_text("worked again")
    assert identity() == first


def test_a_pattern_names_files_and_a_long_text_none(tmp_path, monkeypatch):
    """MACE takes a committee by a pattern; a GAP's parameters are a text longer than any file name."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.model", "b.model", "notes", "out.log"):
        Path(name).write_text(name)
    for pattern, found in (
        ("*.model", ["a.model", "b.model"]),
        (str(tmp_path / "[ab].model"), [str(tmp_path / "a.model"), str(tmp_path / "b.model")]),
        ("*", []),
        ("<GAP_params " + 400 * "x" + ">", []),
        ("pair_coeff * * Cu.eam Cu", []),
        ("null\0", []),
    ):
        arguments = {"given": pattern, "log_file": "out.log", "txt": "notes"}
        model = OutsideModel(name="mine", potential="no.such.module:make", arguments=arguments)
        assert model.files == found


def test_parameters_are_known_by_what_they_hold(tmp_path):
    """Not by an address in memory, which is another one in each process, nor by the ends of an array."""

    class Network:
        pass

    def identity(**parameters: object) -> str:
        calculator = EMT()
        calculator.parameters = parameters
        return AsePredictor(calculator, "ase.calculators.emt:EMT").calculator_identity

    one, other = np.zeros(5000), np.zeros(5000)
    other[2500] = 1.0
    assert identity(table=one) == identity(table=one.copy()) != identity(table=other)
    assert identity(tables={"a": [torch.tensor(one)]}) != identity(tables={"a": [torch.tensor(other)]})
    first, second = Network(), Network()
    assert repr(first) != repr(second) and identity(network=first) == identity(network=second)
    assert identity(networks=(first, 1)) == identity(networks=(second, 1)) != identity(networks=(first, 2))


def test_the_module_of_an_editable_package_is_a_file_of_the_user(tmp_path, monkeypatch):
    """It is on no path: a finder of its own, which the installation adds, knows where it lies."""
    file = tmp_path / "source" / "edited.py"
    file.parent.mkdir()
    file.write_text("")

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            return spec_from_file_location(name, file) if name == "edited_package" else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert module_files("edited_package:Mine") == [str(file)]


def test_a_module_in_the_working_folder_is_found(tmp_path, monkeypatch):
    """The console script has its own folder on the path, not the one it is started in."""
    (tmp_path / "of_this_folder.py").write_text("from ase.calculators.emt import EMT as Mine\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    assert module_files("of_this_folder:Mine") == ["of_this_folder.py"]
    assert isinstance(import_calculator("of_this_folder:Mine"), EMT)


def test_a_calculator_is_also_the_module_of_the_user_that_makes_it(tmp_path, monkeypatch):
    """Other weights in a module under one path are another potential, which no version tells."""
    package = tmp_path / "of_the_user"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    path = "of_the_user.potential:make"

    def identities(cutoff: float) -> tuple[str, str]:
        (package / "potential.py").write_text(
            "from ase.calculators.lj import LennardJones\n"
            "def make():\n"
            f"    return LennardJones(rc={cutoff})\n"
        )
        calculator = import_calculator(path)
        calculator.parameters = {}  # as one that wraps a network has none
        return AsePredictor(calculator, path).identity, weights_identity(AsePredictor(calculator, path))

    first, again, other = identities(6.0), identities(6.0), identities(7.0)
    assert first == again and not set(first) & set(other)
    # Snakemake watches the same file; what is installed has a version, and what is nowhere has nothing.
    own = ["of_the_user/__init__.py", "of_the_user/potential.py"]
    assert module_files(path) == own
    (tmp_path / "weights.txt").touch()
    model = OutsideModel(name="mine", potential=path, arguments={"weights": "weights.txt"})
    assert model.files == [*own, "weights.txt"]
    (package / "network.py").write_text("cutoff = 5.0\n")  # which the other one may import
    wider = AsePredictor(import_calculator(path), path).calculator_identity
    (package / "network.py").write_text("cutoff = 6.0\n")
    assert AsePredictor(import_calculator(path), path).calculator_identity != wider
    assert OutsideModel(name="shipped", potential="chgnet-0.3.0").files == []
    assert module_files("ase.calculators.emt:EMT") == module_files("no.such.module:Name") == []


def test_a_diverged_training_is_said(tmp_path, capsys):
    potential = build("painn")
    TrainedModel(potential, card("painn", potential) | {"status": "diverged"}).save(tmp_path / "lost")
    model = load_predictor(tmp_path / "lost")
    assert "the training ended as diverged; what it predicts means nothing" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"the training of .* ended as diverged"):
        model.origin.require_trained()
