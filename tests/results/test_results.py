"""A run folder read back: typed tables with units, and nothing that was cut or exchanged gets through."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from charge_order_toy import register, save_toy
from fenced import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from naming import naming
from sealed import write_sealed

from workflow_lib.config import Config
from workflow_lib.config_files import load_studies
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json, write_json
from workflow_lib.frames.frame import Frame
from workflow_lib.frames.splits import SETS, Fold, Splits
from workflow_lib.frames.table import write_parquet
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.models.identity import EWALD, ModelId
from workflow_lib.models.predictor import Origin
from workflow_lib.results import Run
from workflow_lib.results_captions import CAPTIONS
from workflow_lib.results_files import FIGURES, files_of
from workflow_lib.results_meanings import IN_TABLES, MEANINGS, unit_of
from workflow_lib.results_models import load_model, named_models, training_frames
from workflow_lib.results_reading import checked, read_table, seal, seal_name, write_table
from workflow_lib.results_schema import DFT, ENERGIES, MODEL, TABLES

PAINN, MACE = "painn-entropy-f0-s1", "mace-baseline-f0-s1"
KEY = "1x1x1:Na1001:Fe2323"


def energies(source: str, count: int, **columns: object) -> pd.DataFrame:
    """Rows of a table of energies."""
    row = {"id": source, "protocol": "distorted", "state_key": KEY, "ion_key": KEY[:13], "x": 0.5}
    row |= {"formula_units": 4, "energy_ev": -180.0, "fmax_ev_a": 0.04, "volume_a3": 300.0}
    row |= {"status": "converged", "level": "GPAW/PBE"} | columns
    return pd.DataFrame([row] * count)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with two models' states, the Ewald ranking, DFT's answers, a figure and splits."""
    run = tmp_path / "demo"
    write_json(run / "config.json", {"run": "demo"} | naming(PAINN, MACE))
    orders = run / "charge_order"
    for name, count in ((PAINN, 3), (MACE, 2), (EWALD, 1)):
        (orders / name).mkdir(parents=True)
        (orders / name / "states.svg").write_text(f"<svg>{name}</svg>")
        write_sealed("charge_order/states", orders / name, energies(name, count, seen=True))
    write_sealed("charge_order/reference", orders, energies(DFT, 2, protocol="reference"))
    members = {name: [(name, f"state of {name}")] for name in SETS}
    Splits("state", 711, (Fold.of(0, members),)).save(run / "dataset/splits.json")
    seal(run / "dataset", "dataset")
    return run


def test_results_of_an_earlier_configuration_are_warned_of(folder: Path):
    now = read_json(folder / "config.json")
    provenance = {"configuration": now, "made_with": [], "data_sha256": {}}
    write_json(folder / "provenance.json", provenance)
    with warnings.catch_warnings(action="error"):
        assert Run(folder).unfinished is None
    write_json(folder / "config.json", now | {"seed": 5})
    with pytest.warns(UserWarning, match="earlier configuration, or the run is unfinished: seed: null"):
        Run(folder)
    (folder / "provenance.json").write_text("{")
    with pytest.warns(UserWarning, match=r"provenance\.json is not valid JSON"):
        Run(folder)


def test_tables_are_typed_and_described(folder: Path):
    run = Run(folder)
    assert run.configuration["run"] == "demo"
    assert run.tables == ["charge_order/reference", "charge_order/states"]
    table = run.table("charge_order/states", PAINN)
    assert len(table) == 3
    assert table["formula_units"].dtype == np.int64 and table["seen"].dtype == bool
    assert table["energy_ev"].dtype == table["dft_energy_ev"].dtype == np.float64
    assert table["steps"].dtype == pd.Int64Dtype()  # missing in every row
    assert table.attrs["units"]["volume_a3"] == "A^3"
    assert "eV/A" in table.attrs["meanings"]["fmax_ev_a"]
    every = run.table("charge_order/states")
    assert every["id"].value_counts().to_dict() == {PAINN: 3, MACE: 2, EWALD: 1}
    assert every.attrs["units"] == table.attrs["units"]
    assert run.splits.fold(0).role("state of test", "test") == "test"


def test_all_energies_of_a_run_are_one_table(folder: Path):
    table = Run(folder).energies()
    assert list(table.columns) == list(ENERGIES)
    assert set(table["id"]) == {PAINN, MACE, EWALD, DFT} and len(table) == 8


