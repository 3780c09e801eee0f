"""Charge orders on identical atoms: what a label makes possible and nothing else can."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from charge_order_toy import save_toy
from samples import FOLDER, REFERENCE

from workflow_lib.core.errors import UserError
from workflow_lib.frames.frame import Frame, frame_to_atoms
from workflow_lib.frames.splits import Splits
from workflow_lib.frames.table import read_parquet, write_parquet
from workflow_lib.lattice.ewald import ewald_energy
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.models.identity import look_of
from workflow_lib.models.trained import TrainedModel
from workflow_lib.stages.charge_order.identical import run_identical
from workflow_lib.stages.charge_order.identical_atoms import read_identical
from workflow_lib.stages.charge_order.identical_figure import identical_figure
from workflow_lib.stages.charge_order.protocols import state_roles

pytestmark = pytest.mark.usefixtures("toy")
ORDERS = ("2323", "2332", "2233")
MOMENT = {2: 3.66, 3: 4.30}


MAGNETIC = ("FM", "AFM", "FiM", "NM")


@pytest.fixture
def orders(frames: list[Frame]) -> list[Frame]:
    """Three charge orders on the atoms of one frame of Na1001, displaced so that no two Fe are alike."""
    base = next(frame for frame in frames if frame.state_key == "1x1x1:Na1001:Fe2323")
    shift = np.random.default_rng(5).normal(0, 0.03, base.positions.shape)
    base = replace(base, positions=base.positions + shift)
    iron = np.flatnonzero(base.numbers == 26)
    made = []
    for order in ORDERS:
        moments = np.zeros(len(base))
        moments[iron] = [MOMENT[int(state)] for state in order]
        frame = replace(base, frame_id=order, kind="same-positions", magmoms=moments, charges=None)
        made.append(replace(frame, oxidation_states=None, state_key=None))
    return made


def labelled(frame: Frame):
    atoms = frame_to_atoms(frame)
    states = np.zeros(len(frame), dtype=int)
    states[frame.numbers == 26] = [int(state) for state in frame.frame_id[:4]]
    atoms.set_array("oxidation_states", states)
    return atoms


def ask(orders, tmp_path, models, splits_path, host, rule) -> tuple[pd.DataFrame, pd.DataFrame]:
    write_parquet(orders, tmp_path / "testing.parquet")
    scores = run_identical(
        frames_path=tmp_path / "testing.parquet",
        models=list(map(str, models)),
        load=TrainedModel.load,
        splits_path=splits_path,
        host=host,
        rule=rule,
        level=REFERENCE,
        work=tmp_path / "work",
        out=tmp_path / "out",
    )
    assert (tmp_path / "out/identical.svg").is_file()
    written = pd.read_csv(tmp_path / "out/identical_scores.csv")
    pd.testing.assert_frame_equal(scores, written, check_dtype=False)
    return scores.set_index("id"), pd.read_csv(tmp_path / "out/identical.csv")


def test_a_labelled_model_may_be_right_and_a_blind_one_cannot(orders, tmp_path, splits_path, host, rule):
    models = [
        save_toy(tmp_path / "sees", rule, "surrogate"),
        save_toy(tmp_path / "blind", rule, "none"),
        save_toy(tmp_path / "broken", rule, "surrogate", status="diverged"),
    ]
    truth = [item.energy for item in TrainedModel.load(models[0]).predict([labelled(f) for f in orders])]
    # DFT is the labelled model itself on another zero of energy.
    answered = [replace(f, energy=e - 12.5) for f, e in zip(orders, truth, strict=True)]
    scores, table = ask(answered, tmp_path, models, splits_path, host, rule)
    sees, blind, broken, ewald = (scores.loc[name] for name in ("sees", "blind", "broken", "ewald"))
    assert (sees["pairs"], sees["pairs_ordered"], sees["orders"]) == (3, 1, 3)
    assert sees["spread_ratio"] == pytest.approx(1, abs=1e-9)
    assert sees["mae_mev_fu"] == pytest.approx(0, abs=1e-8)  # meV of energies of 100 eV
    assert (blind["pairs_ordered"], blind["spread_ratio"]) == (0.5, 0)
    assert blind["mae_mev_fu"] == pytest.approx(blind["blind_mae_mev_fu"], rel=1e-9)
    assert not blind["charge_labelled"] and sees["charge_labelled"]
    assert (broken["diverged"], broken["pairs"]) == (3, 0) and np.isnan(broken["mae_mev_fu"])
    assert ewald["pairs"] == 3
    points = [
        ewald_energy(a, rule.formal(a.numbers, a.arrays["oxidation_states"])) for a in map(labelled, orders)
    ]
    agree = [(points[i] < points[j]) == (truth[i] < truth[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert ewald["pairs_ordered"] == pytest.approx(np.mean(agree))
    assert np.isnan(ewald["mae_mev_fu"])  # unscaled

    pairs = [abs(one - other) for k, one in enumerate(truth) for other in truth[:k]]
    assert blind["blind_mae_mev_fu"] == pytest.approx(1000 * np.mean(pairs) / 4)
    first = table[table["id"] == "sees"]
    np.testing.assert_allclose(first["dft_mev_fu"], 250 * (np.array(truth) - np.mean(truth)), atol=1e-6)
    np.testing.assert_allclose(first["dft_mev_fu"], first["model_mev_fu"], atol=1e-6)
    assert [*first["state_key"]] == [f"1x1x1:Na1001:Fe{order}" for order in ORDERS]
    fold = json.loads(splits_path.read_text())["folds"][0]
    known = {state: name for name in ("train", "validation", "test") for state in fold[f"{name}_states"]}
    assert [*first["role"]] == [known[f"1x1x1:Na1001:Fe{order}"] for order in ORDERS]
    assert {"train", "test"} <= {*first["role"]}
    assert table.loc[table["id"] == "broken", "model_mev_fu"].isna().all()


def test_a_state_in_a_supercell_is_known_as_that_of_its_smallest_cell(splits_path, host):
    """Its own key is in no split: only the frames of the smaller cell were dealt."""
    keys = ["1x1x1:Na1001:Fe2323", "1x2x1:Na11000011:Fe22332233"]
    states = pd.DataFrame({"state_key": keys, "frame_id": "nowhere"})
    for fold in range(2):
        small, large = state_roles(Splits.load(splits_path), fold, states, host)
        assert small == large != "none"


def test_models_that_answered_before_a_kill_are_not_asked_again(
    orders, tmp_path, splits_path, host, rule, monkeypatch
):
    orders = [replace(frame, energy=frame.energy + 0.1 * n) for n, frame in enumerate(orders)]
    models = [
        save_toy(tmp_path / "one", rule, "surrogate"),
        save_toy(tmp_path / "two", rule, "none"),
    ]
    whole, _ = ask(orders, tmp_path, models, splits_path, host, rule)
    predict, asked = TrainedModel.predict, []

    def killed(model, *arguments, **named):
        if len(asked) == 1:
            asked.append(None)
            raise KeyboardInterrupt
        asked.append(model)
        return predict(model, *arguments, **named)

    monkeypatch.setattr(TrainedModel, "predict", killed)
    with pytest.raises(KeyboardInterrupt):
        ask(orders, tmp_path, models, splits_path, host, rule)
    assert list((tmp_path / "work").iterdir())
    again, _ = ask(orders, tmp_path, models, splits_path, host, rule)
    assert len(asked) == 3  # the first model, the kill, and the second
    pd.testing.assert_frame_equal(whole, again)
    assert not list((tmp_path / "work").iterdir()), "what was kept is no longer needed"


def test_atoms_are_told_apart_and_the_lowest_orbital_counts(orders, tmp_path, host, rule):
    moved = [replace(f, frame_id=f"{f.frame_id} moved", positions=f.positions + 1e-3) for f in orders[:2]]
    lower = replace(orders[0], frame_id="another orbital", energy=orders[0].energy - 0.1)
    alone = replace(orders[2], frame_id="alone", positions=orders[2].positions + 2e-3)
    unclear = replace(orders[1], frame_id="unclear", magmoms=np.full(len(orders[1]), 4.0))
    path = tmp_path / "testing.parquet"
    write_parquet([*orders, *moved, lower, alone, unclear, replace(orders[0], kind="orbital")], path)
    table, structures = read_identical(path, host, rule, REFERENCE)
    assert [*table["frame_id"]] == ["another orbital", *ORDERS[1:], "2323 moved", "2332 moved"]
    assert [*table["atoms"]] == ["1x1x1:Na1001"] * 3 + ["1x1x1:Na1001 (2)"] * 2
    assert [len(atoms) for atoms in structures] == [len(orders[0])] * 5


def test_charge_states_that_the_file_gives_count_where_there_are_no_moments(orders, tmp_path, host, rule):
    """As the dataset stage takes them: data of a rule without windows (``magmom: {}``) state them."""
    stated = [
        replace(frame, magmoms=None, oxidation_states=labelled(frame).arrays["oxidation_states"])
        for frame in orders
    ]
    path, blind = tmp_path / "testing.parquet", rule.model_dump()
    for state in blind["states"]:
        state["magmom"] = {}
    write_parquet(stated, path)
    table, structures = read_identical(path, host, RedoxRule.model_validate(blind), REFERENCE)
    assert [*table["state_key"]] == [f"1x1x1:Na1001:Fe{order}" for order in ORDERS]
    assert all(
        (a.arrays["oxidation_states"] == f.oxidation_states).all()
        for a, f in zip(structures, stated, strict=True)
    )
    write_parquet([replace(frame, oxidation_states=None) for frame in stated], path)
    with pytest.raises(UserError, match="3 have no charge states"):
        read_identical(path, host, rule, REFERENCE)


def test_formula_units_are_those_of_the_host(orders, tmp_path, host, rule):
    """Of Mg2Fe4Si4O16 a reader counts 2; in MgFeSiO4 with half of its Mg they are 4."""
    write_parquet([replace(frame, formula_units=2) for frame in orders], tmp_path / "testing.parquet")
    table, _ = read_identical(tmp_path / "testing.parquet", host, rule, REFERENCE)
    assert [*table["formula_units"]] == [host.formula_units] * 3 == [4] * 3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda orders: orders[:1], "holds no two charge orders on identical atoms"),
        (lambda orders: [replace(f, energy_reference="another") for f in orders], "different levels"),
        # Their energies differ by tens of meV for another reason than the charge order.
        (
            lambda orders: [replace(f, magnetic_order=m) for f, m in zip(orders, MAGNETIC, strict=False)],
            "holds no two charge orders on identical atoms",
        ),
        (lambda orders: [replace(f, kind="rattle") for f in orders], "kind 'same-positions'"),
    ],
)
def test_what_cannot_be_asked_is_one_line(orders, tmp_path, host, rule, spoil, message):
    write_parquet(spoil(orders), tmp_path / "testing.parquet")
    with pytest.raises(UserError, match=message) as error:
        read_identical(tmp_path / "testing.parquet", host, rule, REFERENCE)
    assert "\n" not in str(error.value)


def test_the_sample_table_has_orders_on_identical_atoms(host, rule):
    table, _ = read_identical(FOLDER / "frames-testing.parquet", host, rule, REFERENCE)
    trained = {frame.frame_id for frame in read_parquet(FOLDER / "frames.parquet")}
    assert not trained & set(table["frame_id"])
    for _, group in table.groupby("atoms"):
        assert len(set(group["ion_key"])) == 1
        # Other orders, other energies: far above the 0.7 meV per cell that two starts differ by.
        assert np.ptp(group["dft_energy_ev"]) > 0.01


@pytest.mark.draws
def test_the_legend_has_potentials_from_elsewhere(tmp_path):
    orders = pd.DataFrame(
        {"variant": ["baseline", "outside"], "model": ["painn", "shipped"], "role": "none"}
    )
    orders = orders.assign(dft_mev_fu=[-1.0, 1.0], model_mev_fu=[-2.0, 2.0])
    identical_figure(orders, orders.assign(mae_mev_fu=1.0), tmp_path)
    text = (tmp_path / "identical.svg").read_text()
    for name in ("baseline", "outside"):
        assert f"{name} ({look_of(name).label})" in text
