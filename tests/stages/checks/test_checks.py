"""The checks pass on a sound run and name what is broken in one that is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from invented_hosts import rule_of
from samples import HOST, REFERENCE, RULE
from sealed import write_sealed

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import write_csv
from workflow_lib.frames.frame import TESTING, Frame, with_labels
from workflow_lib.frames.splits import Fold, Splits
from workflow_lib.frames.table import read_parquet, write_parquet
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.results_reading import read_table, seal
from workflow_lib.stages.charge_order.reference import build_reference
from workflow_lib.stages.checks.run import leaks, run_checks, wrong_voltages
from workflow_lib.stages.dataset.settings import DatasetSettings
from workflow_lib.stages.dataset.splits import make_splits, make_units
from workflow_lib.stages.thermodynamics.run import run_thermodynamics
from workflow_lib.stages.thermodynamics.settings import ThermodynamicsSettings

MODEL = "painn-entropy-f0-s1"
TESTED = "1x1x1:Na1001:Fe2323"
METALS = {REFERENCE: -1.3231}


@pytest.fixture(scope="module")
def sound(frames: list[Frame], host: Host, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model answers DFT's energies."""
    run = tmp_path_factory.mktemp("run")
    write_parquet(frames, run / "dataset/frames.parquet")
    pairs = {
        name: [(f.frame_id, f.state_key) for f in frames if (f.state_key == TESTED) == (name == "test")]
        for name in ("train", "test")
    }
    Splits("state", 711, (Fold.of(0, pairs | {"validation": []}),)).save(run / "dataset/splits.json")
    seal(run / "dataset", "dataset")
    table = build_reference(run / "dataset/frames.parquet", host, run / "charge_order")
    states = table.assign(id=MODEL, protocol="distorted", seen=False)
    write_sealed("charge_order/states", run / "charge_order" / MODEL, states)
    metals = [{"element": "Na", "level": REFERENCE, "energy_ev": METALS[REFERENCE], "source": "bcc"}]
    run_thermodynamics(
        reference_dir=run / "charge_order",
        charge_order_dirs=[run / "charge_order" / MODEL],
        search_dirs=[],
        dft_dir=write_sealed("dft/energies", run / "dft", pd.DataFrame()).parent,
        host=Host.load(HOST, RedoxRule.model_validate(RULE)),
        settings=ThermodynamicsSettings.model_validate({"metals": metals}),
        cells="fixed",
        out=run / "thermodynamics",
    )
    return run


def check(run: Path, host: Host) -> None:
    models = {"charge_orders": [run / "charge_order" / MODEL], "searches": []}
    run_checks(run=run, host=host, metals=METALS, out=run / "checks", **models)


def test_a_sound_run_passes(sound: Path, host: Host):
    check(sound, host)
    table = read_table("checks", sound / "checks")
    assert table["check"].tolist() == ["charge balance", "splits", "energies", "hull", "voltage"]
    assert (table["violations"] == 0).all()


def test_what_an_earlier_configuration_left_is_not_looked_at(sound: Path, host: Host, tmp_path: Path):
    """No rule could make the tables of a model again that the run no longer has."""
    run = tmp_path / "run"
    shutil.copytree(sound, run)
    for place in ("charge_order/gone-baseline-f0-s1/states.csv", "search/gone-baseline-f0-s1/found.csv"):
        (run / place).parent.mkdir(parents=True)
        (run / place).write_text("key,energy\n")
    check(run, host)


