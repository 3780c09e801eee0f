"""Hops of electrons and ions from the settings to tables and figure, on hops that are known."""

import math
from pathlib import Path

import numpy as np
import pytest
from dynamics_toy import hopping_trajectory, hops
from moment_calculator import perovskite

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.crystal import Crystal
from workflow_lib.results_reading import read_table
from workflow_lib.stages.dynamics import hopping_figure, run
from workflow_lib.stages.dynamics.settings import Study, System
from workflow_lib.stages.dynamics.study import run_study

pytestmark = pytest.mark.draws


def of_crystal(asked: Study, **crystal: object) -> Study:
    """The same study of another crystal."""
    return Study.model_validate(
        asked.model_dump() | {"systems": ({"name": "half", "crystal": perovskite(**crystal)},)}
    )


def test_ions_on_the_sites_of_added_ones(tmp_path: Path, monkeypatch):
    """Added Na stand on edges of the cube, which are sites as its corners are: each ion has its own."""
    monkeypatch.setattr(hopping_figure, "draw", lambda *_, **__: None)
    asked, what = hops()
    edges = {"site": {"element": "Na", "position": (0.5, 0.0, 0.0)}, "count": 4}
    asked = of_crystal(asked, remove=None, stuff=edges)
    assert (asked.systems[0].crystal.full().numbers == 11).sum() == 18 + 3 * 18
    run_study(asked, hopping_trajectory(asked, what, tmp_path), tmp_path / "toy")
    [row] = read_table("dynamics/hopping", tmp_path / "toy").to_dict("records")
    assert (row["ions"], row["ion_hops"]) == (22, 4)
    occupation = read_table("dynamics/occupation", tmp_path / "toy").filter(like="ion_")
    assert (occupation.nunique(axis=1) == 22).all()


@pytest.mark.parametrize("hand", [1, -1])
def test_the_hand_of_a_cell_moves_no_site(hand: int, tmp_path: Path, monkeypatch):
    """The run turns a left-handed cell round, and its sites with it."""
    monkeypatch.setattr(hopping_figure, "draw", lambda *_, **__: None)
    asked, what = hops()
    half = {"element": "Na", "fraction": 0.5}
    shifted = asked.systems[0].crystal.unit()
    shifted.translate([0.7, 0.5, 0.4])  # off the centres of inversion
    shifted.set_cell(hand * shifted.cell)
    shifted.write(tmp_path / "crystal.extxyz")
    file = {"file": str(tmp_path / "crystal.extxyz"), "repeat": (3, 3, 2), "remove": half}
    asked = asked.model_copy(update={"systems": (System(name="half", crystal=Crystal(**file)),)})
    run_study(asked, hopping_trajectory(asked, what, tmp_path), tmp_path / "toy")
    [row] = read_table("dynamics/hopping", tmp_path / "toy").to_dict("records")
    assert (row["ions"], row["ion_hops"]) == (9, 4)


def test_a_file_that_is_partly_empty_already_has_no_free_site(tmp_path: Path):
    """Its vacancies are no sites that are known: ions that hopped into one were said to stay for ever."""
    asked, what = hops()
    folders = hopping_trajectory(asked, what, tmp_path)
    half = asked.systems[0].crystal.build(np.random.default_rng(0))
    half.write(tmp_path / "half.extxyz")
    crystal = Crystal(file=str(tmp_path / "half.extxyz"))
    asked = asked.model_copy(update={"systems": (System(name="half", crystal=crystal),)})
    with pytest.raises(UserError, match="toy-half-50k: 9 Na on 9 sites of the crystal have no free one"):
        run_study(asked, folders, tmp_path / "toy")
    with pytest.raises(UserError, match="take ions out with remove"):
        run.run_trajectory(asked.jobs()[0], seed=0, work=tmp_path / "steps", out=tmp_path / "out")


