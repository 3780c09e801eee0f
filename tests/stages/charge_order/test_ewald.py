"""The naive ranking by formal charges."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ase.build import bulk
from ase.units import Bohr, Hartree
from changed_config import changed_config

from workflow_lib.__main__ import main
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json, write_json
from workflow_lib.frames.splits import Splits
from workflow_lib.lattice.ewald import ewald_energy
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.results_reading import seal
from workflow_lib.stages.charge_order.ewald import fitted_scale, run_ewald
from workflow_lib.stages.charge_order.pooled import scores_across_folds
from workflow_lib.stages.charge_order.settings import ChargeOrderSettings

MADELUNG_ROCK_SALT = 1.747564594633
COULOMB = Hartree * Bohr  # eV A


def test_rock_salt_has_its_madelung_energy() -> None:
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    charges = np.where(salt.numbers == 11, 1.0, -1.0)
    expected = -4 * MADELUNG_ROCK_SALT * COULOMB / 2.82
    # pymatgen's sums are cut at a relative error near 1e-6 and its constants have 8 digits.
    assert ewald_energy(salt, charges) == pytest.approx(expected, rel=1e-5)


def test_scale_is_the_slope_of_relative_energies() -> None:
    ewald = np.array([0.0, 1.0, 3.0])
    assert fitted_scale(ewald + 100, 0.25 * ewald - 7) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="two states"):
        fitted_scale(np.ones(3), ewald)


def test_ranking_of_the_reference(
    reference_dir: Path, splits_path: Path, host: Host, rule: RedoxRule, tmp_path: Path
) -> None:
    scores = run_ewald(
        reference_dir=reference_dir,
        host=host,
        rule=rule,
        splits_path=splits_path,
        folds=(0,),
        settings=ChargeOrderSettings(),
        out=tmp_path / "ewald",
    )
    states = pd.read_csv(tmp_path / "ewald/states.csv")
    assert len(states) == 16
    assert (states["seen"] == states["role"].isin(["train", "validation"])).all()
    half = states[(states["x"] == 0.5) & ~states["seen"]]
    # Independent of the code under test: ranks of the unscaled energies.
    expected = half["ewald_ev"].rank().corr(half["dft_energy_ev"].rank())
    assert scores["states_spearman"] == pytest.approx(expected)
    assert scores["ewald_scale"] > 0
    assert np.allclose(states["energy_ev"], scores["ewald_scale"] * states["ewald_ev"], rtol=1e-8)
    assert scores["headline_protocol"] == "undistorted"
    assert scores["states_unseen"] == len(half) == 5
    assert scores["protocols"]["undistorted"]["orders_kept"] is None
    assert (tmp_path / "ewald/states.svg").stat().st_size > 0


def test_a_slope_that_is_not_positive_leaves_fitted_scores_out(
    reference_dir: Path, splits_path: Path, host: Host, rule: RedoxRule, tmp_path: Path
) -> None:
    upside = tmp_path / "upside"
    shutil.copytree(reference_dir, upside)
    table = pd.read_csv(upside / "reference.csv")
    table["energy_ev"] = -table["energy_ev"]
    table["formation_mev_fu"] = -table["formation_mev_fu"]
    table.to_csv(upside / "reference.csv", index=False)
    seal(upside, "charge-order-reference")
    arguments = {"host": host, "rule": rule, "splits_path": splits_path, "folds": (0, 1)}
    arguments["settings"] = ChargeOrderSettings()
    scores = run_ewald(reference_dir=upside, out=tmp_path / "a/ewald", **arguments)
    straight = run_ewald(reference_dir=reference_dir, out=tmp_path / "b/ewald", **arguments)
    assert scores["ewald_scale"] is None
    assert scores["states_mae_mev_fu"] is None
    assert scores["redox_spread_ratio"] is None
    assert scores["ground_states_found"] is scores["ground_states_total"] is None
    rows = scores["protocols"]["undistorted"]["ground_states"]
    assert all(row["counts"] is row["model_error_mev_fu"] is None for row in rows)
    assert scores["ground_states_total_all"] == 3
    assert scores["states_spearman"] == -straight["states_spearman"]
    pooled = scores_across_folds([tmp_path / "a/ewald"]).iloc[0]
    fitted = ["mae_mev_fu", "redox_spread_ratio", "ground_states_found", "ground_states_total"]
    assert pooled[[*fitted, "redox_spread_ratio_std"]].isna().all()
    assert pooled["spearman"] < 0 and pooled["ground_states_seeds"] == 0
    assert scores_across_folds([tmp_path / "b/ewald"])[fitted[:2]].notna().all(axis=None)


@pytest.mark.parametrize("folds", [(0,), (1,), (0, 1)])
def test_its_unseen_states_are_those_of_the_folds_that_run(
    reference_dir: Path,
    splits_path: Path,
    host: Host,
    rule: RedoxRule,
    tmp_path: Path,
    folds: tuple[int, ...],
) -> None:
    """Numbers of models, pooled over these folds, stand beside its own."""
    run_ewald(
        reference_dir=reference_dir,
        host=host,
        rule=rule,
        splits_path=splits_path,
        folds=folds,
        settings=ChargeOrderSettings(),
        out=tmp_path / "ewald",
    )
    states = pd.read_csv(tmp_path / "ewald/states.csv")
    held_out = {key for fold in folds for key in Splits.load(splits_path).fold(fold).states["test"]}
    assert set(states.loc[~states["seen"], "state_key"]) == held_out


def test_ranks_do_not_depend_on_the_factor(
    reference_dir: Path, splits_path: Path, host: Host, rule: RedoxRule, tmp_path: Path
) -> None:
    """DFT energies a thousand times nearer to each other make the factor small, and its energies ties."""
    near = tmp_path / "near"
    shutil.copytree(reference_dir, near)
    table = pd.read_csv(near / "reference.csv")
    table[["energy_ev", "formation_mev_fu"]] /= 1000
    table.to_csv(near / "reference.csv", index=False)
    seal(near, "charge-order-reference")
    arguments = {"host": host, "rule": rule, "splits_path": splits_path, "folds": (0,)}
    arguments["settings"] = ChargeOrderSettings()
    scores = run_ewald(reference_dir=near, out=tmp_path / "a", **arguments)
    straight = run_ewald(reference_dir=reference_dir, out=tmp_path / "b", **arguments)
    assert scores["ewald_scale"] == pytest.approx(straight["ewald_scale"] / 1000)
    for name in (
        "states_spearman",
        "states_spearman_all",
        "redox_pairs_ordered",
        "ground_states_found_all",
    ):
        assert scores[name] == straight[name] is not None
    # CSV keeps ten digits of an energy of 200 eV: 1e-7 of a thousandth of 100 meV is 1e-3.
    assert scores["states_mae_mev_fu"] == pytest.approx(straight["states_mae_mev_fu"] / 1000, rel=1e-2)


def test_composition_without_rivals_is_a_clear_line(
    reference_dir: Path, splits_path: Path, host: Host, rule: RedoxRule, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"too few states at x = 0\.6"):
        run_ewald(
            reference_dir=reference_dir,
            host=host,
            rule=rule,
            splits_path=splits_path,
            folds=(0,),
            settings=ChargeOrderSettings(compared_x=0.6),
            out=tmp_path / "ewald",
        )
    assert not (tmp_path / "ewald").exists()


@pytest.mark.parametrize("compared_x", [0.25, 0.75])
def test_the_command_ranks_the_composition_of_the_configuration(
    reference_dir: Path, splits_path: Path, tmp_path: Path, compared_x: float
) -> None:
    """Its row stands beside those of models, which compare this composition."""
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    shutil.copy(splits_path, dataset)
    seal(dataset, "dataset")
    write_json(tmp_path / "config.json", changed_config("charge_order.compared_x", compared_x))
    options = ["--config", str(tmp_path / "config.json"), "--reference", str(reference_dir)]
    out = tmp_path / "ewald"
    assert main(["charge-order-ewald", *options, "--dataset", str(dataset), "--out", str(out)]) == 0
    scores = read_json(out / "scores.json")
    states = pd.read_csv(out / "states.csv")
    own = states[np.isclose(states["x"], compared_x)]
    assert (scores["compared_x"], scores["states_total"]) == (compared_x, len(own)) == (compared_x, 2)
    # At x = 1/2 the slope is positive; DFT orders these two states against their formal charges.
    assert np.diff(own["ewald_ev"]) * np.diff(own["dft_energy_ev"]) < 0
    assert scores["ewald_scale"] is None and scores["states_mae_mev_fu_all"] is None
