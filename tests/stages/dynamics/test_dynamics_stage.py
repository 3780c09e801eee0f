"""The stage from the settings to tables and figures, on toys and on walks that are known."""

import math
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from dynamics_toy import MOMENTS, RUN, diffusing, hopping_trajectory, hops, study, walks
from moment_calculator import perovskite
from morse_potential import morse_model
from pydantic import ValidationError
from samples import REFERENCE

from workflow_lib.core.errors import BusyError, UserError
from workflow_lib.lattice.entropy import BOLTZMANN
from workflow_lib.models.testing import olivine
from workflow_lib.results_reading import read_document, read_table, sealed_files
from workflow_lib.simulation.dynamics.run import OutOfTimeError
from workflow_lib.stages.dynamics import diffusion_figure, hopping_figure
from workflow_lib.stages.dynamics import run as stage
from workflow_lib.stages.dynamics.run import run_trajectory
from workflow_lib.stages.dynamics.settings import Diffraction, DynamicsSettings, Study
from workflow_lib.stages.dynamics.study import run_study

pytestmark = pytest.mark.draws


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


def test_the_time_of_a_job_is_that_of_its_start_too(tmp_path: Path, monkeypatch):
    [job] = study().jobs()
    relax, left = stage.relaxed_start, []

    def slow(*arguments, **named):
        time.sleep(0.3)
        return relax(*arguments, **named)

    def ending(*_, max_wall_s: float, **__) -> None:
        left.append(max_wall_s)
        raise OutOfTimeError("0 of 8 steps")

    monkeypatch.setattr(stage, "relaxed_start", slow)
    monkeypatch.setattr(stage, "run_dynamics", ending)
    with pytest.raises(OutOfTimeError):
        run_trajectory(job, seed=3, work=tmp_path / "work", out=tmp_path / "out", max_wall_s=60.0)
    assert left[0] <= 59.7


@pytest.mark.parametrize("remove", [None, {"element": "Na", "fraction": 0.5}])
def test_charge_states_of_the_file_are_used(remove, rule, tmp_path: Path, monkeypatch, capsys):
    """By moments, as `predict` and `relax` take them; the order of lowest energy is another one."""
    model = morse_model(rule.model_dump(mode="json"), REFERENCE)
    monkeypatch.setattr(stage, "load_predictor", lambda *_: model)
    atoms = olivine(filled=2)
    searched = model.choose(atoms, "search")
    given = next(item for item in model.candidates(atoms, "search") if not (item == searched).all())
    moments = np.select([given == 2, given == 3], [3.7, 4.3])
    atoms.calc = SinglePointCalculator(atoms, magmoms=moments)
    atoms.write(tmp_path / "given.extxyz")
    crystal = {"file": str(tmp_path / "given.extxyz"), "repeat": (2, 1, 1), "remove": remove}
    [job] = study(
        systems=({"name": "half", "crystal": crystal},),
        moments=None,
        diffraction=None,
        diffusion={"element": "Na", "site_distance": 3.0},
    ).jobs()
    starts = []

    def ending(_model, starts_with, *_, **__) -> None:
        starts.extend(starts_with)
        raise UserError("enough")

    monkeypatch.setattr(stage, "run_dynamics", ending)
    with pytest.raises(UserError, match="enough"):
        run_trajectory(job, seed=3, work=tmp_path / "work", out=tmp_path / "out")
    states = starts[0].arrays["oxidation_states"]
    said = "moments in .* belong to all of its atoms and are not used"
    if remove is None:
        assert states.tolist() == [*given, *given]
    else:
        assert (states == 2).sum() == 2  # two of four Na are left in eight formula units
    assert bool(re.search(said, capsys.readouterr().err)) == (remove is not None)


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