def test_ions_that_start_on_no_site(tmp_path: Path):
    """The trajectory of another crystal than that of the configuration: its ions are on no site of it."""
    asked, what = hops()
    folders = hopping_trajectory(asked, what, tmp_path)
    sites = list(perovskite()["sites"])
    sites[0] = {"element": "Na", "position": (0.5, 0.5, 0.25)}
    with pytest.raises(UserError, match=r"toy-half-50k, Na: ion \d+ begins .* beyond reach \(1 A\)"):
        run_study(of_crystal(asked, sites=tuple(sites)), folders, tmp_path / "toy")


@pytest.mark.parametrize("up", [1, -1])
@pytest.mark.parametrize("reduced", ["below", "above"])
def test_the_reduced_state_is_on_the_side_that_is_named(reduced: str, up: int, tmp_path: Path, monkeypatch):
    """Moments of V3+ are larger than those of V4+, of Fe2+ smaller than of Fe3+, up or down."""
    monkeypatch.setattr(hopping_figure, "draw", lambda *_, **__: None)
    asked, what = hops(4.0, labels=False)
    what["up"] = up
    side = {"reduced_below": None, f"reduced_{reduced}": 4.0}
    asked = asked.model_copy(update={"hopping": asked.hopping.model_copy(update=side)})
    run_study(asked, hopping_trajectory(asked, what, tmp_path), tmp_path / "toy")
    [row] = read_table("dynamics/hopping", tmp_path / "toy").to_dict("records")
    # One Fe has the smaller moment; when it changes places with another, both sides hop.
    assert (row["electrons"], row["electron_hops"]) == ({"below": 1, "above": 17}[reduced], 4)


@pytest.mark.parametrize("reduced_below", [None, 4.0])
def test_electrons_and_ions_hop_together(reduced_below: float | None, tmp_path: Path):
    asked, what = hops(reduced_below, labels=reduced_below is None)
    run_study(asked, hopping_trajectory(asked, what, tmp_path), tmp_path / "toy")
    [row] = read_table("dynamics/hopping", tmp_path / "toy").to_dict("records")
    assert (row["electrons"], row["electron_hops"]) == (1, 4)
    assert (row["ions"], row["ion_hops"]) == (9, 4)
    assert row["electron_stay_ps"] == pytest.approx(40 * 0.1 / 4)
    assert row["ion_stay_ps"] == pytest.approx(9 * 40 * 0.1 / 4)
    assert row["electron_stay_low_ps"] < row["electron_stay_ps"] < row["electron_stay_high_ps"]
    assert row["correlation"] > row["correlation_high"]
    assert row["p_value"] < 0.2
    assert (row["exchanges_tried"], row["exchanges_accepted"]) == (30, 4)
    occupation = read_table("dynamics/occupation", tmp_path / "toy")
    assert occupation["ion_0"].nunique() == 2
    assert occupation.filter(like="reduced_").sum(axis=1).eq(1).all()
    text = (tmp_path / "toy/hopping.svg").read_text()
    assert "residence time" in text


def test_every_ion_near_a_redox_atom_is_near_a_reduced_or_an_oxidised_one(tmp_path: Path, monkeypatch):
    """Each Na has eight Fe at 3.55 A; the electron is beside one that has more of them than the others."""
    monkeypatch.setattr(hopping_figure, "draw", lambda *_, **__: None)
    asked, what = hops()
    folders = hopping_trajectory(asked, what, tmp_path)
    run_study(asked, folders, tmp_path / "toy")
    [row] = read_table("dynamics/hopping", tmp_path / "toy").to_dict("records")
    # One reduced Fe and 17 others in each of 41 frames.
    assert row["near_reduced"] + 17 * row["near_oxidised"] == pytest.approx(9 * 8)
    assert row["near_reduced"] != pytest.approx(row["near_oxidised"], abs=0.1)