def test_every_figure_has_a_caption(folder: Path):
    # results_captions.py: the report's page shows each figure of a run with its caption.
    assert set(CAPTIONS) == set(FIGURES)
    assert Run(folder).caption("charge_order/states").endswith(".")
    with pytest.raises(UserError, match="no figure of a run is called 'hul'"):
        Run(folder).caption("hul")


def test_sources_of_a_table_are_those_that_have_one(folder: Path):
    assert Run(folder).sources("charge_order/states") == sorted([EWALD, MACE, PAINN])
    assert Run(folder).sources("search/found") == []


def test_a_model_that_the_configuration_no_longer_names_is_in_no_table(folder: Path):
    write_json(folder / "config.json", {"run": "demo"} | naming(MACE))
    run = Run(folder)
    assert run.sources("charge_order/states") == [EWALD, MACE]
    assert set(run.table("charge_order/states")["id"]) == {EWALD, MACE}
    assert set(run.energies()["id"]) == {EWALD, MACE, DFT}
    assert run.drawn("charge_order/states") == [EWALD, MACE]
    # Asked for by its name it is still there.
    assert set(run.table("charge_order/states", PAINN)["id"]) == {PAINN}


@pytest.mark.parametrize("name", ["smoke", "config", "paper", "table-1", "chgnet"])
def test_a_written_configuration_names_what_it_trains_and_compares(name: str):
    config = load_studies(ROOT / f"config/{name}.yaml")
    written = json.loads(config.model_dump_json())
    models = (
        [*config.trained(), *(item.identity for item in config.outside)]
        if isinstance(config, Config)
        else []
    )
    assert named_models(written) == list(map(str, models))


def test_a_control_is_in_no_search_and_a_calculator_in_no_embedding(folder: Path):
    """What they left in the folder before they became so is not listed."""
    calculator, weights = (f"{name}-outside" for name in ("emt", "shipped"))
    models = (PAINN, MACE, "mace-shuffled-f0-s1", calculator, weights)
    for model in models:
        for name in ("search/found", "embedding/points"):
            path = folder / TABLES[name].file.format(model=model)
            path.parent.mkdir(parents=True)
            path.write_text("")
    named = {"run": "demo"} | naming(PAINN, MACE)
    named["models"][1]["control"] = True
    named["controls"] = [{"model": "mace", "variant": "shuffled"}]
    named["outside"] = [
        {"name": "emt", "potential": "ase.calculators.emt:EMT", "control": False},
        {"name": "shipped", "potential": "chgnet-0.3.0", "control": True},
    ]
    write_json(folder / "config.json", named)
    run = Run(folder)
    assert run.sources("search/found") == sorted([PAINN, calculator])
    assert run.sources("embedding/points") == sorted({*models} - {calculator})


def test_replicas_of_a_phase_diagram_are_those_that_the_configuration_asks_for(folder: Path):
    for system, replica in (("na-dft", 0), ("na-dft", 1), ("na-dft", 2), ("na-old", 0)):
        path = folder / f"phase_diagram/{system}-r{replica}/isotherms.csv"
        path.parent.mkdir(parents=True)
        path.write_text("")
    written = read_json(folder / "config.json")
    written["phase_diagram"] = {"systems": [{"name": "na-dft"}], "sampling": {"replicas": 2}}
    write_json(folder / "config.json", written)
    assert "phase_diagram/replica_isotherms" in Run(folder).tables
    assert Run(folder).sources("phase_diagram/replica_isotherms") == ["na-dft-r0", "na-dft-r1"]


def test_studies_alone_list_nothing_that_a_comparison_left(folder: Path):
    write_json(folder / "config.json", {"run": "demo", "dynamics": None})
    assert Run(folder).tables == [] and Run(folder).figures == [] and Run(folder).models == []


def test_a_configuration_of_an_earlier_version_is_read_or_one_line(folder: Path):
    written = {"run": "demo"} | naming(PAINN, MACE)
    for lacking in ("controls", "outside"):
        del written[lacking]
        write_json(folder / "config.json", written)
        assert Run(folder).sources("charge_order/states") == sorted([EWALD, MACE, PAINN])
    del written["seeds"]
    write_json(folder / "config.json", written)
    with pytest.raises(UserError, match=r"config.json does not name models .*\(KeyError: 'seeds'\)"):
        _ = Run(folder).tables


