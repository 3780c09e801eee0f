"""The stage on the embedded DFT states and on model answers made from them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from model_answers import E_NA, LEVEL, SETTINGS, run, write_charge_order, write_search
from pydantic import ValidationError
from sealed import write_sealed

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.host import Host
from workflow_lib.results_reading import seal
from workflow_lib.results_schema import MODEL
from workflow_lib.stages.thermodynamics.run import Reservoir, _hull_rows, analyse
from workflow_lib.stages.thermodynamics.scores import step_voltage_error
from workflow_lib.stages.thermodynamics.settings import ThermodynamicsSettings


def test_dft_voltage_is_that_of_the_stored_energies(reference_dir: Path, tmp_path: Path):
    run(
        reference_dir,
        [write_charge_order(reference_dir, tmp_path / "painn-baseline-f0-s1")],
        [],
        tmp_path / "out",
    )
    states = pd.read_csv(reference_dir / "reference.csv").set_index("x")["energy_ev"]
    expected = -(float(states[1.0]) - float(states[0.0]) - 4 * E_NA) / 4
    table = pd.read_csv(tmp_path / "out/voltage.csv")
    dft = table[table["id"] == "dft"]
    average = float(((dft["x_high"] - dft["x_low"]) * dft["voltage_v"]).sum())
    # CSV keeps 10 digits of voltages near 3 V.
    assert average == pytest.approx(expected, abs=1e-8)
    # PBE+U puts the average near 3 V (2.91 V fully relaxed; these end geometries are on the way).
    assert 2.8 < average < 3.2
    assert (dft["voltage_v"].diff().dropna() < 0).all()


@pytest.mark.draws
@pytest.mark.parametrize(
    ("metal", "hint"),
    [
        (None, "it is empty"),
        ({"element": "Li", "level": LEVEL}, "it has Li only"),
        ({"element": "Na", "level": "VASP/PBE"}, "it has Na at 'VASP/PBE', which is not this level"),
        # Two spellings of a level may be one level: that is for a person to say.
        ({"element": "Na", "level": LEVEL.lower()}, f"it has Na at {LEVEL.lower()!r}"),
        ({"element": "Na", "level": f" {LEVEL} "}, f"it has Na at ' {LEVEL} '"),
    ],
)
def test_without_the_metal_at_this_level_there_is_no_voltage(
    metal, hint, reference_dir: Path, tmp_path: Path, capsys
):
    metals = [] if metal is None else [metal | {"energy_ev": -1.9, "source": "another metal or level"}]
    settings = ThermodynamicsSettings.model_validate({"metals": metals})
    model = write_charge_order(reference_dir, tmp_path / "painn-baseline-f0-s1", 0.01)
    out = run(reference_dir, [model], [], tmp_path / "out", settings)
    said = capsys.readouterr().err
    assert f"no energy of Na metal at {LEVEL} in thermodynamics.metals ({hint}" in said
    assert said.count("\n") == 1
    assert pd.read_csv(out / "voltage.csv").empty
    scores = pd.read_csv(out / "scores.csv").iloc[0]
    assert np.isnan(scores["voltage_mae_mv"])
    assert np.isnan(scores["average_voltage_v"])
    assert np.isnan(scores["average_voltage_dft_v"])
    assert scores["hull_mae_mev_fu"] == pytest.approx(0, abs=1e-3)  # a hull needs no metal
    assert "No voltages" in (out / "voltage.svg").read_text()


def test_a_voltage_below_zero_is_said(reference_dir: Path, tmp_path: Path, capsys):
    """Of energies in Hartree the average voltage was -1.2 V, and nobody was told."""
    for energy, said in ((-1.3, False), (-6.3, True)):
        metal = {"element": "Na", "level": LEVEL, "energy_ev": energy, "source": "wrong by 5 eV"}
        settings = ThermodynamicsSettings.model_validate({"metals": [metal]})
        model = write_charge_order(reference_dir, tmp_path / "painn-baseline-f0-s1")
        run(reference_dir, [model], [], tmp_path / f"out{said}", settings)
        assert (
            "DFT's average voltage against Na metal is not above zero" in capsys.readouterr().err
        ) == said


@pytest.mark.parametrize("energy", [-162.0, -4410.0])
def test_a_metal_on_another_scale_is_refused(energy, reference_dir: Path, tmp_path: Path):
    """Total energies of an all-electron code, in Hartree or eV, beside frames of pseudopotentials."""
    metal = {"element": "Na", "level": LEVEL, "energy_ev": energy, "source": "all electrons"}
    settings = ThermodynamicsSettings.model_validate({"metals": [metal]})
    with pytest.raises(UserError, match=rf"which no cell has: .* gives Na {energy:g} eV"):
        run(
            reference_dir,
            [write_charge_order(reference_dir, tmp_path / "painn-baseline-f0-s1")],
            [],
            tmp_path / "out",
            settings,
        )
    assert not (tmp_path / "out/voltage.csv").exists()


def test_a_model_whose_voltage_no_cell_has_is_said(reference_dir: Path, tmp_path: Path, capsys):
    """A potential from elsewhere brings a metal of its own level, which may be on another scale."""
    x = pd.read_csv(reference_dir / "reference.csv")["x"].to_numpy()
    model = write_charge_order(reference_dir, tmp_path / "shipped-outside", -600.0 * x, level="other")
    metal = {"element": "Na", "level": "other", "energy_ev": -1.5, "source": "bcc"}
    known = [item.model_dump() for item in SETTINGS.metals]
    settings = ThermodynamicsSettings.model_validate({"metals": [*known, metal]})
    run(reference_dir, [model], [], tmp_path / "out", settings)
    said = capsys.readouterr().err
    assert said.startswith("shipped-outside: the average voltage against Na metal is 15")
    assert "Na -1.5 eV, which is no energy per atom on the scale of other" in said


def test_a_metal_given_twice_at_one_level_is_refused():
    twice = [{"element": "Na", "level": LEVEL, "energy_ev": e, "source": "x"} for e in (-1.3, -1.4)]
    with pytest.raises(ValidationError, match="is given twice"):
        ThermodynamicsSettings.model_validate({"metals": twice})


def test_formation_energies_are_the_charge_orders(reference_dir: Path, tmp_path: Path):
    run(
        reference_dir,
        [write_charge_order(reference_dir, tmp_path / "painn-baseline-f0-s1")],
        [],
        tmp_path / "out",
    )
    table = pd.read_csv(tmp_path / "out/formation.csv")
    dft = table[table["id"] == "dft"].set_index("state_key")
    stored = pd.read_csv(reference_dir / "reference.csv").set_index("state_key")
    # Two independent sums of 180 eV energies read from 10-digit CSV: 1e-7 eV = 1e-4 meV.
    np.testing.assert_allclose(
        dft["formation_mev_fu"], stored.loc[dft.index, "formation_mev_fu"], atol=1e-3
    )
    assert (dft["above_hull_mev_fu"] >= -1e-6).all()
    assert dft["degeneracy"].sum() == 2 * (1 + 16) + 6 * 6
    assert dft["on_hull"].sum() == (dft["above_hull_mev_fu"].abs() < 1e-6).sum()


def test_scores_by_hand(reference_dir: Path, tmp_path: Path):
    states = pd.read_csv(reference_dir / "reference.csv")
    x = states["x"].to_numpy()
    # Full end 0.4 eV a cell higher: the average voltage falls by 100 mV, E_f is untouched if the
    # other compositions move along the line; +0.08 eV a cell at x = 1/2 alone is 20 meV/f.u. there.
    tilt = write_charge_order(reference_dir, tmp_path / "mace-baseline-f0-s1", 0.4 * x)
    bump = write_charge_order(reference_dir, tmp_path / "mace-entropy-f0-s1", 0.08 * (x == 0.5))
    run(reference_dir, [tilt, bump], [], tmp_path / "out")
    scores = pd.read_csv(tmp_path / "out/scores.csv").set_index("id")
    tilted, bumped = scores.loc["mace-baseline-f0-s1"], scores.loc["mace-entropy-f0-s1"]
    assert tilted["hull_mae_mev_fu"] == pytest.approx(0, abs=1e-3)
    assert tilted["voltage_mae_mv"] == pytest.approx(100, abs=1e-3)
    assert bumped["hull_mae_mev_fu"] == pytest.approx(20 / 3, abs=1e-3)
    # 20 meV/f.u. at x = 1/2 move the steps from 1/4 and to 3/4 by 80 mV, the two others by nothing.
    assert bumped["step_voltage_mae_mv"] == pytest.approx(40, abs=1e-3)
    assert tilted["step_voltage_mae_mv"] == pytest.approx(100, abs=1e-3)
    assert bumped["voltage_mae_mv"] == pytest.approx(0, abs=1e-3)  # still above the hull
    assert bumped["compositions"] == bumped["compositions_dft"] == 3


def test_a_model_with_a_false_ground_state_is_told(reference_dir: Path, tmp_path: Path):
    states = pd.read_csv(reference_dir / "reference.csv")
    half = (states["x"] == 0.5).to_numpy()
    gap = states.loc[half, "formation_mev_fu"].min()
    wrong = write_charge_order(reference_dir, tmp_path / "mace-baseline-f0-s1", -4e-3 * (gap + 50) * half)
    run(reference_dir, [wrong], [], tmp_path / "out")
    hull = pd.read_csv(tmp_path / "out/hull.csv")
    own = hull[hull["id"] == "mace-baseline-f0-s1"].set_index("x")
    assert own.loc[0.5, "formation_mev_fu"] == pytest.approx(-50, abs=1e-3)
    scores = pd.read_csv(tmp_path / "out/scores.csv").iloc[0]
    # A vertex 50 meV below at x = 1/2 lifts the first plateau by 100 mV and lowers the second.
    assert scores["voltage_mae_mv"] == pytest.approx(100, abs=1e-2)


@pytest.mark.draws
def test_a_training_without_an_end_member_is_said(reference_dir: Path, tmp_path: Path):
    x = pd.read_csv(reference_dir / "reference.csv")["x"].to_numpy()
    models = [
        write_charge_order(
            reference_dir,
            tmp_path / f"mace-entropy-f{fold}-s1",
            status=np.where(x == end, "moved", "converged"),
        )
        for fold, end in ((0, 1.0), (1, -1.0))
    ]
    out = run(reference_dir, models, [], tmp_path / "out")
    for name in ("hull", "voltage"):
        words = " ".join(re.sub("<[^>]*>", " ", (out / f"{name}.svg").read_text()).split())
        assert "1 of 2 trainings of mace entropy" in words


def test_diverged_end_member_gives_no_numbers_but_a_reason(reference_dir: Path, tmp_path: Path):
    states = pd.read_csv(reference_dir / "reference.csv")
    status = np.where(states["x"] == 1, "diverged", "converged")
    broken = write_charge_order(reference_dir, tmp_path / "mace-entropy-f0-s1", status=status)
    whole = write_charge_order(reference_dir, tmp_path / "mace-baseline-f0-s1")
    run(reference_dir, [broken, whole], [], tmp_path / "out")
    scores = pd.read_csv(tmp_path / "out/scores.csv").set_index("id")
    assert "x = 1" in scores.loc["mace-entropy-f0-s1", "status"]
    assert np.isnan(scores.loc["mace-entropy-f0-s1", "hull_mae_mev_fu"])
    assert scores.loc["mace-baseline-f0-s1", "hull_mae_mev_fu"] == pytest.approx(0, abs=1e-6)


def test_diverged_state_stays_listed_outside_the_hull(reference_dir: Path, tmp_path: Path):
    states = pd.read_csv(reference_dir / "reference.csv")
    quarter = (states["x"] == 0.25).to_numpy()
    status = np.where(quarter, "diverged", "converged")
    run(
        reference_dir,
        [
            write_charge_order(
                reference_dir, tmp_path / "mace-entropy-f0-s1", -100.0 * quarter, status=status
            )
        ],
        [],
        tmp_path / "out",
    )
    formation = pd.read_csv(tmp_path / "out/formation.csv")
    lost = formation[formation["status"] == "diverged"]
    assert len(lost) == 2
    assert lost["formation_mev_fu"].isna().all()
    assert not lost["on_hull"].any()
    assert pd.read_csv(tmp_path / "out/scores.csv").iloc[0]["compositions"] == 2  # of 1/4, 1/2 and 3/4


def test_a_state_of_dft_barred_from_the_hull_has_no_part_in_the_scores(reference_dir: Path, tmp_path: Path):
    """A model that is right wherever DFT converged is right, however low DFT's other states lie."""
    states = pd.read_csv(reference_dir / "reference.csv")
    lowest = states[states["x"] == 0.5]["energy_ev"].idxmin()
    barred = (states.index == lowest) | (states["x"] == 0.25)
    model = write_charge_order(reference_dir, tmp_path / "mace-entropy-f0-s1", drop=barred)
    folder = tmp_path / "reference"
    shutil.copytree(reference_dir, folder)
    states.loc[barred, "status"] = "unconverged"
    states.loc[lowest, "energy_ev"] -= 0.8
    states.to_csv(folder / "reference.csv", index=False)
    seal(folder, "charge-order-reference")
    settings = SETTINGS.model_copy(update={"accept_unconverged": False})
    out = run(folder, [model], [], tmp_path / "out", settings)
    scores = pd.read_csv(out / "scores.csv").iloc[0]
    assert scores["compositions"] == scores["compositions_dft"] == 2
    for error in ("hull_mae_mev_fu", "step_voltage_mae_mv", "voltage_mae_mv"):
        assert scores[error] == pytest.approx(0, abs=1e-3), error


