"""A trained MACE as a file of mace-torch: the same numbers in mace-torch and, where it is, in symmetrix."""

import numpy as np
import pytest
from networks import build, card

from workflow_lib.core.errors import UserError
from workflow_lib.models.mace_upstream import write_upstream
from workflow_lib.models.outside import AsePredictor
from workflow_lib.models.testing import check_predictor, olivine
from workflow_lib.models.trained import TrainedModel

AUTHORS = {
    "interaction_first": "RealAgnosticDensityInteractionBlock",
    "interaction": "RealAgnosticDensityResidualInteractionBlock",
    "distance_transform": "Agnesi",
    "pair_repulsion": True,
    "surrogate_z": "surrogate",
    "max_ell": 3,
    "max_L": 1,
}


@pytest.fixture(autouse=True)
def as_in_a_process_of_upstream(monkeypatch):
    """Importing mace sets this, so that its files can be read: not for the tests that follow."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")


def mace(**values) -> TrainedModel:
    """A small MACE whose constants are not those of a new one."""
    potential = build("mace", **values)
    potential.set_statistics([potential.graph(structure(potential))], forces_rms=0.7)
    found = card("mace", potential)
    found["hyperparameters"] |= values
    return TrainedModel(potential.requires_grad_(False), found, allow_untrained_stress=True)


def structure(potential):
    from workflow_lib.models.contract import Structure

    atoms = plain(2)
    return Structure(atoms.numbers, atoms.numbers, atoms.positions, np.array(atoms.cell))


def plain(filled: int):
    atoms = olivine(filled=filled)
    atoms.arrays.pop("oxidation_states", None)
    return atoms


def same(model, calculator, tolerance):
    for atoms in (plain(2), plain(4)):
        [ours] = model.predict([atoms], stress=True)
        atoms.calc = calculator
        assert ours.energy == pytest.approx(atoms.get_potential_energy(), abs=tolerance)
        assert np.abs(ours.forces).max() > 1e-3
        assert np.allclose(ours.forces, atoms.get_forces(), rtol=0, atol=tolerance)
        assert np.allclose(ours.stress, atoms.get_stress(voigt=False), rtol=0, atol=tolerance)


def test_mace_torch_reads_it(tmp_path):
    from mace.calculators import MACECalculator

    model, path = mace(), tmp_path / "mace.model"
    write_upstream(model, path)
    same(model, MACECalculator(model_paths=str(path), device="cpu", default_dtype="float64"), 1e-8)


def test_symmetrix_is_a_potential_of_the_protocol(tmp_path):
    """Its radial functions are splines: the same within 1e-5, as was asked for."""
    pytest.importorskip("symmetrix", reason="symmetrix-xl is not installed")
    import json

    from symmetrix import Symmetrix
    from symmetrix.extract_mace_data import extract_mace_data

    model, path = mace(**AUTHORS, num_channels=16, correlation=3), tmp_path / "mace.json"
    write_upstream(model, tmp_path / "mace.model")
    path.write_text(json.dumps(extract_mace_data(str(tmp_path / "mace.model"))))
    # Without a compiler at run time.
    calculator = Symmetrix(str(path), dtype="float64", streamed_edges="non-compiled")
    same(model, calculator, 1e-5)
    check_predictor(AsePredictor(calculator, "symmetrix:Symmetrix"), [plain(2), plain(4)])


def test_the_command_writes_it(tmp_path, capsys):
    from mace.calculators import MACECalculator

    from workflow_lib.__main__ import main

    model = mace(**AUTHORS)
    model.save(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "mace.model")]) == 0
    assert capsys.readouterr().out.endswith("mace.model; charge states as atomic numbers 31\n")
    calculator = MACECalculator(str(tmp_path / "mace.model"), device="cpu", default_dtype="float64")
    same(model, calculator, 1e-8)
    assert main(["export", "chgnet-0.3.0", str(tmp_path / "no.model")]) == 2
    assert "chgnet-0.3.0 is no trained mace" in capsys.readouterr().err


def test_what_upstream_cannot_say(tmp_path):
    with pytest.raises(UserError, match="is a painn; only a mace can be"):
        potential = build("painn")
        write_upstream(TrainedModel(potential, card("painn", potential)), tmp_path / "no.model")
    with pytest.raises(UserError, match="surrogate_z: surrogate"):
        write_upstream(mace(**AUTHORS | {"surrogate_z": "physical"}), tmp_path / "no.model")
    assert not list(tmp_path.iterdir())
