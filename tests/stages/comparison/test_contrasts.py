"""What the label changes: paired differences and their intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sealed import write_sealed
from trainings import write_training

from workflow_lib.core.io import write_json
from workflow_lib.frames.splits import SETS
from workflow_lib.results_reading import seal
from workflow_lib.stages.comparison.contrasts import PAIRS, contrast_table
from workflow_lib.stages.training.run import SHOWN

ROOT = Path(__file__).parents[3]


def test_pairs_differ_in_the_label_alone_or_say_so():
    assert ("baseline", "entropy") in PAIRS and ("subset", "entropy") in PAIRS
    assert ("shuffled", "entropy") in PAIRS
    assert not any("new-species" in pair for pair in PAIRS)  # its label is a true one


def test_texts_name_the_sample_that_contrasts_are_taken_on():
    """The parity table, their source, holds this many frames of a set; the comparison table counts all."""
    for name in (
        *("docs/comparison.md", "rules/captions/contrasts.rst", "rules/captions/ablation.rst"),
        *("workflow_lib/results_meanings.py", "workflow_lib/stages/report/sections.py"),
    ):
        assert f"at most {SHOWN:,} " in (ROOT / name).read_text(), name


def write_energies(folder: Path, errors: dict[str, float], **of_card: str) -> Path:
    """A model whose energies are off by some meV/atom, state by state."""
    return write_training(folder, {"energy": {key: off / 1000 for key, off in errors.items()}}, **of_card)


def write_charge_order(folder: Path, errors: list[float]) -> Path:
    """Ten meV a formula unit between states in DFT; the model's are off by ``errors``."""
    count = len(errors)
    table = pd.DataFrame({"state_key": [f"1x1x1:Na1001:Fe{k}" for k in range(count)], "x": 0.5})
    dft = 0.04 * np.arange(count)
    table = table.assign(ion_key="1x1x1:Na1001", protocol="distorted", status="converged", seen=False)
    table = table.assign(formula_units=4, dft_energy_ev=dft, energy_ev=dft + 0.004 * np.array(errors))
    write_sealed("charge_order/states", folder, table)
    write_json(folder / "scores.json", {"compared_x": 0.5})
    seal(folder, "charge-order", source=folder.name)
    return folder


HULL = pd.DataFrame(
    {"id": [], "hull_mae_mev_fu": [], "step_voltage_mae_mv": [], "compositions": [], "compositions_dft": []}
)


def test_errors_are_paired_number_by_number(tmp_path: Path):
    without = {"a": 10.0, "b": 12.0, "c": 20.0, "only here": 500.0}
    label = {"a": 6.0, "b": 7.0, "c": 14.0}
    trainings = [
        write_energies(tmp_path / f"painn-{variant}-f0-s{seed}", errors)
        for seed in (1, 2, 3)
        for variant, errors in (("baseline", without), ("entropy", label))
    ]
    orders = {
        path.name: write_charge_order(
            tmp_path / "orders" / path.name, [0, 3, 6] if "baseline" in path.name else [0, 1, 2]
        )
        for path in trainings
    }
    hull = pd.DataFrame(
        {
            "id": [path.name for path in trainings],
            "hull_mae_mev_fu": [30.0, 20, 33, 20, 36, 20],
            "step_voltage_mae_mv": None,
            **{"compositions": 3, "compositions_dft": 3},
        }
    )
    table = contrast_table(trainings, orders, hull).set_index("endpoint")
    energy = table.loc["energy_mae_mev_atom"]
    assert (energy["trainings"], energy["states"]) == (3, 3)  # the fourth state has no partner
    assert energy["error_without"] == pytest.approx(14, abs=1e-6)
    assert energy["difference"] == pytest.approx(-5, abs=1e-6)
    # Three states differ by -4, -5 and -6: Student's interval is 4.303 / sqrt(3) wide on each side.
    assert (energy["low"], energy["high"]) == pytest.approx((-5 - 2.484, -5 + 2.484), abs=1e-3)
    # p = 0.013, the smallest of three: together with the others it is 0.04.
    assert energy["p_together"] == pytest.approx(3 * 0.01307, rel=1e-3)
    assert energy["decided"] and energy["reason"] == "given the training set of 1 fold"
    states = table.loc["states_mae_mev_fu"]
    # Relative to their means the errors are -3, 0, 3 and -1, 0, 1 meV per formula unit.
    assert states[["error_without", "error_with"]].tolist() == pytest.approx([2, 2 / 3], abs=1e-9)
    assert table.loc["hull_mae_mev_fu", "difference"] == pytest.approx(-13, abs=1e-9)
    assert table.loc["hull_mae_mev_fu", "decided"]  # -10, -13, -16
    assert "step_voltage_mae_mv" not in table.index