@pytest.mark.parametrize("charge", [1, 2])
def test_errors_of_voltage_steps_do_not_know_the_sign_of_the_ion(charge: int):
    model = pd.DataFrame(
        {"state_key": list("abc"), "x": [0, 0.5, 1], "energy_ev": [0, -4.0, -8.0], "sites": 4}
    )
    dft = model.assign(energy_ev=[0, -4.8, -8.0])
    # 0.2 eV a site at x = 1/2, over steps of 1/2: 400 meV an ion.
    for sign in (1, -1):
        assert step_voltage_error(model, dft, sign * charge) == pytest.approx(400 / charge)


@pytest.mark.parametrize(("sites_per_fu", "charge"), [(1, 1), (2, 1), (1, 2), (2, 2), (2, -1)])
def test_formula_units_and_charges_of_any_host(sites_per_fu: int, charge: int):
    """Energies are given for cells, formation energies a formula unit, voltages an electron."""
    cells = [("1x1x1", 0, 4, 0.0), ("1x1x1", 2, 4, -0.03), ("1x1x1", 4, 4, 0.0), ("1x2x1", 2, 8, 0.02)]
    rows = [
        {
            "id": "toy",
            "protocol": "distorted",
            "state_key": f"{cell}:Mg{'1' * filled}{'0' * (sites - filled)}",
            "cell": cell,
            "x": filled / sites,
            "filled": filled,
            "sites": sites,
            "energy_ev": -sites * (40 + 5 * filled / sites) + sites / sites_per_fu * formation,
            "status": "converged",
        }
        for cell, filled, sites, formation in cells
    ]
    table = pd.DataFrame(rows).assign(**dict.fromkeys(MODEL, "toy"))
    answer = analyse(
        table,
        sites_per_fu=sites_per_fu,
        reservoir=Reservoir(charge, -1.5),
        settings=SETTINGS,
        where="test",
    )
    found = answer.structures["formation_mev_fu"]
    np.testing.assert_allclose(found, [0, -30, 0, 20], atol=1e-9)
    np.testing.assert_allclose(answer.structures["above_hull_mev_fu"], [0, 0, 0, 35], atol=1e-9)
    hull = _hull_rows(answer, sites_per_fu, accept_unconverged=True)
    np.testing.assert_allclose([row["formation_mev_fu"] for row in hull], [0, -30, 0], atol=1e-9)
    # An ion is bound by 5 eV, by 1.5 eV in the metal; the compound at 1/2 makes two steps of it.
    step = 2 * 0.03 / sites_per_fu
    volts = answer.voltages["enumerated"].volts
    np.testing.assert_allclose(volts, np.array([3.5 + step, 3.5 - step]) / charge, atol=1e-9)