def test_hops_are_counted_in_windows_of_the_time_asked_for(tmp_path: Path, monkeypatch):
    """Of 40 steps of 0.1 ps, ten windows of 0.4 ps: chance is told from ten shifts, not from forty."""
    monkeypatch.setattr(hopping_figure, "draw", lambda *_, **__: None)
    found = {}
    for window in (0.1, 0.4):
        asked, what = hops()
        asked = asked.model_copy(update={"hopping": asked.hopping.model_copy(update={"window_ps": window})})
        run_study(asked, hopping_trajectory(asked, what, tmp_path / str(window)), tmp_path / "toy")
        [row] = read_table("dynamics/hopping", tmp_path / "toy").to_dict("records")
        found[window] = row["p_value"]
    assert 40 * found[0.1] == pytest.approx(round(40 * found[0.1]))
    assert 10 * found[0.4] == pytest.approx(round(10 * found[0.4]))
    assert found[0.4] >= 0.1 > found[0.1]


def test_sites_do_not_depend_on_drift_or_on_where_production_begins(tmp_path: Path, monkeypatch):
    """Langevin noise moves the whole crystal while it equilibrates; the sites are those of the start."""
    monkeypatch.setattr(hopping_figure, "draw", lambda *_, **__: None)  # slow, and nothing of it is read
    asked, what = hops()
    late = asked.model_copy(
        update={"run": asked.run.model_copy(update={"equilibration_ps": 0.8, "production_ps": 3.2})}
    )
    tables = {}
    for name, of, drift in (("still", asked, 0.0), ("drifts", asked, 0.2), ("late", late, 0.2)):
        run_study(of, hopping_trajectory(of, what, tmp_path / name, drift), tmp_path / name / "toy")
        tables[name] = read_table("dynamics/occupation", tmp_path / name / "toy").filter(like="ion_")
    assert tables["drifts"].equals(tables["still"])
    assert tables["late"].equals(tables["still"].iloc[8:].reset_index(drop=True))


@pytest.mark.parametrize(("state", "electrons"), [(2, 18), (3, 0)])
def test_a_crystal_of_one_charge_state(state: int, electrons: int, tmp_path: Path, monkeypatch):
    """NaFePO4 is all Fe2+, FePO4 all Fe3+: the rule of the model says which, not the other atoms."""
    monkeypatch.setattr(hopping_figure, "draw", lambda *_, **__: None)
    asked, what = hops()
    what["states"] = state
    run_study(asked, hopping_trajectory(asked, what, tmp_path / "iron"), tmp_path / "toy")
    [row] = read_table("dynamics/hopping", tmp_path / "toy").to_dict("records")
    assert (row["electrons"], row["electron_hops"]) == (electrons, 0)
    other = hopping_trajectory(asked, what | {"says": {"reduced": {"Mn": 2}}}, tmp_path / "other")
    with pytest.raises(UserError, match="are those of Mn"):
        run_study(asked, other, tmp_path / "toy")


def test_a_model_without_charges_has_ions_alone(tmp_path: Path):
    asked, what = hops(labels=False)
    run_study(asked, hopping_trajectory(asked, what, tmp_path), tmp_path / "toy")
    [row] = read_table("dynamics/hopping", tmp_path / "toy").to_dict("records")
    assert row["electrons"] == 0
    assert row["ion_hops"] == 4
    assert math.isnan(row["correlation"])
    text = (tmp_path / "toy/hopping.svg").read_text()
    assert "says nothing of" in text
    assert "no correlation: nothing says which atoms are reduced" in text


def test_hops_that_cannot_be_read(tmp_path: Path):
    asked, _ = hops(4.0)
    given = hopping_trajectory(asked, {"labels": True, "moments": True}, tmp_path / "both")
    with pytest.raises(UserError, match="is given them, leave it out"):
        run_study(asked, given, tmp_path / "toy")
    given = hopping_trajectory(asked, {"labels": False, "moments": False}, tmp_path / "none")
    with pytest.raises(UserError, match="predicts no moments"):
        run_study(asked, given, tmp_path / "toy")
    other = asked.model_copy(update={"hopping": asked.hopping.model_copy(update={"mobile": "Li"})})
    with pytest.raises(UserError, match="holds no Li"):
        run_study(other, given, tmp_path / "toy")