def test_frames_that_were_trained_on_have_no_part(tmp_path: Path):
    """Whatever a model makes of them: what the label changes is asked of held-out frames."""
    errors = {"baseline": {"a": 10.0, "b": 12.0, "c": 20.0}, "entropy": {"a": 6.0, "b": 7.0, "c": 14.0}}
    for variant, own in errors.items():
        folder = write_energies(tmp_path / f"painn-{variant}-f0-s1", own)
        parity = pd.read_parquet(folder / "parity.parquet").query("set == 'test'")
        known = [parity.assign(set=name, frame_id=name + parity["frame_id"]) for name in SETS[:2]]
        for number, part in enumerate(known, 1):
            part["model_value"] += number * (variant == "entropy")
        write_sealed("training/parity", folder, pd.concat([*known, parity]))
        seal(folder, "train", source=folder.name)
    [row] = contrast_table(sorted(tmp_path.iterdir()), {}, HULL).to_dict("records")
    assert (row["error_without"], row["error_with"]) == pytest.approx((14, 9), abs=1e-6)


@pytest.mark.parametrize(
    "other",
    [
        {"seen": True},
        {"x": 0.25},
        {"protocol": "undistorted"},
        {"protocol": "single-point"},
        {"status": "diverged"},
    ],
)
def test_relative_energies_are_those_of_unseen_states_of_one_composition_and_protocol(
    other: dict[str, object], tmp_path: Path
):
    """Rows of any other kind may hold anything: they move neither the errors nor their zero."""
    trainings, orders = [], {}
    for variant, errors in (("baseline", [0, 3, 6]), ("entropy", [0, 1, 2])):
        name = f"painn-{variant}-f0-s1"
        trainings.append(write_energies(tmp_path / name, {"a": 1.0}))
        orders[name] = write_charge_order(tmp_path / "orders" / name, errors)
        table = pd.read_csv(orders[name] / "states.csv")
        more = table.assign(state_key=table["state_key"] + "0", energy_ev=[0.0, 9.0, 4.0], **other)
        write_sealed("charge_order/states", orders[name], pd.concat([table, more]))
        seal(orders[name], "charge-order", source=name)
    row = contrast_table(trainings, orders, HULL).set_index("endpoint").loc["states_mae_mev_fu"]
    assert row[["error_without", "error_with"]].tolist() == pytest.approx([2, 2 / 3], abs=1e-9)
    assert row["states"] == 3


def test_seeds_of_one_fold_are_no_independent_trainings(tmp_path: Path):
    """The label helps two folds of three, each with three seeds that agree: that may be chance."""
    gains = {0: -6.0, 1: -5.0, 2: 4.0}
    trainings = [
        write_energies(tmp_path / f"painn-{variant}-f{fold}-s{seed}", {f"state of {fold}": error})
        for fold, gain in gains.items()
        for seed in (1, 2, 3)
        for variant, error in (("baseline", 10.0), ("entropy", 10.0 + gain))
    ]
    errors = [10.0 + ("entropy" in path.name) * gains[int(path.name[-4])] for path in trainings]
    hull = pd.DataFrame({"id": [path.name for path in trainings], "hull_mae_mev_fu": errors})
    hull = hull.assign(step_voltage_mae_mv=None, compositions=3, compositions_dft=3)
    table = contrast_table(trainings, {}, hull).set_index("endpoint")
    row = table.loc["hull_mae_mev_fu"]  # one number a training: no states to cluster by
    assert row["trainings"] == 9 and row["difference"] == pytest.approx(-7 / 3, abs=1e-6)
    # Student's interval of three numbers, whose folds test one frame for every four that they share.
    half = 4.3026527 * np.std(list(gains.values()), ddof=1) * (1 / 3 + 1 / 4) ** 0.5
    assert row["high"] - row["difference"] == pytest.approx(half, abs=1e-4)
    assert not row["decided"] and row["reason"] == "zero lies within the interval"