@pytest.mark.parametrize("sound", [True, False])
def test_voltages_of_a_convex_hull_rise_where_the_ion_is_an_anion(tmp_path: Path, sound: bool):
    """V = -(dE/dx - E(metal))/z: here dE is -2.5, -2.1, -1.6 and -1.0 eV, one F after another."""
    energies = np.array([0.0, -2.5, -4.6, -6.2, -7.2])
    ions = np.arange(5)
    volts = np.diff(energies) - METALS[REFERENCE]
    voltages = pd.DataFrame({"x_low": ions[:-1] / 4, "x_high": ions[1:] / 4, "voltage_v": volts})
    if not sound:
        voltages["voltage_v"] = volts[[0, 2, 1, 3]]
    formation = pd.DataFrame({"x": ions / 4, "energy_ev": energies}).assign(
        state_key=[f"1x1x1:F{'1' * n:0<4}" for n in ions],
        **{"formation_mev_fu": 0.0, "level": REFERENCE, "protocol": "reference"},
    )
    for name, table in (("formation", formation), ("voltage", voltages.assign(scope="enumerated"))):
        write_sealed(f"thermodynamics/{name}", tmp_path / "thermodynamics", table.assign(id="dft"))
    rule = rule_of("Fe", 2, 3, {"F": -1, "O": -2})
    found = list(wrong_voltages(tmp_path, rule, METALS))
    assert found == ([] if sound else ["dft, enumerated: the voltage falls with x"])


@pytest.mark.parametrize("split_by", ["state", "ions"])
def test_an_end_member_may_train_beside_its_frames_for_testing(
    frames: list[Frame], host: Host, tmp_path: Path, split_by: str
):
    """As in the authors' reference set; of every other state a frame that trains is still a leak."""
    ends = ["1x1x1:Na0000:Fe3333", "1x1x1:Na1111:Fe2222"]
    marked = {next(f.frame_id for f in frames if f.state_key == key) for key in [*ends, TESTED]}
    frames = [with_labels(f, kind=TESTING) if f.frame_id in marked else f for f in frames]
    chosen = DatasetSettings.model_validate({"split_by": split_by, "folds": {"count": 3}})
    splits = make_splits(make_units(frames, host, chosen), chosen, 711)
    assert splits.always_train
    write_parquet(frames, tmp_path / "frames.parquet")
    splits.save(tmp_path / "splits.json")
    seal(tmp_path, "dataset")
    assert list(leaks(tmp_path, host)) == []
    folds = []
    for fold in splits.folds:
        moved = next(f.frame_id for f in frames if f.state_key == TESTED and f.frame_id not in marked)
        test = tuple(name for name in fold.frames["test"] if name != moved)
        sets = fold.frames | {"test": test, "train": (*fold.frames["train"], moved)}
        folds.append(Fold(fold.number, sets, fold.states))
    replace(splits, folds=tuple(folds)).save(tmp_path / "splits.json")
    seal(tmp_path, "dataset")
    assert {message.partition(": ")[2] for message in leaks(tmp_path, host)} == {
        f"test state {TESTED} has frames in test, train",
        f"{TESTED if split_by == 'state' else '1x1x1:Na1001'} is split over test, train",
    }


DOUBLED = "1x2x1:Na11000011:Fe22332233"
"""The state TESTED in two cells."""


@pytest.mark.parametrize(
    ("split_by", "test", "train", "unit"),
    [
        ("material", ("m", "1x1x1:Na1001:Fe2323"), ("m", "1x1x1:Na1100:Fe2323"), "m"),
        ("ions", ("a", "1x1x1:Na1001:Fe2323"), ("b", "1x1x1:Na1001:Fe2332"), "1x1x1:Na1001"),
        ("state", ("a", TESTED), ("b", DOUBLED), TESTED),
        ("state", ("m", None), ("m", None), "m"),
    ],
    ids=["one material", "orders on the same ions", "a copy in a supercell", "no state"],
)
def test_what_a_split_keeps_together_is_in_one_set(
    frames: list[Frame],
    host: Host,
    tmp_path: Path,
    split_by: str,
    test: tuple[str, str | None],
    train: tuple[str, str | None],
    unit: str,
):
    """A writer that mistook frames of one unit for different ones: ``group`` and ``state_key`` of both."""
    pair = [
        with_labels(frames[0], frame_id=name, group=group, state_key=state)
        for name, (group, state) in (("tests", test), ("trains", train), ("validates", ("other", None)))
    ]
    members = [(frame.frame_id, frame.state_key or frame.frame_id) for frame in pair]
    fold = Fold.of(
        0, dict(zip(("test", "train", "validation"), ([member] for member in members), strict=True))
    )
    write_parquet(pair, tmp_path / "frames.parquet")
    Splits(split_by, 711, (fold,)).save(tmp_path / "splits.json")
    seal(tmp_path, "dataset")
    assert f"fold 0: {unit} is split over test, train" in list(leaks(tmp_path, host))


