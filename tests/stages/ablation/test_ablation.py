"""Errors of two models, paired number by number, in the units and the form of the paper's table."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from changed_config import changed_config
from pydantic import ValidationError
from sealed import write_sealed
from trainings import write_training

from workflow_lib.config_files import validate_config
from workflow_lib.core.errors import UserError
from workflow_lib.results_reading import read_table, seal
from workflow_lib.stages.ablation.run import run_ablation
from workflow_lib.stages.ablation.settings import AblationStudy

pytestmark = pytest.mark.draws
STUDY = AblationStudy(
    name="moment-term",
    without="plain",
    changed="moments",
    published={"energy": (33, 30), "stress": (0.351, None), "magmoms": (None, 0.032)},
)


def write_model(folder: Path, errors: dict[str, float], **of_card: str) -> Path:
    """A model whose labels are off by ``errors``, growing with the state: 1.15 times them on average."""
    growing = {
        label: {state: error * (1 + 0.1 * place) for place, state in enumerate("abcd")}
        for label, error in errors.items()
    }
    return write_training(folder, growing, **of_card)


@pytest.fixture
def trainings(tmp_path: Path) -> list[Path]:
    made = []
    for seed in (1, 2, 3):
        plain = {"energy": 0.004, "forces": 0.08, "stress": 0.002}
        moments = {"energy": 0.002, "forces": 0.08 + 0.01 * (seed - 2), "stress": 0.001, "magmoms": 0.04}
        made.append(write_model(tmp_path / f"plain-baseline-f0-s{seed}", plain))
        made.append(write_model(tmp_path / f"moments-baseline-f0-s{seed}", moments))
    return made


def test_errors_differences_and_units(trainings, tmp_path):
    out = tmp_path / "ablation"
    run_ablation([STUDY], trainings, out)
    table = read_table("ablation", out).set_index("label")
    assert table.loc["energy", ["error_without", "error_with"]].tolist() == pytest.approx([4.6, 2.3])
    assert table.loc["stress", "error_without"] == pytest.approx(1.15 * 0.002 * 160.21766, rel=1e-6)
    assert table["unit"].tolist() == ["meV/atom", "meV/A", "GPa", "muB"]
    assert (table.loc["energy", "trainings"], table.loc["energy", "states"]) == (3, 4)
    assert table.loc["energy", "difference"] == pytest.approx(-2.3)
    assert table.loc["energy", "high"] < 0 and table.loc["energy", "decided"]
    # The seeds of the forces fall on both sides of zero.
    assert table.loc["forces", "difference"] == pytest.approx(0, abs=1e-9)
    assert (
        table.loc["forces", "low"] < 0 < table.loc["forces", "high"] and not table.loc["forces", "decided"]
    )
    moments = table.loc["magmoms"]
    assert moments["error_with"] == pytest.approx(0.046) and np.isnan(moments["difference"])
    assert moments["reason"] == "learned by one alone"
    assert table.loc["stress", "published_without"] == 0.351 and np.isnan(
        table.loc["stress", "published_with"]
    )
    assert (out / "ablation.svg").stat().st_size > 1000


def test_trainings_without_a_partner_have_no_part(trainings, tmp_path):
    lone = write_model(tmp_path / "plain-baseline-f0-s9", {"energy": 5.0})
    table = run_ablation([STUDY], [*trainings, lone], tmp_path / "ablation").set_index("label")
    assert table.loc["energy", "error_without"] == pytest.approx(4.6)


def test_pairs_that_diverged_are_named(tmp_path):
    pair = [
        write_model(tmp_path / "plain-baseline-f0-s1", {"energy": 1.0}),
        write_model(tmp_path / "moments-baseline-f0-s1", {"energy": 1.0}, status="diverged"),
    ]
    table = run_ablation([STUDY], pair, tmp_path / "ablation")
    assert set(table["reason"]) == {"no pair of trainings is left that did not diverge"}
    assert len(table) == 4 and not table["decided"].any() and table["difference"].isna().all()
    assert (tmp_path / "ablation/ablation.svg").stat().st_size > 1000


def test_variants_of_one_seed_are_one_training_and_controls_are_none(tmp_path):
    pairs = [
        write_model(tmp_path / f"{name}-{variant}-f0-s1", {"energy": error})
        for variant in ("baseline", "subset", "entropy", "shuffled")
        for name, error in (("plain", 1.0), ("moments", 0.5))
    ]
    row = run_ablation([STUDY], pairs, tmp_path / "ablation").set_index("label").loc["energy"]
    assert row["trainings"] == 1 and not row["decided"] and row["reason"] == "trained 1 time"
    assert row["error_without"] == pytest.approx(1150)
    without_control = run_ablation([STUDY], pairs[:6], tmp_path / "again").set_index("label").loc["energy"]
    assert without_control["low"] == row["low"]


def test_copies_of_one_training_are_one(tmp_path):
    """Without epochs every seed has the shipped weights: three copies of an answer are no three answers."""
    pairs = [
        write_model(tmp_path / f"{name}-baseline-f0-s{seed}", {"energy": error}, weights=name)
        for seed in (1, 2, 3)
        for name, error in (("plain", 1.0), ("moments", 0.5))
    ]
    row = run_ablation([STUDY], pairs, tmp_path / "ablation").set_index("label").loc["energy"]
    assert row["trainings"] == 1 and not row["decided"] and row["reason"] == "trained 1 time"
    assert (row["error_without"], row["error_with"]) == pytest.approx((1150, 575))


@pytest.mark.parametrize("alone", ["plain", "moments"])
def test_a_label_of_one_model_alone_has_an_error_and_no_difference(tmp_path, alone):
    pair = [
        write_model(
            tmp_path / f"{name}-baseline-f0-s1",
            {"energy": 1.0} | ({"magmoms": 0.04} if name == alone else {}),
        )
        for name in ("plain", "moments")
    ]
    row = run_ablation([STUDY], pair, tmp_path / "ablation").set_index("label").loc["magmoms"]
    side, other = ("without", "with") if alone == "plain" else ("with", "without")
    assert row[f"error_{side}"] == pytest.approx(0.046) and np.isnan(row[f"error_{other}"])
    assert (row["trainings"], row["reason"]) == (1, "learned by one alone")
    assert np.isnan(row["difference"]) and not row["decided"]


def test_many_numbers_are_paired_one_by_one(tmp_path):
    """Pairs of all numbers with all once took 20 GB for some hundred frames."""
    pair = [
        write_model(tmp_path / f"{name}-baseline-f0-s1", {"energy": 1.0}) for name in ("plain", "moments")
    ]
    for folder in pair:
        rows = read_table("training/parity", folder)
        many = pd.concat([rows.assign(frame_id=rows["frame_id"] + f" {k}") for k in range(2500)])
        write_sealed("training/parity", folder, many.reset_index(drop=True))
        seal(folder, "train", source=folder.name)
    tracemalloc.start()
    run_ablation([STUDY], pair, tmp_path / "ablation")
    assert tracemalloc.get_traced_memory()[1] < 1e9  # 4 x 10^8 pairs would take 10 GB and more
    tracemalloc.stop()


def test_a_study_names_two_models_of_the_run():
    with pytest.raises(ValidationError, match="name two models"):
        AblationStudy(name="x", without="painn", changed="painn")
    study = {"name": "x", "without": "painn", "changed": "pain"}
    with pytest.raises(UserError, match=r"ablation\.x: no model named 'pain'"):
        validate_config(changed_config("ablation", {"studies": [study]}), "test")


def test_two_models_without_a_common_variant_are_refused():
    config = changed_config("ablation", {"studies": [{"name": "x", "without": "painn", "changed": "mace"}]})
    for model in config["models"]:
        model["variants"] = ["baseline"] if model["name"] == "painn" else ["entropy"]
    with pytest.raises(UserError, match=r"ablation\.x: painn and mace have no variant in common"):
        validate_config(config, "test")
