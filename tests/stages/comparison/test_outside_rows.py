"""Potentials that were not trained here go from the configuration to the comparison table."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from changed_config import changed_config
from sealed import write_sealed

from workflow_lib.config_files import validate_config
from workflow_lib.core.errors import UserError
from workflow_lib.frames.splits import Fold, Splits
from workflow_lib.frames.table import write_parquet
from workflow_lib.models.identity import ModelId
from workflow_lib.results_models import load_potential
from workflow_lib.results_reading import read_table
from workflow_lib.stages.charge_order.reference import build_reference
from workflow_lib.stages.charge_order.run import run_charge_order
from workflow_lib.stages.charge_order.settings import ChargeOrderSettings
from workflow_lib.stages.comparison.run import run_comparison
from workflow_lib.stages.thermodynamics.run import run_thermodynamics
from workflow_lib.stages.thermodynamics.settings import MetalEnergy, ThermodynamicsSettings

OUTSIDE = [
    {"name": "r2scan", "potential": "chgnet-r2scan"},
    # A calculator that knows all elements; its energies mean nothing here.
    {
        "name": "morse",
        "potential": "ase.calculators.morse:MorsePotential",
        "arguments": {"epsilon": 0.01, "r0": 2.0, "rcut1": 2.5, "rcut2": 3.0},
        "control": True,
    },
]


@pytest.fixture(scope="module")
def run(frames, host, tmp_path_factory):
    """Both potentials through charge order, thermodynamics and comparison; relaxations of two steps."""
    config = validate_config(changed_config("outside", OUTSIDE), "test")
    root = tmp_path_factory.mktemp("run")
    write_parquet(frames, root / "frames.parquet")
    reference = build_reference(root / "frames.parquet", host, root / "charge_order")
    pairs = list(zip(reference["frame_id"], reference["state_key"], strict=True))
    Splits("state", 711, (Fold.of(0, {"train": pairs, "validation": [], "test": []}),)).save(
        root / "s.json"
    )
    folders = []
    for item in config.outside:
        folders.append(root / "charge_order" / str(item.identity))
        run_charge_order(
            model=load_potential(str(item.identity), config.outside),
            reference_dir=root / "charge_order",
            host=host,
            splits_path=root / "s.json",
            settings=ChargeOrderSettings(max_steps=2),
            out=folders[-1],
            cache=root / "cache",
        )
    level = str(reference["level"].iloc[0])
    metal = MetalEnergy(element="Na", level=level, energy_ev=-1.3, source="test")
    run_thermodynamics(
        reference_dir=root / "charge_order",
        charge_order_dirs=folders,
        search_dirs=[],
        dft_dir=write_sealed("dft/energies", root / "dft", pd.DataFrame()).parent,
        host=host,
        settings=ThermodynamicsSettings(metals=(metal,)),
        cells="fixed",
        out=root / "thermodynamics",
    )
    run_comparison(
        trainings=[],
        charge_orders=folders,
        searches=[],
        thermodynamics=root / "thermodynamics",
        embeddings=[],
        couple="Fe2+/Fe3+",
        compared_x=0.5,
        out=root / "comparison",
    )
    return root, level


def test_each_has_a_row_that_says_its_level(run):
    root, _ = run
    table = read_table("comparison", root / "comparison").set_index("id")
    assert list(table.index) == ["morse-outside", "r2scan-outside"]
    shipped = table.loc["r2scan-outside"]
    assert (shipped["family"], shipped["variant"], shipped["status"]) == ("chgnet", "outside", "ok")
    assert "r2SCAN" in shipped["level"] and table["level"]["morse-outside"] == "not stated"
    # Nothing that would subtract energies of two levels, nothing that training would give.
    assert table[["energy_mae_mev_atom", "step_voltage_mae_mv", "fold"]].isna().all(axis=None)
    # It has seen none of our frames, so every inner state at x = 1/2 counts.
    assert shipped["states_unseen"] == 10 and abs(shipped["states_spearman"]) <= 1
    assert shipped["hull_mae_mev_fu"] > 0 and shipped["relaxations"] == 16 + 7


def test_formation_energies_are_against_its_own_ends(run):
    root, level = run
    states = read_table("charge_order/states", root / "charge_order/r2scan-outside")
    assert states["level"].str.contains("r2SCAN").all() and level not in set(states["level"])
    ends = states[states["x"].isin([0, 1])]
    assert ends["formation_mev_fu"].abs().max() < 1e-6
    assert states["formation_mev_fu"].abs().max() < 2000  # meV; between the levels lie thousands of eV
    assert (states["role"] == "none").all() and not states["seen"].any()
    assert states["order"].isna().all(), "no moment window of its level is known"


def test_no_voltage_without_a_metal_of_its_level(run):
    root, _ = run
    voltages = read_table("thermodynamics/voltage", root / "thermodynamics")
    assert set(voltages["id"]) == {"dft"}
    scores = json.loads((root / "charge_order/morse-outside/scores.json").read_text())
    assert (scores["variant"], scores["fold"], scores["charge_labelled"]) == ("outside", None, False)
    formation = pd.read_csv(root / "thermodynamics/formation.csv")
    assert formation.groupby("id")["level"].nunique().max() == 1


def test_ids_are_read_back():
    identity = ModelId.outside("chgnet-r2scan")
    assert str(identity) == "chgnet-r2scan-outside" and ModelId.parse(str(identity)) == identity


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": "a", "potential": "chgnet-r2scn"}, "did you mean 'chgnet-r2scan'"),
        ({"name": "a", "potential": "chgnet-0.3.0", "level": "PBE"}, "takes neither arguments nor level"),
        ({"name": "mace", "potential": "chgnet-0.3.0"}, "the name 'mace' is used twice"),
        ({"name": "a", "potential": "os:system('x')"}, "neither a calculator of ASE"),
    ],
)
def test_mistakes_are_one_line(entry, words):
    with pytest.raises(UserError) as found:
        validate_config(changed_config("outside", [entry]), "test")
    assert words in str(found.value) and "\n" not in str(found.value)
