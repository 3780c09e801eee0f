"""The stage from the settings to tables and figures, on toys and on walks that are known."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from moment_calculator import CALCULATOR, perovskite
from pydantic import ValidationError

from workflow_lib.core.errors import BusyError, UserError
from workflow_lib.core.io import write_json
from workflow_lib.lattice.crystal import Crystal
from workflow_lib.lattice.entropy import BOLTZMANN
from workflow_lib.results_reading import read_document, read_table, seal, sealed_files
from workflow_lib.simulation.dynamics.run import OutOfTimeError
from workflow_lib.simulation.dynamics.trajectory import START, Writer
from workflow_lib.stages.dynamics import diffusion_figure, hopping_figure
from workflow_lib.stages.dynamics import run as stage
from workflow_lib.stages.dynamics.run import run_trajectory
from workflow_lib.stages.dynamics.settings import Diffraction, DynamicsSettings, Study, System
from workflow_lib.stages.dynamics.study import run_study

pytestmark = pytest.mark.draws

RUN = {"ensemble": "nvt-langevin", "production_ps": 0.3, "equilibration_ps": 0.04, "record_fs": 4.0}
MOMENTS = {
    "element": "Fe",
    "ligand": "F",
    "cutoff": 2.6,
    "thresholds": (4.0,),
    "states": ("Fe2+", "Fe3+"),
    "interval_ps": 0.1,
}


def study(**changes: object) -> Study:
    values = {
        "name": "toy",
        "potential": CALCULATOR,
        "systems": ({"name": "half", "crystal": perovskite()},),
        "temperatures": (50.0,),
        "start": {"max_steps": 0},
        "run": RUN,
        "moments": MOMENTS,
        "diffraction": {"patterns": 2, "average_ps": 0.1, "radiation": "CoKa1"},
    }
    return Study.model_validate(values | changes)


def run(asked: Study, folder: Path) -> list[Path]:
    made = []
    for job in asked.jobs():
        out = folder / job.id
        run_trajectory(job, seed=3, work=folder / "work" / job.id, out=out, max_wall_s=None)
        made.append(out)
    return made


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dynamics")
    run_study(study(), run(study(), folder), folder / "toy")
    return folder


def test_summary_of_a_trajectory(toy: Path):
    summary = read_document(toy / "toy-half-50k/summary.json", "dynamics")
    assert summary["formula"] == "F54Fe18Na9"
    assert summary["atoms"] == 81
    assert summary["production_ps"] == pytest.approx(0.3)
    assert summary["discarded_ps"] == pytest.approx(0.04)
    assert summary["frames"] == 76
    assert 20 < summary["mean_temperature_k"][0] < 300


def test_only_running_out_of_time_is_tried_again(tmp_path: Path, monkeypatch):
    """A sequence of jobs ends at a fault that the same steps would meet again, until asked anew."""
    [job] = study().jobs()
    said: list[UserError] = [
        OutOfTimeError("4 of 8 steps"),
        BusyError("another works on it"),
        UserError("atoms 1 and 2 are fused"),
    ]
    ends = iter([*said, UserError("fused again")])

    def ending(*_: object, **__: object) -> None:
        raise next(ends)

    monkeypatch.setattr(stage, "run_dynamics", ending)

    def attempt(number: int) -> str:
        with pytest.raises(UserError) as error:
            run_trajectory(job, seed=3, work=tmp_path / "work", out=tmp_path / "out", attempt=number)
        return str(error.value)

    assert [attempt(number) for number in (1, 2, 3)] == [str(error) for error in said]
    for number in (4, 5):  # nothing is run
        assert attempt(number) == "atoms 1 and 2 are fused (an earlier job of this sequence ended so)"
    assert attempt(1) == "fused again"


def test_moments_in_time(toy: Path):
    series = read_table("dynamics/series", toy / "toy")
    assert series["time_ps"].tolist() == pytest.approx([0.048, 0.148, 0.25], abs=0.004)
    # Cold perovskite: every Fe keeps its six F, and its moment follows its Na.
    assert (series["octahedral"] == 18).all()
    assert (series["tetrahedral"] == 0).all()
    assert series["tetrahedral_moment_mub"].isna().all()
    assert (series["count_Fe2+"] + series["count_Fe3+"] == 18).all()
    assert series["energy_mev_ligand"].iloc[0] == 0
    means = series["count_Fe2+"] / 18
    assert (series["moment_mub"] > 3.7 * means + 4.2 * (1 - means)).all()


def test_diffraction_in_time(toy: Path):
    patterns = read_table("dynamics/patterns", toy / "toy")
    assert patterns["time_ps"].unique().tolist() == pytest.approx([0, 0.3])
    peaks = read_table("dynamics/peaks", toy / "toy")
    assert {"peak_15", "peak_18"} <= set(peaks)
    for name in ("moments.svg", "moments.png"):
        assert (toy / "toy" / name).stat().st_size > 5000
    assert "averaged structures (Co K$\\alpha_1$)" in (toy / "toy/moments.svg").read_text()


def test_every_radiation_of_pymatgen_may_be_asked_for():
    from pymatgen.analysis.diffraction.xrd import WAVELENGTHS

    field = Diffraction.model_json_schema()["properties"]["radiation"]
    assert sorted(field["enum"]) == sorted(WAVELENGTHS)


def walks(
    asked: Study,
    folder: Path,
    energy_mev: dict[str, float],
    step: float = 0.15,
    hot: float = 1.0,
    relaxed: bool = True,
) -> list[Path]:
    """Trajectories of Na that hop with an activated rate in a framework at rest.

    Their temperature is ``hot`` times the one that is asked for.
    """
    made = []
    rng = np.random.default_rng(0)
    for job in asked.jobs():
        atoms = job.system.crystal.build(rng)
        mobile = atoms.numbers == 11
        frames = asked.run.frames + 1
        temperature = hot * job.temperature
        length = step * math.exp(-energy_mev[job.system.name] / 2000 / (BOLTZMANN * temperature))
        moves = np.zeros((frames, len(atoms), 3))
        moves[1:, mobile] = rng.normal(0, length, (frames - 1, int(mobile.sum()), 3))
        positions = (atoms.positions + moves.cumsum(axis=0)).astype(np.float32)
        place = folder / "work" / job.id
        header = {"time_step_fs": asked.run.time_step_fs}
        writer = Writer(place, {"model": "walk"}, header)
        atoms.write(place / START, format="extxyz")
        steps = asked.run.steps_per_frame
        content = [
            {
                "step": np.array(frame * steps),
                "energy": np.array([-1.0]),
                "temperature": np.array([temperature]),
                "positions": positions[frame],
            }
            for frame in range(frames)
        ]
        writer.write(content, {}, step=frames * steps, chunks=1, tried=0, accepted=0)
        out = folder / job.id
        summary = {"source": job.id, "trajectory": str(place), "start_converged": relaxed}
        write_json(out / "summary.json", summary)
        seal(out, "dynamics", source=job.id)
        made.append(out)
    return made


def diffusing(**changes: object) -> Study:
    values = {
        "systems": (
            {"name": "fast", "crystal": perovskite(remove=None)},
            {"name": "slow", "crystal": perovskite(remove=None)},
        ),
        "temperatures": (600.0, 900.0, 1200.0),
        "moments": None,
        "diffraction": None,
        "diffusion": {"element": "Na", "site_distance": 0.5, "paper_mev": {"fast": "100"}},
        "run": {"production_ps": 40.0, "record_fs": 100.0, "time_step_fs": 2.0},
    }
    return study(**(values | changes))


def test_activation_of_known_walks(tmp_path: Path):
    asked, known = diffusing(), {"fast": 100.0, "slow": 300.0}
    result = run_study(asked, walks(asked, tmp_path, known), tmp_path / "toy")
    table = read_table("dynamics/diffusion", tmp_path / "toy")
    good = table[table["diffusivity_cm2_s"].notna()]
    assert len(good) >= 5
    for row in good.itertuples():
        length = 0.15 * math.exp(-known[row.system] / 2000 / (BOLTZMANN * row.temperature_k))
        expected = length**2 / (2 * 0.1) * 1e-4
        assert row.diffusivity_cm2_s == pytest.approx(expected, abs=3 * row.diffusivity_error_cm2_s)
    activation = read_table("dynamics/activation", tmp_path / "toy").set_index("system")
    for name, energy in known.items():
        found = activation.loc[name]
        assert found["activation_mev"] == pytest.approx(energy, abs=3 * found["activation_error_mev"])
    assert activation.loc["fast", "paper"] == "100"
    assert result["activation"][0]["temperatures"] == 3
    text = (tmp_path / "toy/diffusion.svg").read_text()
    assert "self-diffusion" in text
    assert "meV" in text


def test_without_a_thermostat_the_measured_temperature_counts(tmp_path: Path, monkeypatch):
    """NVE from a relaxed start has half the temperature at which its velocities were drawn."""
    monkeypatch.setattr(diffusion_figure, "draw", lambda *_, **__: None)
    run = {"ensemble": "nve", "production_ps": 40.0, "record_fs": 100.0, "time_step_fs": 2.0}
    known = {"fast": 100.0, "slow": 200.0}
    twice = diffusing(run=run, temperatures=(1200.0, 1800.0, 2400.0))
    run_study(twice, walks(twice, tmp_path / "nve", known, hot=0.5), tmp_path / "nve/toy")
    same = diffusing()
    run_study(same, walks(same, tmp_path / "nvt", known), tmp_path / "nvt/toy")
    tables = {name: read_table("dynamics/diffusion", tmp_path / name / "toy") for name in ("nve", "nvt")}
    assert set(tables["nve"]["asked_k"]) == {1200.0, 1800.0, 2400.0}
    assert tables["nve"].drop(columns="asked_k").equals(tables["nvt"].drop(columns="asked_k"))
    fits = [read_table("dynamics/activation", tmp_path / name / "toy") for name in ("nve", "nvt")]
    assert fits[0].equals(fits[1])


def test_where_nothing_diffuses_the_figure_says_so(tmp_path: Path):
    asked = diffusing(temperatures=(600.0, 900.0))
    run_study(asked, walks(asked, tmp_path, {"fast": 100.0, "slow": 900.0}, step=0.002), tmp_path / "toy")
    table = read_table("dynamics/diffusion", tmp_path / "toy")
    assert table["diffusivity_cm2_s"].isna().all()
    assert table["reason"].str.contains("hops are too few").all()
    assert read_table("dynamics/activation", tmp_path / "toy")["activation_mev"].isna().all()
    assert "no value" in (tmp_path / "toy/diffusion.svg").read_text()


def test_a_start_that_did_not_relax_is_marked(toy: Path, tmp_path: Path):
    """In the tables and on every figure; nothing is said of starts at rest."""
    note = "start not relaxed: "
    assert f"{note}half, 50 K" in (toy / "toy/moments.svg").read_text()  # no steps were allowed
    asked = diffusing(temperatures=(600.0, 900.0))
    for name, relaxed in (("rests", True), ("moves", False)):
        made = walks(asked, tmp_path / name, {"fast": 100.0, "slow": 300.0}, relaxed=relaxed)
        run_study(asked, made, tmp_path / name / "toy")
        table = read_table("dynamics/diffusion", tmp_path / name / "toy")
        assert set(table["start_status"]) == {"converged" if relaxed else "unconverged"}
        assert (note in (tmp_path / name / "toy/diffusion.svg").read_text()) == (not relaxed)
    asked, what = hops()
    made = hopping_trajectory(asked, what | {"says": {"start_converged": False}}, tmp_path)
    run_study(asked, made, tmp_path / "toy")
    assert read_table("dynamics/hopping", tmp_path / "toy")["start_status"].tolist() == ["unconverged"]
    assert f"{note}half, 50 K" in (tmp_path / "toy/hopping.svg").read_text()


def hops(reduced_below: float | None = None, labels: bool = True) -> tuple[Study, dict]:
    """A study of 40 frames in which one Na hops back and forth, and two Fe near it exchange an electron."""
    asked = study(
        systems=({"name": "half", "crystal": perovskite(remove={"element": "Na", "fraction": 0.5})},),
        moments=None,
        diffraction=None,
        hopping={
            "element": "Fe",
            "mobile": "Na",
            "near": 3.7,
            "window_ps": 0.1,
            "reduced_below": reduced_below,
        },
        run={"production_ps": 4.0, "record_fs": 100.0, "time_step_fs": 2.0},
    )
    return asked, {"labels": labels, "moments": reduced_below is not None}


def hopping_trajectory(asked: Study, what: dict, folder: Path, drift: float = 0.0) -> list[Path]:
    """Frames 10 to 12 and 20 to 22 on another site; the electron goes and comes with the ion.

    All atoms drift by ``drift`` A a frame.
    """
    [job] = asked.jobs()
    atoms = job.system.crystal.build(np.random.default_rng(0))
    crystal = job.system.crystal
    full = crystal.full()
    sites = full.positions[full.numbers == 11]
    taken = atoms.positions[atoms.numbers == 11]
    free = next(site for site in sites if np.linalg.norm(taken - site, axis=1).min() > 1)
    ion = int(np.flatnonzero(atoms.numbers == 11)[0])
    iron = np.flatnonzero(atoms.numbers == 26)

    # The electron moves to the Fe nearest to the ion's new site, from one near its old one.
    def nearest(place: np.ndarray) -> int:
        from ase.geometry import get_distances

        _, distance = get_distances(place[None], atoms.positions[iron], cell=atoms.cell, pbc=True)
        return int(iron[distance[0].argmin()])

    away = {10, 11, 12, 20, 21, 22}
    steps, frames = asked.run.steps_per_frame, []
    for frame in range(asked.run.frames + 1):
        positions = atoms.positions.copy()
        here = nearest(atoms.positions[ion])
        if frame in away:
            positions[ion], here = free, nearest(free)
        positions += drift * frame
        states = np.where(atoms.numbers == 26, 3, 0)
        states[here] = 2
        if "states" in what:
            states[iron] = what["states"]
        content = {
            "step": np.array(frame * steps),
            "energy": np.array([-1.0]),
            "temperature": np.array([job.temperature]),
            "positions": positions.astype(np.float32),
        }
        if what["labels"]:
            content["oxidation_states"] = states.astype(np.int8)
        if what["moments"]:
            content["magmoms"] = np.where(states == 2, 3.7, 4.3).astype(np.float32)
        frames.append(content)
    atoms.set_cell(atoms.cell * atoms.cell.handedness)  # as the run writes it
    place = folder / "work" / job.id
    writer = Writer(place, {"model": "hops"}, {"time_step_fs": asked.run.time_step_fs})
    atoms.write(place / START, format="extxyz")
    writer.write(frames, {}, step=len(frames) * steps, chunks=1, tried=30, accepted=4)
    out = folder / job.id
    summary = {"source": job.id, "trajectory": str(place), "start_converged": True}
    write_json(out / "summary.json", summary | what.get("says", {}))
    seal(out, "dynamics", source=job.id)
    return [out]


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


def test_ions_that_start_on_no_site(tmp_path: Path):
    """The trajectory of another crystal than that of the configuration: its ions are on no site of it."""
    asked, what = hops()
    folders = hopping_trajectory(asked, what, tmp_path)
    sites = list(perovskite()["sites"])
    sites[0] = {"element": "Na", "position": (0.5, 0.5, 0.25)}
    with pytest.raises(UserError, match=r"toy-half-50k, Na: ion \d+ begins .* beyond reach \(1 A\)"):
        run_study(of_crystal(asked, sites=tuple(sites)), folders, tmp_path / "toy")


@pytest.mark.parametrize("reduced", ["below", "above"])
def test_the_reduced_state_is_on_the_side_that_is_named(reduced: str, tmp_path: Path, monkeypatch):
    """Moments of V3+ are larger than those of V4+, of Fe2+ smaller than of Fe3+."""
    monkeypatch.setattr(hopping_figure, "draw", lambda *_, **__: None)
    asked, what = hops(4.0, labels=False)
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
    old = hopping_trajectory(asked, what, tmp_path / "old")
    with pytest.raises(UserError, match=f"all Fe are {state}\\+.* run `workflow-lib dynamics` again"):
        run_study(asked, old, tmp_path / "toy")
    given = hopping_trajectory(asked, what | {"says": {"reduced": {"Fe": 2}}}, tmp_path / "new")
    run_study(asked, given, tmp_path / "toy")
    [row] = read_table("dynamics/hopping", tmp_path / "toy").to_dict("records")
    assert (row["electrons"], row["electron_hops"]) == (electrons, 0)
    other = hopping_trajectory(asked, what | {"says": {"reduced": {"Mn": 2}}}, tmp_path / "other")
    with pytest.raises(UserError, match="are those of Mn"):
        run_study(asked, other, tmp_path / "toy")


def test_a_study_leaves_nothing_of_what_it_read_before(tmp_path: Path, monkeypatch):
    """Hops are taken out of the configuration: their tables go, and the seal no longer names them."""
    for figure in (diffusion_figure, hopping_figure):
        monkeypatch.setattr(figure, "draw", lambda *_, **__: None)
    asked, what = hops()
    both = asked.model_copy(update={"diffusion": diffusing().diffusion})
    folders, out = hopping_trajectory(both, what, tmp_path), tmp_path / "toy"
    run_study(both, folders, out)
    (out / "hopping.svg").write_text("<svg/>")
    (out / "mine.txt").write_text("of the user")
    run_study(both.model_copy(update={"hopping": None}), folders, out)
    left = {path.name for path in out.iterdir()}
    sealed = {path.name for path in sealed_files(out / "dynamics-study.sha256.json")}
    assert sealed == {"study.json", "msd.csv", "diffusion.csv", "activation.csv"}
    assert left == sealed | {"dynamics-study.sha256.json", "mine.txt"}


def test_a_model_without_charges_has_ions_alone(tmp_path: Path):
    asked, what = hops(labels=False)
    run_study(asked, hopping_trajectory(asked, what, tmp_path), tmp_path / "toy")
    [row] = read_table("dynamics/hopping", tmp_path / "toy").to_dict("records")
    assert row["electrons"] == 0
    assert row["ion_hops"] == 4
    assert math.isnan(row["correlation"])
    assert "says nothing of" in (tmp_path / "toy/hopping.svg").read_text()


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


def test_a_system_may_have_temperatures_of_its_own(tmp_path: Path):
    asked = diffusing(
        systems=(
            {"name": "fast", "crystal": perovskite(remove=None)},
            {"name": "slow", "crystal": perovskite(remove=None), "temperatures": (1200.0,)},
        ),
    )
    assert [job.id for job in asked.jobs()][2:] == ["toy-fast-1200k", "toy-slow-1200k"]
    run_study(asked, walks(asked, tmp_path, {"fast": 100.0, "slow": 300.0}), tmp_path / "toy")
    activation = read_table("dynamics/activation", tmp_path / "toy").set_index("system")
    assert activation.loc["fast", "temperatures"] == 3
    assert math.isnan(activation.loc["slow", "activation_mev"])


def test_a_missing_trajectory_is_named(toy: Path, tmp_path: Path):
    with pytest.raises(UserError, match="toy-half-50k are missing"):
        run_study(study(), [], tmp_path / "toy")
    with pytest.raises(UserError, match="does not exist"):
        run_study(study(), [tmp_path / "toy-half-50k"], tmp_path / "toy")
    assert not (tmp_path / "toy").exists()


def test_questions_without_an_answer(toy: Path, tmp_path: Path):
    folders = [toy / "toy-half-50k"]
    with pytest.raises(UserError, match="holds no Mn"):
        run_study(study(moments=MOMENTS | {"element": "Mn"}), folders, tmp_path / "toy")
    lithium = study(moments=None, diffraction=None, diffusion={"element": "Li", "site_distance": 1.0})
    with pytest.raises(UserError, match="holds no Li"):
        run_study(lithium, folders, tmp_path / "toy")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"temperatures": (0.0,)}, "greater than or equal to 1"),
        ({"temperatures": (1e5,)}, "less than or equal to 10000"),
        ({"temperatures": (300.0, 300.0)}, "each may stand once"),
        ({"temperatures": (300.0, 400.0)}, "follow one trajectory"),
        ({"moments": None, "diffusion": {"element": "Na", "site_distance": 1.0}}, "give moments"),
        ({"moments": None, "diffraction": None}, "nothing is read"),
        ({"moments": MOMENTS | {"states": ("one",)}}, "1 thresholds divide 2"),
        ({"moments": MOMENTS | {"thresholds": (4.0, 3.0), "states": ("a", "b", "c")}}, "ascending"),
        ({"moments": MOMENTS | {"element": "Qq"}}, "Qq"),
        ({"diffraction": {"radiation": "CuK"}}, "'CuKa', "),
        ({"diffraction": {"peaks": (18.0, 61.0)}}, "61 degrees is outside the patterns"),
        ({"run": RUN | {"ensemble": "nve", "exchange_every": 10}}, "exchange_every: nve keeps the energy"),
        (
            {"hopping": {"element": "Fe", "mobile": "Na", "reduced_below": 4.0, "reduced_above": 3.0}},
            "reduced_above: give one",
        ),
    ],
)
def test_settings_that_contradict(changes: dict, words: str):
    with pytest.raises(ValidationError, match=words):
        study(**changes)


def test_stage_settings():
    with pytest.raises(ValidationError, match="is used twice"):
        DynamicsSettings.model_validate({"studies": (study().model_dump(), study().model_dump())})
    with pytest.raises(ValidationError, match="max_wall_hours"):
        DynamicsSettings.model_validate({"studies": (study().model_dump(),), "jobs": 3})
    both = DynamicsSettings.model_validate({"studies": (diffusing().model_dump(),)})
    assert [job.id for job in both.trajectories()][:2] == ["toy-fast-600k", "toy-fast-900k"]
    assert pd.Series([job.id for job in both.trajectories()]).is_unique
