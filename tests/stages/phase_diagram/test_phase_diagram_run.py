"""The whole stage on the embedded DFT states, at the smallest size, and what it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from invented_hosts import magnesium_silicate, oxyfluoride
from pydantic import ValidationError

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.host import Host
from workflow_lib.results_reading import read_document, read_table
from workflow_lib.simulation.settings import RelaxationSettings
from workflow_lib.stages.phase_diagram.diagram import run_diagram, samples_of
from workflow_lib.stages.phase_diagram.replica import run_sample
from workflow_lib.stages.phase_diagram.run import run_fit
from workflow_lib.stages.phase_diagram.settings import PhaseDiagramSettings

SETTINGS = PhaseDiagramSettings.model_validate(
    {
        "systems": [
            {
                "name": "na",
                "potential": "dft",
                "decorated": {"pairs": 3.9},
                "plain": {"pairs": 5.1},
                "experiment": [
                    {"x": [0.1, 0.9], "temperature": 298, "label": "a gap"},
                    {"x": [0.6667], "temperature": 298, "label": "a phase"},
                ],
            }
        ],
        "sampling": {
            "cell": [1, 1, 2],
            "temperatures": [300, 900],
            "mu_step": 0.02,
            "sweeps": 50,
            "ladder_sweeps": 100,
            "replicas": 2,
            "compositions": 4,
            "rungs": 8,
            "hottest": 5000,
            "entropy_x": [0.5],
            "entropy_temperatures": [900],
            "entropy_orders": 1,
        },
    }
)
E_NA = -1.3231


def fit(reference_dir: Path, host: Host, out: Path, settings: PhaseDiagramSettings = SETTINGS) -> Path:
    run_fit(
        system=settings.systems[0],
        host=host,
        settings=settings,
        relaxation=RelaxationSettings(),
        seed=1,
        reference_dir=reference_dir,
        trainings=out.parent,
        cache=out.parent / "relaxations",
        out=out,
    )
    return out


def sample(expansions: Path, host: Host, replica: int) -> Path:
    out = expansions.with_name(f"na-r{replica}")
    run_sample(
        expansions=expansions,
        replica=replica,
        host=host,
        settings=SETTINGS,
        seed=1,
        work=out.parent / "kept",
        out=out,
    )
    return out


@pytest.fixture(scope="module")
def whole(reference_dir: Path, host: Host, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phase_diagram")
    fit(reference_dir, host, folder / "na")
    for replica in (0, 1):
        sample(folder / "na", host, replica)
    diagram(folder, host)
    return folder


def diagram(folder: Path, host: Host, metal: Callable[[str, str], float | None] = lambda *_: E_NA) -> None:
    systems = [folder / "na"]
    run_diagram(
        systems=systems,
        samples=samples_of(systems, SETTINGS),
        hosts={"na": host},
        settings=SETTINGS,
        metal=metal,
        out=folder,
    )


def test_the_sixteen_states_become_two_expansions(whole: Path):
    table = read_table("phase_diagram/fit", whole / "na").set_index("expansion")
    assert table.loc["decorated", "structures"] == 16
    assert table.loc["plain", "structures"] == 7  # arrangements of ions alone
    # Ewald and short pairs describe the charge orders to some meV; formation energies spread over 300.
    assert table.loc["decorated", "rmse_mev_fu"] < 20
    assert table.loc["decorated", "held_out_rmse_mev_fu"] < 80
    assert 3 < table.loc["decorated", "dielectric"] < 30  # of an oxide at high frequency: around 5 to 10
    assert table.loc["decorated", "held_out_rmse_mev_site"] == pytest.approx(
        table.loc["decorated", "held_out_rmse_mev_fu"] / 2
    )
    structures = read_table("phase_diagram/structures", whole / "na")
    assert (structures["state_key"] == structures["asked_key"]).all()
    summary = read_document(whole / "na/summary.json", "phase-diagram-fit")
    assert summary["orders"] == {"carried": 16}
    assert summary["no_new_ground_state"] is None  # DFT's states are a fixed set
    assert summary["refused"] == 0


def test_tables_and_figures_of_the_diagram(whole: Path):
    for name in ("boundaries", "isotherms", "free_energy", "entropy", "features"):
        table = read_table(f"phase_diagram/{name}", whole)
        assert len(table)
        assert set(table["system"]) == {"na"}
    for name in ("diagram", "entropy", "isotherms", "na/fit"):
        assert (whole / f"{name}.svg").stat().st_size > 1000
    free = read_table("phase_diagram/free_energy", whole)
    own = free[free["expansion"] == "decorated"].set_index(["temperature_k", "x"])
    assert (own["entropy_k_site"] <= 2 * np.log(2) + 1e-9).all()
    ends = own.loc[(300.0, [0.0, 1.0]), "energy_ev_site"].to_numpy()
    summary = read_document(whole / "na/summary.json", "phase-diagram-fit")
    # The fit keeps the end members' energies but for its own error.
    np.testing.assert_allclose(ends, summary["end_energies_ev_site"], atol=0.03)
    entropy = read_table("phase_diagram/entropy", whole).iloc[0]
    parts = entropy["ions_k_site"] + entropy["charges_k_site"] + entropy["mutual_k_site"]
    assert entropy["total_k_site"] == pytest.approx(parts)
    isotherms = read_table("phase_diagram/isotherms", whole)
    assert (isotherms["voltage_v"] + isotherms["mu_ev"]).std() < 1e-9
    middle = isotherms[isotherms["x"].between(0.2, 0.8)]
    assert middle["voltage_v"].between(2.0, 4.0).all()  # PBE+U puts NaFePO4 at 2.9 V


@pytest.mark.draws
def test_what_experiment_has_found_stands_in_the_diagram(whole: Path, host: Host, tmp_path: Path):
    shutil.copytree(whole, tmp_path / "all")
    diagram(tmp_path / "all", host)
    drawn = (tmp_path / "all/diagram.svg").read_text()
    for mark in SETTINGS.systems[0].experiment:
        assert f"experiment, Na: {mark.label}" in drawn


def test_equal_seeds_give_equal_tables(whole: Path, host: Host, tmp_path: Path):
    shutil.copytree(whole / "na", tmp_path / "na")
    again = sample(tmp_path / "na", host, 0)
    for name in ("isotherms", "thermal", "entropy"):
        assert (again / f"{name}.csv").read_bytes() == (whole / f"na-r0/{name}.csv").read_bytes()
    assert (whole / "na-r0/thermal.csv").read_bytes() != (whole / "na-r1/thermal.csv").read_bytes()


def test_without_the_metal_there_is_no_voltage(whole: Path, host: Host, tmp_path: Path):
    shutil.copytree(whole, tmp_path / "all")
    diagram(tmp_path / "all", host, metal=lambda *_: None)
    assert read_table("phase_diagram/isotherms", tmp_path / "all")["voltage_v"].isna().all()


def test_expansions_of_another_lattice_are_refused(whole: Path, tmp_path: Path):
    shutil.copytree(whole / "na", tmp_path / "na")
    with pytest.raises(UserError, match="on another lattice than invented MgFeSiO4"):
        sample(tmp_path / "na", magnesium_silicate(), 0)


def test_an_expansion_that_was_changed_is_refused(whole: Path, host: Host, tmp_path: Path):
    shutil.copytree(whole / "na", tmp_path / "na")
    path = tmp_path / "na/decorated.json"
    path.write_text(path.read_text().replace("0.", "1.", 1))
    with pytest.raises(UserError, match="was changed or cut"):
        sample(tmp_path / "na", host, 0)


def test_potentials_that_do_not_exist_are_one_line(reference_dir: Path, host: Host, tmp_path: Path):
    for potential, reason in (("chgnet-9", "is no potential"), ("mace-entropy-f0-s1", "card.json")):
        changed = SETTINGS.model_copy(
            update={"systems": (SETTINGS.systems[0].model_copy(update={"potential": potential}),)}
        )
        with pytest.raises(UserError, match=reason):
            fit(reference_dir, host, tmp_path / "na", changed)
    assert not (tmp_path / "na").exists()


def test_a_folder_that_names_no_replica_is_one_line():
    system = SETTINGS.systems[0]
    for replica in range(SETTINGS.sampling.replicas):
        assert SETTINGS.replica_of(f"{system.name}-r{replica}", system) == replica
    for name in (
        "foo",
        f"{system.name}-r",
        f"{system.name}-r{SETTINGS.sampling.replicas}",
        f"{system.name}-r00",
    ):
        with pytest.raises(UserError, match=f"'{name}' names no sampling run of {system.name}; give .*-r0"):
            SETTINGS.replica_of(name, system)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"systems": []}, "at least 1"),
        (
            {
                "systems": [
                    {
                        "name": "na",
                        "potential": "dft",
                        "experiment": [{"x": [0.9, 0.1], "temperature": 298, "label": "a gap"}],
                    }
                ]
            },
            "the ends of a gap must ascend",
        ),
        ({"systems": [{"name": "Na", "potential": "dft"}]}, "pattern"),
        (
            {"systems": [{"name": "na", "potential": "dft", "plain": {"pairs": 5, "triplets": 6}}]},
            "triplets to 6 A are made of pairs to as far; raise pairs from 5 A",
        ),
        ({"systems": [{"name": "na-r1", "potential": "dft"}]}, "name of a replica"),
        ({"systems": [{"name": "na", "potential": "dft"}] * 2}, "names must differ"),
        ({"sampling": {"temperatures": [600, 300]}}, "ascend"),
        ({"sampling": {"hottest": 2000, "temperatures": [3000]}}, "above all temperatures"),
        ({"structures": {"cells": [[1, 1, 1], [1, 1, 1]]}}, "only once"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict, message: str):
    values = {"systems": [{"name": "na", "potential": "dft"}]} | changes
    with pytest.raises(ValidationError, match=message):
        PhaseDiagramSettings.model_validate(values)
    with pytest.raises(UserError, match="no system named 'nb'"):
        SETTINGS.system("nb")


@pytest.mark.parametrize(
    ("potential", "refused"),
    [("dft", True), ("chgnet-0.3.0", True), ("painn-entropy-f0-s1", True), ("painn-subset-f0-s1", False)],
)
def test_anions_are_refused_where_the_potential_is_known_to_see_charges(
    monkeypatch: pytest.MonkeyPatch, host: Host, potential: str, refused: bool
):
    settings = PhaseDiagramSettings.model_validate({"systems": [{"name": "f", "potential": potential}]})
    settings.check("resources/hosts/olivine-nafepo4.json", host.rule)
    monkeypatch.setattr(Host, "load", lambda *_: oxyfluoride())
    if refused:
        with pytest.raises(UserError, match=r"^phase_diagram.systems: f: F of invented FeOF is an anion"):
            settings.check("none", host.rule)
    else:
        settings.check("none", host.rule)