def test_spread_over_seeds_and_identical_tables(reference_dir: Path, tmp_path: Path):
    x = pd.read_csv(reference_dir / "reference.csv")["x"].to_numpy()
    charge_orders = [
        write_charge_order(reference_dir, tmp_path / f"mace-entropy-f0-s{seed}", 0.1 * seed * x)
        for seed in (1, 2, 3)
    ]
    run(reference_dir, charge_orders, [], tmp_path / "one")
    run(reference_dir, charge_orders[::-1], [], tmp_path / "two")
    summary = pd.read_csv(tmp_path / "one/summary.csv").iloc[0]
    # Voltages off by 25, 50 and 75 mV.
    assert summary["voltage_mae_mv_mean"] == pytest.approx(50, abs=1e-3)
    assert summary["voltage_mae_mv_std"] == pytest.approx(25, abs=1e-3)
    assert summary["voltage_mae_mv_count"] == 3
    written = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert written == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in written:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_clear_errors(reference_dir: Path, tmp_path: Path, host: Host):
    with pytest.raises(UserError, match=r"states\.csv does not exist"):
        run(reference_dir, [tmp_path / "mace-baseline-f0-s1"], [], tmp_path / "out")
    with pytest.raises(UserError, match="searched, but without charge-order results: mace-entropy-f0-s1"):
        search = write_search(tmp_path / "mace-entropy-f0-s1", reference_dir, host)
        run(reference_dir, [], [search], tmp_path / "out")
    shifted = write_charge_order(reference_dir, tmp_path / "painn-baseline-f0-s1", x=0.5)
    with pytest.raises(UserError, match="does not belong to the key 1x1x1:Na0000"):
        run(reference_dir, [shifted], [], tmp_path / "out")
    (tmp_path / "mace-subset-f0-s1").mkdir()
    pd.DataFrame({"protocol": ["distorted"]}).to_csv(tmp_path / "mace-subset-f0-s1/states.csv")
    seal(tmp_path / "mace-subset-f0-s1", "charge-order", source="mace-subset-f0-s1")
    with pytest.raises(UserError, match="lacks the columns id, model"):
        run(reference_dir, [tmp_path / "mace-subset-f0-s1"], [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_ranking_without_relaxations_has_no_hull(reference_dir: Path, tmp_path: Path):
    # Formal-charge Ewald energies: one protocol only, and not the one that enters hulls.
    states = pd.read_csv(reference_dir / "reference.csv").assign(
        protocol="undistorted", status="single-point"
    )
    write_sealed("charge_order/states", tmp_path / "ewald", states)
    model = write_charge_order(reference_dir, tmp_path / "painn-entropy-f0-s1")
    run(reference_dir, [tmp_path / "ewald", model], [], tmp_path / "out")
    assert pd.read_csv(tmp_path / "out/scores.csv")["id"].tolist() == ["painn-entropy-f0-s1"]
    assert "ewald" not in set(pd.read_csv(tmp_path / "out/formation.csv")["id"])


@pytest.mark.draws
@pytest.mark.parametrize(("other", "said"), [(0.0, True), (-1.2, False)])
def test_a_hull_is_said_to_be_dfts_if_it_is_that_of_every_training(
    other: float, said: bool, reference_dir: Path, tmp_path: Path
):
    x = pd.read_csv(reference_dir / "reference.csv")["x"].to_numpy()
    inner = (x > 0) & (x < 1)
    answers = [
        write_charge_order(reference_dir, tmp_path / f"mace-entropy-f{fold}-s1", shift * inner)
        for fold, shift in ((0, other), (1, 0.0))
    ]
    svg = (run(reference_dir, answers, [], tmp_path / "out") / "hull.svg").read_text()
    assert ("hull of entropy" in svg) is said


def test_a_model_that_lost_dfts_ground_state_is_not_better_for_it(reference_dir: Path, tmp_path: Path):
    """Its energies are as much too low as DFT's second state lies higher: of the rest it would err by 0."""
    states = pd.read_csv(reference_dir / "reference.csv")
    half = states[states["x"] == 0.5].sort_values("energy_ev")
    low = -float(np.diff(half["energy_ev"])[0]) * (states["x"] == 0.5).to_numpy()
    moved = np.where(states["state_key"] == half["state_key"].iloc[0], "moved", "converged")
    models = [
        write_charge_order(reference_dir, tmp_path / "mace-entropy-f0-s1", low),
        write_charge_order(reference_dir, tmp_path / "mace-entropy-f1-s1", low, status=moved),
    ]
    out = run(reference_dir, models, [], tmp_path / "out")
    whole, lost = pd.read_csv(out / "scores.csv").sort_values("id").to_dict("records")
    assert whole["hull_mae_mev_fu"] == pytest.approx(-low.min() * 1000 / 4 / 3, abs=1e-3) != 0
    assert (whole["compositions"], lost["compositions"], lost["compositions_dft"]) == (3, 2, 3)
    summary = pd.read_csv(out / "summary.csv").iloc[0]
    for name in ("hull_mae_mev_fu", "step_voltage_mae_mv"):
        assert (summary[f"{name}_mean"], summary[f"{name}_count"]) == (pytest.approx(whole[name]), 1)


def test_a_training_that_lost_a_composition_has_no_part_in_the_mean(reference_dir: Path, tmp_path: Path):
    states = pd.read_csv(reference_dir / "reference.csv")
    x = states["x"].to_numpy()
    inner = (x > 0) & (x < 1)
    whole = write_charge_order(reference_dir, tmp_path / "mace-entropy-f0-s1", 0.12 * inner)
    lost = write_charge_order(
        reference_dir, tmp_path / "mace-entropy-f1-s1", 0.04 * inner, states["x"] == 0.25
    )
    summary = pd.read_csv(run(reference_dir, [whole, lost], [], tmp_path / "out") / "summary.csv").iloc[0]
    assert (summary["hull_mae_mev_fu_mean"], summary["hull_mae_mev_fu_count"]) == (
        pytest.approx(30, abs=1e-3),
        1,
    )