@pytest.mark.parametrize(("lost", "error"), [(0, 5.0), (1, 5.0), (4, 5.0), (1, np.nan)])
def test_a_model_that_lost_a_composition_is_not_better_for_it(tmp_path: Path, lost: int, error: float):
    """Both variants err alike; without the composition that is worst for both, the mean is a third.

    Without an end member a model has no hull at all.
    """
    names = [f"painn-{variant}-f{fold}-s1" for fold in range(4) for variant in ("baseline", "entropy")]
    trainings = [write_energies(tmp_path / name, {"a": 1.0}) for name in names]
    hull = pd.DataFrame({"id": names, "hull_mae_mev_fu": [15.0, 15.3, 15.2, 15.1, 15.4, 15.1, 15.0, 15.2]})
    hull = hull.assign(step_voltage_mae_mv=100.0, compositions=3, compositions_dft=3)
    gone = hull["id"].isin([f"painn-entropy-f{fold}-s1" for fold in range(lost)])
    hull.loc[gone, ["hull_mae_mev_fu", "compositions"]] = error, 2
    table = contrast_table(trainings, {}, hull).set_index("endpoint")
    for endpoint in ("hull_mae_mev_fu", "step_voltage_mae_mv"):
        row = table.loc[endpoint]
        assert row["trainings"] == 4 - lost and not row["decided"]
        words = f"{lost} of 4 pairs left out: no energy of DFT's lowest state at a composition"
        if lost == 4:
            assert row["reason"] == words and np.isnan(row["difference"])
        else:
            assert abs(row["difference"]) < 0.3
            assert row["reason"].endswith(words) == bool(lost)
            assert row["reason"].startswith("zero lies within the interval")


def test_one_training_decides_nothing(tmp_path: Path):
    trainings = [
        write_energies(tmp_path / "painn-baseline-f0-s1", {"a": 10, "b": 12, "c": 20}),
        write_energies(tmp_path / "painn-entropy-f0-s1", {"a": 6, "b": 7, "c": 14}),
    ]
    row = contrast_table(trainings, {}, HULL).iloc[0]
    assert row["high"] < 0 and not row["decided"]
    assert row["reason"] == "trained 1 time"


def test_diverged_trainings_have_no_part(tmp_path: Path):
    trainings = [
        write_energies(tmp_path / "painn-baseline-f0-s1", {"a": 10, "b": 12, "c": 20}),
        write_energies(tmp_path / "painn-entropy-f0-s1", {"a": 6, "b": 7, "c": 14}, status="diverged"),
    ]
    assert contrast_table(trainings, {}, HULL).empty


def test_copies_of_one_training_are_one(tmp_path: Path):
    """Without epochs every seed has the shipped weights: three copies of an answer are no three answers."""
    trainings = [
        write_energies(
            tmp_path / f"chgnet-{variant}-f0-s{seed}",
            {"a": error, "b": error + 1, "c": error},
            weights=variant,
        )
        for seed in (1, 2, 3)
        for variant, error in (("baseline", 10.0), ("entropy", 12.0))
    ]
    (row,) = (
        contrast_table(trainings, {}, HULL).query("endpoint == 'energy_mae_mev_atom'").to_dict("records")
    )
    assert row["trainings"] == 1 and not row["decided"]
    assert row["reason"] == "trained 1 time"


@pytest.mark.parametrize(("ends", "left"), [(("3", "4"), 3), (("2", "3", "4"), 0)])
def test_states_that_one_model_lost_are_said(tmp_path: Path, ends: tuple[str, ...], left: int):
    """Also where too few are left for a zero that both share."""
    trainings = [
        write_energies(tmp_path / f"painn-{variant}-f0-s{seed}", {"a": 5.0})
        for seed in (1, 2, 3)
        for variant in ("baseline", "entropy")
    ]
    orders = {}
    for path in trainings:
        folder = write_charge_order(tmp_path / "orders" / path.name, [0, 3, 6, 50, 60])
        if "entropy" in path.name:
            table = pd.read_csv(folder / "states.csv")
            lost = table["state_key"].str.endswith(ends)
            table = table.assign(status=np.where(lost, "diverged", "converged"))
            table["energy_ev"] = table["energy_ev"].where(~lost)
            write_sealed("charge_order/states", folder, table)
        orders[path.name] = folder
    table = contrast_table(trainings, orders, HULL).set_index("endpoint")
    row = table.loc["states_mae_mev_fu"]
    if left:
        assert row["states"] == left
        # Of the three that both have, both err alike: the hard ones count for neither.
        assert row["error_without"] == row["error_with"] == pytest.approx(2)
    else:
        assert (row["trainings"], row["folds"]) == (0, 0)
    lost = f"{15 - 3 * left} of 15 energies of states left out"
    assert f"{lost}: diverged or moved with or without the label" in row["reason"]
