"""The start of a study: written down every few steps, gone on with after a kill to the same numbers."""

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

from workflow_lib.core.errors import UserError
from workflow_lib.models.outside import load_predictor
from workflow_lib.models.predictor import Predictor
from workflow_lib.models.testing import olivine
from workflow_lib.simulation import relaxation, start
from workflow_lib.simulation.settings import StartSettings


@pytest.fixture(scope="module")
def model() -> Predictor:
    return load_predictor("ase.calculators.emt:EMT", "cpu")


def crystal():
    atoms = bulk("Cu", cubic=True) * 2
    atoms.rattle(0.2, seed=3)
    return atoms


def relaxed(model: Predictor, path: Path, **changes):
    settings = StartSettings.model_validate({"fmax": 0.02, "max_steps": 60, "cell": False} | changes)
    return start.relaxed_start(model, crystal(), settings, identity="emt", path=path, title="copper")


@pytest.fixture(autouse=True)
def short_legs(monkeypatch):
    monkeypatch.setattr(start, "LEG", 8)


def test_a_killed_relaxation_goes_on_to_the_same_numbers(model, tmp_path, monkeypatch):
    whole = relaxed(model, tmp_path / "whole.extxyz")
    assert whole.info["converged"] and whole.info["steps"] > 2 * start.LEG
    plain, legs = relaxation.relax, []

    def dying(*arguments, **named):
        if len(legs) == 2:
            raise KeyboardInterrupt
        legs.append(named["max_steps"])
        return plain(*arguments, **named)

    monkeypatch.setattr(relaxation, "relax", dying)
    with pytest.raises(KeyboardInterrupt):
        relaxed(model, tmp_path / "killed.extxyz")
    legs.clear()
    monkeypatch.setattr(relaxation, "relax", lambda *a, **n: legs.append(n["max_steps"]) or plain(*a, **n))
    resumed = relaxed(model, tmp_path / "killed.extxyz")
    assert len(legs) == -(-whole.info["steps"] // start.LEG) - 2  # the first two were not done again
    assert (tmp_path / "killed.extxyz").read_bytes() == (tmp_path / "whole.extxyz").read_bytes()
    np.testing.assert_array_equal(resumed.positions, whole.positions)
    assert resumed.info["steps"] == whole.info["steps"]


def test_what_is_finished_is_not_touched_and_what_is_of_another_start_is_made_again(model, tmp_path):
    path = tmp_path / "start.extxyz"
    relaxed(model, path)
    before = path.stat().st_mtime_ns
    relaxed(model, path)
    assert path.stat().st_mtime_ns == before
    tighter = relaxed(model, path, fmax=0.005)
    assert tighter.info["fmax"] < 0.005 and path.stat().st_mtime_ns > before


def test_steps_end_where_they_are_told_to(model, tmp_path, capsys):
    found = relaxed(model, tmp_path / "start.extxyz", max_steps=11)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("copper: relaxing the start ended after 11 steps without rest")
    relaxed(model, tmp_path / "rests.extxyz")
    relaxed(model, tmp_path / "given.extxyz", max_steps=0)
    assert "without rest" not in capsys.readouterr().err  # at rest, or as asked for
    assert found.info["steps"] == 11 and not found.info["converged"]
    assert relaxed(model, tmp_path / "start.extxyz", max_steps=11).info["steps"] == 11


def test_no_steps_leave_the_structure_as_it_is(model, tmp_path):
    found = relaxed(model, tmp_path / "start.extxyz", max_steps=0)
    np.testing.assert_array_equal(found.positions, crystal().positions)


def test_what_other_code_relaxed_is_relaxed_again_unless_it_was_used(model, tmp_path, monkeypatch):
    path = tmp_path / "start.extxyz"
    first = relaxed(model, path)
    monkeypatch.setattr(start, "code_checksum", lambda *_: "another")
    before = path.stat().st_mtime_ns
    settings = StartSettings.model_validate({"fmax": 0.02, "max_steps": 60, "cell": False})
    begun = start.relaxed_start(
        model, crystal(), settings, identity="emt", path=path, title="copper", begun=True
    )
    assert path.stat().st_mtime_ns == before
    np.testing.assert_array_equal(begun.positions, first.positions)
    relaxed(model, path)
    assert path.stat().st_mtime_ns > before


def test_other_charge_states_are_another_start(model, tmp_path):
    path = tmp_path / "start.extxyz"
    settings = StartSettings.model_validate({"fmax": 0.02, "max_steps": 0, "cell": False})
    times = []
    for states in ([2, 3], [2, 3], [3, 2]):
        atoms = crystal()
        atoms.set_array("oxidation_states", np.resize(states, len(atoms)))
        found = start.relaxed_start(model, atoms, settings, identity="emt", path=path, title="copper")
        times.append(found.arrays["oxidation_states"][0])
    assert times == [2, 2, 3]


def test_a_start_that_something_began_from_is_not_made_of_something_else(model, tmp_path):
    """The trajectory would be refused, after its start was gone."""
    path = tmp_path / "start.extxyz"
    relaxed(model, path)
    before = path.read_bytes()
    settings = StartSettings.model_validate({"fmax": 0.005, "max_steps": 60, "cell": False})
    with pytest.raises(
        UserError, match=r"start.extxyz is the start of a trajectory and was made of another"
    ):
        start.relaxed_start(
            model, crystal(), settings, identity="emt", path=path, title="copper", begun=True
        )
    assert path.read_bytes() == before


def test_charge_states_are_searched_once(labelled, tmp_path, monkeypatch):
    """Two orders with one energy: noise may choose the other one in the next job of a sequence."""
    path, atoms = tmp_path / "start.extxyz", olivine(filled=2)
    orders = labelled.candidates(atoms, "search")
    assert len(orders) == 6

    def begin(found: int, of=atoms, **changes: object) -> np.ndarray:
        monkeypatch.setattr(labelled, "choose", lambda *_: orders[found])
        settings = StartSettings.model_validate({"max_steps": 2, "cell": False} | changes)
        begun = start.relaxed_start(labelled, of, settings, identity="morse", path=path, title="olivine")
        return begun.arrays["oxidation_states"]

    np.testing.assert_array_equal(begin(4), orders[4])
    np.testing.assert_array_equal(begin(1), orders[4])
    np.testing.assert_array_equal(begin(1, max_steps=3), orders[1])  # another start, which is searched for
    given = atoms.copy()
    given.set_array("oxidation_states", orders[2])
    np.testing.assert_array_equal(begin(2, given, max_steps=3), orders[2])