def one_electron_more(run: Path) -> None:
    frames = read_parquet(run / "dataset/frames.parquet")
    states = np.array(frames[7].oxidation_states)
    states[np.flatnonzero(states == 3)[:1]] = 2
    frames[7] = with_labels(frames[7], oxidation_states=states)
    write_parquet(frames, run / "dataset/frames.parquet")
    seal(run / "dataset", "dataset")


def a_frame_of_the_test_state_trains(run: Path) -> None:
    splits = Splits.load(run / "dataset/splits.json")
    [fold] = splits.folds
    moved, *kept = fold.frames["test"]
    sets = fold.frames | {"train": (*fold.frames["train"], moved), "test": tuple(kept)}
    Splits("state", 711, (Fold(0, sets, fold.states),)).save(run / "dataset/splits.json")
    seal(run / "dataset", "dataset")


def a_frame_is_forgotten(run: Path) -> None:
    splits = Splits.load(run / "dataset/splits.json")
    [fold] = splits.folds
    sets = fold.frames | {"train": fold.frames["train"][1:]}
    Splits("state", 711, (Fold(0, sets, fold.states),)).save(run / "dataset/splits.json")
    seal(run / "dataset", "dataset")


def edited(file: str, command: str, change: Callable[[pd.DataFrame], None]) -> Callable[[Path], None]:
    def edit(run: Path) -> None:
        path = run / file
        table = pd.read_csv(path)
        change(table)
        write_csv(table, path)
        seal(path.parent, command, source=MODEL if MODEL in file else None)

    return edit


def lost_energy(table: pd.DataFrame) -> None:
    table.loc[3, "energy_ev"] = np.nan


def lowered(table: pd.DataFrame) -> None:
    table.loc[table["x"].between(0.1, 0.9), "formation_mev_fu"] -= 50.0


def shifted(table: pd.DataFrame) -> None:
    table["voltage_v"] += 1e-4


def rising(table: pd.DataFrame) -> None:
    """One step more, of the same integral, whose second half lies higher."""
    table[["x_low", "x_high"]] = table[["x_low", "x_high"]].astype(float)
    width = (table.loc[0, "x_high"] - table.loc[0, "x_low"]) / 2
    table.loc[len(table)] = table.loc[0]
    table.loc[0, "x_high"] -= width
    table.loc[len(table) - 1, "x_low"] += width
    table.loc[[0, len(table) - 1], "voltage_v"] += [-0.1, 0.1]


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (one_electron_more, r"charge balance: 1 violations, first frame .* has a charge of -1 e"),
        (a_frame_of_the_test_state_trains, "test state 1x1x1:Na1001:Fe2323 has frames in test, train"),
        (a_frame_is_forgotten, "fold 0 and the frames differ in 1 frames"),
        (
            edited(f"charge_order/{MODEL}/states.csv", "charge-order", lost_energy),
            "energies: 1 violations, first .* has no energy and has neither diverged nor moved",
        ),
        (
            edited("thermodynamics/formation.csv", "thermodynamics", lowered),
            r"hull: \d+ violations, first .* meV per formula unit below",
        ),
        (
            edited("thermodynamics/voltage.csv", "thermodynamics", shifted),
            "voltage: 2 violations, first .* the end members say",
        ),
        (
            edited("thermodynamics/voltage.csv", "thermodynamics", rising),
            "the voltage rises with x",
        ),
    ],
)
def test_what_is_broken_is_named(
    sound: Path, host: Host, tmp_path: Path, harm: Callable[[Path], None], message: str
):
    run = tmp_path / "run"
    shutil.copytree(sound, run)
    harm(run)
    with pytest.raises(UserError, match=message) as caught:
        check(run, host)
    assert "\n" not in str(caught.value)
    assert read_table("checks", run / "checks")["violations"].sum() > 0
