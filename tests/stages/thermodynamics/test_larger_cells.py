"""Searches, and DFT of the larger cells that they reach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from model_answers import LEVEL, run, write_charge_order, write_search
from sealed import write_sealed

from workflow_lib.lattice.arrangement import StateKey
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.orientation import smallest_keys
from workflow_lib.results_schema import TABLES
from workflow_lib.stages.thermodynamics.scores import found_error, known_energies


def with_larger(reference_dir: Path, folder: Path, energies: dict[str, float]) -> Path:
    """The reference, and beside it larger cells: formation energies (meV per formula unit) by key."""
    states = pd.read_csv(reference_dir / "reference.csv")
    write_sealed("charge_order/reference", folder, states)
    ends = states.set_index("x")["energy_ev"] / 4
    rows = []
    for key, formation in energies.items():
        x = StateKey.parse(key).x
        line = (1 - x) * ends[0.0] + x * ends[1.0]
        own = {"state_key": key, "ion_key": StateKey.parse(key).ion_key, "x": x, "formula_units": 12}
        own |= {"formation_mev_fu": formation, "energy_ev": 12 * (line + formation / 1000)}
        rows.append(own | {"status": "converged", "level": LEVEL})
    table = pd.DataFrame(rows, columns=list(TABLES["charge_order/larger_cells"].columns))
    write_sealed("charge_order/larger_cells", folder, table)
    return folder


def test_search_extends_the_hull_but_not_the_scores(reference_dir: Path, host: Host, tmp_path: Path):
    charge_order = write_charge_order(reference_dir, tmp_path / "charge_order/mace-entropy-f0-s1")
    search = write_search(tmp_path / "search/mace-entropy-f0-s1", reference_dir, host)
    run(reference_dir, [charge_order], [search], tmp_path / "out")
    hull = pd.read_csv(tmp_path / "out/hull.csv")
    own = hull[(hull["id"] == "mace-entropy-f0-s1") & (hull["scope"] == "searched")]
    vertex = own[np.isclose(own["x"], 2 / 3)]
    assert vertex["formation_mev_fu"].tolist() == pytest.approx([-40], abs=1e-3)
    assert vertex["cell"].tolist() == ["1x3x1"]
    scores = pd.read_csv(tmp_path / "out/scores.csv").iloc[0]
    assert scores["hull_mae_mev_fu"] == pytest.approx(0, abs=1e-6)
    assert scores["voltage_mae_mv"] == pytest.approx(0, abs=1e-6)
    drawn = pd.read_csv(tmp_path / "out/found.csv")
    assert set(drawn["protocol"]) == {"reference", "search"}
    assert (drawn.loc[drawn["protocol"] == "search", "above_hull_mev_fu"] >= -1e-6).all()
    # Points and hull share their end members.
    ends = own[own["x"].isin([0, 1])]
    assert ends["formation_mev_fu"].tolist() == pytest.approx([0, 0], abs=1e-6)
    for name in ("hull", "voltage", "found"):
        for suffix in ("svg", "png", "csv"):
            assert (tmp_path / f"out/{name}.{suffix}").is_file()


@pytest.mark.draws
def test_dft_of_larger_cells_enters_its_hull_and_the_error_of_what_was_found(
    reference_dir: Path, host: Host, tmp_path: Path
):
    name = "mace-entropy-f0-s1"
    charge_order = write_charge_order(reference_dir, tmp_path / "charge_order" / name)
    search = write_search(tmp_path / "search" / name, reference_dir, host)
    found = pd.read_csv(search / "found.csv").drop_duplicates("state_key")
    keys = found["state_key"].tolist()  # at -40, -10, 20, 50, 80 and 110 meV per formula unit
    known = with_larger(reference_dir, tmp_path / "known", {keys[0]: -30.0, keys[1]: 5.0})
    asked = {"x": 2 / 3, "formula_units": 12, "cell": "1x3x1", "status": "done", "level": LEVEL}
    answers = pd.DataFrame(
        [
            asked | {"state_key": keys[1], "formation_mev_fu": 2.0},  # lower than the frame of this state
            asked | {"state_key": keys[2], "formation_mev_fu": 26.0},
            asked | {"state_key": keys[3], "formation_mev_fu": -900.0, "level": "VASP/another"},
            asked | {"state_key": keys[4], "status": "pending"},
        ]
    )
    plain = run(reference_dir, [charge_order], [search], tmp_path / "plain")
    out = run(known, [charge_order], [search], tmp_path / "out", answers=answers)
    hull = pd.read_csv(out / "hull.csv").query("id == 'dft'")
    vertex = hull[np.isclose(hull["x"], 2 / 3)]
    assert vertex[["scope", "cell", "state_key"]].to_numpy().tolist() == [["searched", "1x3x1", keys[0]]]
    assert vertex["formation_mev_fu"].tolist() == pytest.approx([-30], abs=1e-3)
    formation = pd.read_csv(out / "formation.csv").query("protocol == 'larger'").set_index("state_key")
    expected = {keys[0]: -30, keys[1]: 2, keys[2]: 26}
    assert formation["formation_mev_fu"].to_dict() == pytest.approx(expected, abs=1e-3)
    scores, before = (pd.read_csv(folder / "scores.csv").iloc[0] for folder in (out, plain))
    # Errors of 10, 12 and 6.
    assert (scores["found_mae_mev_fu"], scores["found_states"]) == (pytest.approx(28 / 3, abs=1e-3), 3)
    assert np.isnan(before["found_mae_mev_fu"]) and before["found_states"] == 0
    # The other scores are taken on the enumerated states, whatever is known of larger cells.
    same = ["hull_mae_mev_fu", "step_voltage_mae_mv", "voltage_mae_mv", "average_voltage_dft_v"]
    assert scores[same].tolist() == before[same].tolist()
    voltages = pd.read_csv(out / "voltage.csv").query("id == 'dft'").groupby("scope")
    widths = voltages.apply(lambda own: ((own["x_high"] - own["x_low"]) * own["voltage_v"]).sum())
    assert widths["searched"] == pytest.approx(widths["enumerated"], abs=1e-8)
    svg = (out / "found.svg").read_text()
    assert "1x1x1, 1x3x1 cell" in svg and "pending" not in svg
    assert "1x3x1 cells is pending" in (plain / "found.svg").read_text()


def test_what_a_blind_search_found_is_held_against_the_lowest_order_of_its_ions():
    orders = ("Fe232323232323", "Fe322323232323")
    reference = pd.DataFrame(
        {
            "state_key": [f"1x3x1:Na110011001100:{order}" for order in orders],
            "formation_mev_fu": [30.0, 10.0],
        }
    )
    found = pd.DataFrame({"state_key": ["1x3x1:Na110011001100"], "x": 0.5, "formation_mev_fu": 14.0})
    labelled = found.assign(state_key=reference["state_key"][0])
    same = {key: key for key in (*reference["state_key"], *found["state_key"])}
    assert found_error(found, reference, same) == (4.0, 1)
    assert found_error(labelled, reference, same) == (16.0, 1)
    assert found_error(labelled.assign(x=1.0), reference, same) == (None, 0)
    assert found_error(found, reference[:0], same) == (None, 0)
    assert known_energies(reference, same)[found["state_key"]].tolist() == [10.0]


def test_what_a_search_found_in_a_doubled_cell_is_what_dft_knows_of_the_small_one(host: Host):
    reference = pd.DataFrame(
        {"state_key": ["1x1x1:Na1001:Fe2323", "1x1x1:Na1001:Fe2233"], "formation_mev_fu": [-21.0, 30.0]}
    )
    doubled = ["1x2x1:Na11000011:Fe22332233", "1x2x1:Na11000011"]
    found = pd.DataFrame({"state_key": doubled, "x": 0.5, "formation_mev_fu": [120.0, -11.0]})
    keys = {*doubled, *reference["state_key"], "1x1x1:Na1001"}
    # 141 for the labelled one, 10 for the blind one, which is held against the lowest order.
    assert found_error(found, reference, smallest_keys(keys, host)) == (75.5, 2)


def test_search_with_a_lower_end_member_moves_its_own_zero(reference_dir: Path, host: Host, tmp_path: Path):
    # The search relaxed the full end member 0.4 eV a cell (100 meV/f.u.) deeper.
    charge_order = write_charge_order(reference_dir, tmp_path / "charge_order/mace-entropy-f0-s1")
    search = write_search(tmp_path / "search/mace-entropy-f0-s1", reference_dir, host)
    found = pd.read_csv(search / "found.csv")
    full = pd.read_csv(reference_dir / "reference.csv").query("x == 1").iloc[0]
    extra = {
        "cell": "1x1x1",
        "state_key": full["state_key"],
        "x": 1.0,
        "n_occupied": 4,
        "method": "enumeration",
    }
    extra |= {"energy_ev": full["energy_ev"] - 0.4, "status": "converged", "degeneracy": 1}
    write_sealed("search/found", search, pd.concat([found, pd.DataFrame([extra])]))
    run(reference_dir, [charge_order], [search], tmp_path / "out")
    formation = pd.read_csv(tmp_path / "out/formation.csv").query("protocol == 'search' and x < 1")
    # At x = 2/3 the line between the ends now lies 2/3 of 100 meV deeper.
    assert formation["formation_mev_fu"].min() == pytest.approx(-40 + 200 / 3, abs=1e-3)
    assert (formation["above_hull_mev_fu"] >= -1e-6).all()
    scores = pd.read_csv(tmp_path / "out/scores.csv").iloc[0]
    assert scores["voltage_mae_mv"] == pytest.approx(
        0, abs=1e-6
    )  # taken on the charge-order stage's states