def test_figures_are_found_by_name(folder: Path):
    run = Run(folder)
    assert run.figures == ["charge_order/states"]
    assert PAINN in run.figure("charge_order/states", PAINN).read_text()
    with pytest.raises(UserError, match="there for each model"):
        run.figure("charge_order/states")
    with pytest.raises(UserError, match="did you mean 'charge_order/states'"):
        run.figure("charge_order/stats", PAINN)
    with pytest.raises(UserError, match=r"comparison\.svg does not exist"):
        run.figure("comparison")


def test_names_that_are_none(folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"is no run folder \(config.json is missing\)"):
        Run(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="did you mean 'charge_order/states'"):
        Run(folder).table("charge_order/state")
    with pytest.raises(UserError, match="holds no table 'search/found'"):
        Run(folder).table("search/found")
    with pytest.raises(UserError, match="holds no model painn-entropy-f0-s1"):
        Run(folder).model(PAINN)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(st.data())
def test_no_cut_or_altered_table_is_read(folder: Path, data: st.DataObject):
    path = folder / "charge_order" / PAINN / "states.csv"
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    harm = data.draw(st.sampled_from(("cut", "changed", "doubled")))
    changed = {
        "cut": content[:place],
        "changed": content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :],
        "doubled": content + content[place:],
    }[harm]
    path.write_bytes(changed)
    try:
        with pytest.raises(
            UserError,
            match=r"states.csv was changed or cut .* snakemake (--configfile .*config.json )?--force",
        ):
            Run(folder).table("charge_order/states", PAINN)
    finally:
        path.write_bytes(content)


def test_folders_of_models_cannot_change_places(folder: Path):
    one, two = folder / "charge_order" / PAINN, folder / "charge_order" / MACE
    spare = folder / "spare"
    for source, target in ((one, spare), (two, one), (spare, two)):
        shutil.move(source, target)
    with pytest.raises(UserError, match=f"belongs to {MACE}, not to {PAINN}"):
        Run(folder).table("charge_order/states", PAINN)


def test_a_table_alone_cannot_change_places(folder: Path):
    shutil.copy(
        folder / "charge_order" / MACE / "states.csv", folder / "charge_order" / PAINN / "states.csv"
    )
    with pytest.raises(UserError, match="was changed or cut"):
        Run(folder).table("charge_order/states", PAINN)


def test_a_lost_seal_or_column_is_named(folder: Path):
    place = folder / "charge_order" / PAINN
    table = pd.read_csv(place / "states.csv").drop(columns="level")
    table.to_csv(place / "states.csv", index=False)
    seal(place, "charge-order", source=PAINN)
    with pytest.raises(UserError, match="lacks the columns level"):
        read_table("charge_order/states", place)
    table.assign(level="x", formula_units="four").to_csv(place / "states.csv", index=False)
    seal(place, "charge-order", source=PAINN)
    with pytest.raises(UserError, match=r"is no table `charge_order/states`"):
        read_table("charge_order/states", place)
    (place / seal_name("charge-order")).write_text("{}")
    with pytest.raises(UserError, match="is no file of checksums"):
        read_table("charge_order/states", place)
    (place / seal_name("charge-order")).unlink()
    with pytest.raises(UserError, match="has no checksum"):
        read_table("charge_order/states", place)


def test_sealing_is_the_same_twice(folder: Path):
    place = folder / "charge_order" / PAINN
    before = (place / seal_name("charge-order")).read_bytes()
    seal(place, "charge-order", source=PAINN)
    assert (place / seal_name("charge-order")).read_bytes() == before
    assert sorted(json.loads(before)["files"]) == ["states.csv", "states.svg"]
    assert checked(place / "states.csv", "charge-order") == place / "states.csv"