HOPS = {"element": "Fe", "mobile": "Na"}
BLIND = {"potential": "ase.calculators.lj:LennardJones"}  # without moments


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (BLIND | {"moments": MOMENTS}, "LennardJones predicts no moments; take one that does"),
        ({"moments": MOMENTS | {"element": "Mn"}}, "holds no Mn, whose moments are asked for"),
        ({"moments": MOMENTS | {"ligand": "O"}}, "holds no O, the ligand of Fe"),
        ({"diffusion": {"element": "Li", "site_distance": 1.0}}, "holds no Li, whose diffusion"),
        (
            {"diffusion": {"element": "Na", "site_distance": 1.0}, "run": RUN | {"production_ps": 0.06}},
            "16 frames are too few",
        ),
        ({"hopping": HOPS | {"element": "Mn"}}, "holds no Mn, whose hops"),
        ({"hopping": HOPS | {"mobile": "Li"}}, "holds no Li, whose hops"),
        (BLIND | {"hopping": HOPS | {"reduced_above": 4.0}}, "no moments; leave reduced_above out"),
        ({"hopping": HOPS}, r"toy-half-50k, Na: ion \d+ begins .* beyond reach"),
    ],
)
def test_what_a_trajectory_cannot_answer_is_said_before_its_steps(
    changes: dict, words: str, tmp_path: Path, monkeypatch
):
    asked = {"moments": None, "diffraction": None, "run": RUN | {"production_ps": 3.0}} | changes
    [job] = study(**asked).jobs()
    monkeypatch.setattr(stage, "run_dynamics", lambda *_, **__: pytest.fail("days of steps"))
    relax = stage.relaxed_start

    def moving(*arguments, **named):
        start = relax(*arguments, **named)
        start.positions[start.numbers == 11] += 1.2  # relaxed off the sites
        return start

    monkeypatch.setattr(stage, "relaxed_start", moving)
    with pytest.raises(UserError, match=words) as error:
        run_trajectory(job, seed=3, work=tmp_path / "work", out=tmp_path / "out")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (HOPS | {"reduced_below": 4.0}, "reduced_below is for models that are given no charge states"),
        ({"element": "P", "mobile": "Na"}, "its charge states are those of Fe; ask for their hops"),
    ],
)
def test_questions_of_a_labelled_model(changes: dict, words: str, rule, tmp_path: Path, monkeypatch):
    model = morse_model(rule.model_dump(mode="json"), REFERENCE)
    monkeypatch.setattr(stage, "load_predictor", lambda *_: model)
    sites = list(zip(("Na", "Fe", "P"), ((0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0.0)), strict=True))
    crystal = perovskite(sites=tuple({"element": name, "position": place} for name, place in sites))
    [job] = study(
        systems=({"name": "half", "crystal": crystal},),
        moments=None,
        diffraction=None,
        hopping=changes,
        run=RUN | {"production_ps": 3.0},
    ).jobs()
    with pytest.raises(UserError, match=words):
        run_trajectory(job, seed=3, work=tmp_path / "work", out=tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"temperatures": (0.0,)}, "greater than or equal to 1"),
        ({"temperatures": (1e5,)}, "less than or equal to 10000"),
        ({"temperatures": (300.0, 300.0)}, "each may stand once"),
        ({"temperatures": (300.0, 400.0)}, "follow one trajectory"),
        ({"replicas": 2}, "follow one trajectory"),
        ({"moments": MOMENTS | {"thresholds": ()}}, "0 thresholds divide 1"),
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
        (
            {"hopping": {"element": "Fe", "mobile": "Na", "window_ps": 0.12}},
            r"production_ps \(0.3\) holds 2 windows of 0.12 ps, a correlation needs 3",
        ),
    ],
)
def test_settings_that_contradict(changes: dict, words: str):
    with pytest.raises(ValidationError, match=words):
        study(**changes)


def test_stage_settings():
    with pytest.raises(ValidationError, match="is used twice"):
        DynamicsSettings.model_validate({"studies": (study().model_dump(), study().model_dump())})
    elsewhere = study(temperatures=(999.0,)).model_dump()  # another trajectory, but of the same study
    with pytest.raises(ValidationError, match="is used twice"):
        DynamicsSettings.model_validate({"studies": (study().model_dump(), elsewhere)})
    with pytest.raises(ValidationError, match="max_wall_hours"):
        DynamicsSettings.model_validate({"studies": (study().model_dump(),), "jobs": 3})
    both = DynamicsSettings.model_validate({"studies": (diffusing().model_dump(),)})
    assert [job.id for job in both.trajectories()][:2] == ["toy-fast-600k", "toy-fast-900k"]
    assert pd.Series([job.id for job in both.trajectories()]).is_unique


@pytest.mark.parametrize(("name", "value"), [("record_fs", 200.0), ("time_step_fs", 1.0)])
def test_times_are_those_of_the_trajectory(name: str, value: float, tmp_path: Path):
    """A study that was changed after its trajectories would read their frames at other times."""
    asked = diffusing()
    made = walks(asked, tmp_path, {"fast": 100.0, "slow": 300.0})
    changed = asked.model_copy(update={"run": asked.run.model_copy(update={name: value})})
    with pytest.raises(UserError, match=f"its trajectory was made with {name}: .*, the study says {value}"):
        run_study(changed, made, tmp_path / "toy")
    longer = asked.run.model_copy(update={"equilibration_ps": asked.run.equilibration_ps + 0.1})
    run_study(asked.model_copy(update={"run": longer}), made, tmp_path / "toy")  # only what is analysed