def test_models_stand_under_their_own_id(tmp_path: Path, rule: RedoxRule, monkeypatch: pytest.MonkeyPatch):
    register(monkeypatch)
    here = tmp_path / "training"
    identity = ModelId("toy", "baseline", 0, 1)
    save_toy(here / "toy-baseline-f0-s1", rule, "none")
    write_json(tmp_path / "config.json", naming(str(identity)))
    assert Run(tmp_path).models == [identity]
    assert Run(tmp_path).model(identity).card["name"] == "toy"
    shutil.move(here / "toy-baseline-f0-s1", here / "toy-entropy-f0-s1")
    with pytest.raises(UserError, match="holds the model toy-baseline-0-1"):
        load_model(here / "toy-entropy-f0-s1")
    shutil.move(here / "toy-entropy-f0-s1", here / "mine")
    assert load_model(here / "mine").card["variant"] == "baseline"


def test_a_run_says_which_frames_trained_a_model(
    tmp_path: Path, rule: RedoxRule, monkeypatch: pytest.MonkeyPatch, original_frames: list[Frame]
) -> None:
    register(monkeypatch)
    train, test = original_frames[:2], original_frames[2:3]
    members = {"train": train, "validation": [], "test": test}
    fold = Fold.of(0, {name: [(f.frame_id, f.group) for f in frames] for name, frames in members.items()})
    Splits("state", 1, (fold,)).save(tmp_path / "dataset/splits.json")
    write_parquet([*test, *train], tmp_path / "dataset/frames.parquet")
    here = tmp_path / "training/toy-baseline-f0-s1"
    assert training_frames(here) is None and training_frames("chgnet-0.3.0") is None
    save_toy(here, rule, "none")
    # The variant learnt from one of them: the other has no charge states, say.
    sets = pd.DataFrame(
        {"frame_id": [f.frame_id for f in (*train, *test)], "set": ["train", "validation", "test"]}
    )
    write_sealed("training/frames", here, sets)
    assert [f.frame_id for f in training_frames(here) or ()] == [train[0].frame_id]
    write_sealed("training/frames", here, sets.assign(set=["train", "train", "test"]))
    assert {f.frame_id for f in training_frames(here) or ()} == {f.frame_id for f in train}
    shutil.copytree(here, tmp_path / "mine")
    assert training_frames(tmp_path / "mine") is None


def test_the_schema_knows_every_unit_and_file_once():
    files = [table.file for table in TABLES.values()]
    assert len(set(files)) == len(files)
    assert len({stem for stem, _ in FIGURES.values()}) == len(FIGURES)
    assert {unit_of(name) for name in ("hull_mae_mev_fu_mean", "states_mae_mev_fu_all")} == {
        "meV per formula unit"
    }
    assert unit_of("bond_gap_a") == "A" and unit_of("volume_a3") == "A^3" and unit_of("state_key") == ""
    assert "timings.csv" not in files_of("comparison")
    assert {"states.csv", "states.svg", "states.png", "scores.json"} <= set(files_of("charge-order"))


def test_descriptions_are_of_columns_that_exist():
    columns = {name: set(table.columns) for name, table in TABLES.items()}
    assert set(MEANINGS) <= set.union(*columns.values())
    for name, meanings in IN_TABLES.items():
        assert set(meanings) <= columns[name], name


def test_tables_of_models_begin_alike_so_that_they_join() -> None:
    """Rows of a model begin with who it is; rows over several trainings with what these share."""
    joined = 0
    for name, table in TABLES.items():
        columns = list(table.columns)
        if "id" in columns or (table.per_model and name.startswith(("training/", "embedding/"))):
            assert columns[: len(MODEL)] == list(MODEL), name
            joined += 1
        elif "model" in columns:
            assert columns[:2] == ["model", "family"], name
    assert joined >= 15
    assert list(Origin("painn", "painn", "scratch", "entropy", 0, 1).columns(PAINN)) == list(MODEL)


def test_a_table_is_written_with_its_model_first(tmp_path: Path) -> None:
    owner = Origin("painn", "painn", "scratch", "entropy", 0, 1).columns(PAINN)
    rows = pd.DataFrame({"set": ["test"], "extra": [1.0]})
    for name in ("training/metrics", "training/parity"):
        others = {column: [None] for column in TABLES[name].columns if column not in {*owner, *rows}}
        write_table(name, rows.assign(**others), tmp_path, owner=owner)
        seal(tmp_path, "train")
        table = read_table(name, tmp_path)
        assert list(table)[:7] == [*MODEL, "set"]
        assert table.loc[0, list(MODEL)].tolist() == [PAINN, "painn", "painn", "entropy", 0, 1]
