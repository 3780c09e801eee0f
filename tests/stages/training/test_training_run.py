"""A whole training: what it writes, what it repeats, what it refuses, how it fails."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from toy_potential import ToyHyperparameters, ToyPotential
from training_case import LOSS, run

from workflow_lib.frames.table import frame_to_atoms, read_parquet, with_labels, write_parquet
from workflow_lib.models.species import species_alphabet
from workflow_lib.models.trained import TrainedModel
from workflow_lib.stages.training.data import to_structure

WRITTEN = {
    *("model.safetensors", "card.json", "history.csv", "metrics.csv", "parity.parquet"),
    *("labels.json", "timings.json"),
    *(f"{stem}.{suffix}" for stem in ("learning", "parity") for suffix in ("svg", "png", "csv")),
}
MOMENTS = [*LOSS, {"label": "magmoms"}, {"label": "charges"}]


def test_outputs(case, rule, tmp_path):
    out = tmp_path / "out"
    run(case, out, rule, loss=MOMENTS, epochs=4)
    assert {path.name for path in out.iterdir()} == WRITTEN

    card = json.loads((out / "card.json").read_text())
    assert card["status"] == "ok" and card["redox_embedding"] == "surrogate"
    assert card["training"]["frames"] == {"train": 20, "validation": 5, "test": 10}
    energies = card["training"]["species_energies_ev"]
    assert energies["Ga"] == pytest.approx(energies["Fe"], abs=1e-9)

    history = pd.read_csv(out / "history.csv")
    assert history["epoch"].tolist() == [0, 1, 2, 3, 4]
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[1]
    best = int(history["validation_loss"].idxmin())
    assert card["training"]["best_epoch"] == best
    assert history["learning_rate"].iloc[-1] == pytest.approx(5e-3 * 0.01)

    labels = json.loads((out / "labels.json").read_text())["labels"]
    atoms = sum(len(f) for f in read_parquet(case / "frames.parquet") if f.group in ("x000_s0", "x100_s0"))
    assert labels["energy"]["used_per_epoch"] == [20]
    assert labels["forces"]["used_per_epoch"] == labels["charges"]["used_per_epoch"]
    assert labels["forces"]["used_per_epoch"][0] == labels["forces"]["available"]["train"] > atoms
    assert labels["stress"] == {
        **{"available": {"test": 0, "train": 0, "validation": 0}, "in_loss": False},
        **{"unit": "eV/A^3", "used_per_epoch": [0]},
    }

    # The kept model is the one that history and metrics speak of.
    frames = [f for f in read_parquet(case / "frames.parquet") if f.group == "x075_s1"]
    predictions = TrainedModel.load(out).predict([frame_to_atoms(f) for f in frames])
    error = np.mean([abs(p.energy - f.energy) / len(f) for p, f in zip(predictions, frames, strict=True)])
    # The loss is summed in float32, and CSV files hold ten digits.
    assert 1e3 * error == pytest.approx(history["validation_energy_mae_mev_atom"][best], rel=1e-4)
    metrics = pd.read_csv(out / "metrics.csv")
    row = metrics.query("set == 'validation' and kind == 'all' and label == 'energy' and metric == 'mae'")
    assert row["value"].item() == pytest.approx(1e3 * error, rel=1e-6)
    assert set(metrics["label"]) == {
        *("energy", "forces", "magmoms", "magmoms_redox", "charges", "charges_redox")
    }
    parity = pd.read_parquet(out / "parity.parquet")
    assert {"frame_id", "set", "kind", "label", "atom", "dft", "model"} <= set(parity.columns)
    timings = json.loads((out / "timings.json").read_text())
    assert timings["parameters"] == 3 * 119 and timings["peak_memory_mb"] > 100


def test_two_runs_give_the_same_bytes(case, rule, tmp_path):
    for name in ("one", "two"):
        run(case, tmp_path / name, rule, loss=MOMENTS)
        for file in case.glob("checkpoints/*/epoch*.pt"):
            file.unlink()
    for name in sorted(WRITTEN - {"timings.json"}):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_seeds_and_variants_differ(case, rule, tmp_path):
    tensors = {}
    for name, changes in (
        ("entropy", {}),
        ("baseline", {"variant": "baseline"}),
        ("shuffled", {"variant": "shuffled"}),
        ("new-species", {"variant": "new-species"}),
        ("seed", {"seed": 2}),
    ):
        run(case, tmp_path / name, rule, epochs=1, **changes)
        tensors[name] = load_file(tmp_path / name / "model.safetensors")["strength"]
    for name, value in tensors.items():
        assert name == "entropy" or not torch.equal(value, tensors["entropy"]), name
    card = json.loads((tmp_path / "new-species/card.json").read_text())
    assert card["species"]["labels"] == [8, 11, 15, 26, 89] and card["species"]["physical"]["89"] == 26
    card = json.loads((tmp_path / "baseline/card.json").read_text())
    assert card["species"]["labels"] == [8, 11, 15, 26] and card["redox_embedding"] == "none"


@pytest.mark.parametrize("family", ["toy", "chgnet"])
def test_untrained_pretrained_models_are_equal_with_and_without_labels(family, case, rule, tmp_path):
    # A surrogate starts as a copy of its element, and neutral data cannot tell its energy apart.
    predictions = {}
    for variant in ("baseline", "entropy"):
        out = tmp_path / variant
        run(case, out, rule, family=family, init="pretrained", variant=variant, epochs=0)
        frames = [frame_to_atoms(f) for f in read_parquet(case / "frames.parquet")]
        predictions[variant] = TrainedModel.load(out).predict(frames)
        assert pd.read_csv(out / "history.csv")["epoch"].tolist() == [0]
        assert json.loads((out / "timings.json").read_text())["seconds_per_epoch"] is None
    for blind, labelled in zip(*predictions.values(), strict=True):
        # The same network and, up to rounding in the fit to some 170 eV, the same energies.
        assert labelled.energy == pytest.approx(blind.energy, abs=1e-8)
        assert np.array_equal(labelled.forces, blind.forces)
        assert np.array_equal(labelled.magmoms, blind.magmoms)
    # The fit has taken out what a sum over species can: 0.2 eV an atom is far above what is left,
    # and far below the tens of eV between levels of theory.
    parity = pd.read_parquet(tmp_path / "baseline/parity.parquet").query("label == 'energy'")
    assert (parity["dft"] - parity["model"]).abs().mean() < 0.2


def test_divergence_is_recorded_and_the_last_good_model_kept(case, rule, tmp_path, monkeypatch):
    original = ToyPotential.network
    calls = {"count": 0}

    def breaking(self, batch, *, stress):
        output = original(self, batch, stress=stress)
        calls["count"] += self.training
        if calls["count"] > 12 and self.training:  # 5 steps an epoch: in the third
            output["energy"] = output["energy"] * torch.nan
        return output

    monkeypatch.setattr(ToyPotential, "network", breaking)
    out = tmp_path / "out"
    run(case, out, rule, epochs=6)
    card = json.loads((out / "card.json").read_text())
    assert card["status"] == "diverged"
    assert card["training"]["best_epoch"] == 2 and card["training"]["epochs"] == 3
    assert all(torch.isfinite(t).all() for t in load_file(out / "model.safetensors").values())
    metrics = pd.read_csv(out / "metrics.csv")
    assert set(metrics["status"]) == {"diverged"} and metrics["value"].notna().all()
    assert {path.name for path in out.iterdir()} == WRITTEN
    calls["count"] = -1000  # a rerun does not try its luck again: same inputs, same end
    run(case, out, rule, epochs=6)
    assert json.loads((out / "card.json").read_text())["status"] == "diverged"


def test_a_stress_term_learns_from_converged_frames(case, rule, tmp_path):
    frames = read_parquet(case / "frames.parquet")
    for index in range(0, len(frames), 2):
        frames[index] = with_labels(frames[index], stress_converged=True)
    write_parquet(frames, case / "frames.parquet")
    out = tmp_path / "out"
    run(case, out, rule, loss=[*LOSS, {"label": "stress", "weight": 10.0}], epochs=2)
    labels = json.loads((out / "labels.json").read_text())["labels"]["stress"]
    assert labels["used_per_epoch"] == [10] == [labels["available"]["train"]]
    metrics = pd.read_csv(out / "metrics.csv").query("label == 'stress' and kind == 'all'")
    test = metrics.query("set == 'test' and metric == 'mae'").iloc[0]
    assert test["unit"] == "meV/A^3" and test["count"] == 6 * 5
    assert np.isfinite(test["value"])


def test_a_student_learns_its_teacher(case, rule, tmp_path):
    # Labels of another toy, so that a perfect fit exists: what is left is the trainer's fault.
    frames = read_parquet(case / "frames.parquet")
    species = species_alphabet(rule, {8, 11, 15, 26}, "surrogate")
    teacher = ToyPotential.build(ToyHyperparameters(start=1.0), species, init="scratch", seed=9).eval()
    taught = []
    for frame in frames:
        output = teacher(teacher.collate([teacher.graph(to_structure(frame, rule, "surrogate"))]))
        forces = output["forces"].double().numpy()
        taught.append(with_labels(frame, energy=float(output["energy"]) - 170.0, forces=forces))
    write_parquet(taught, case / "frames.parquet")
    loss = [{"label": "forces", "kind": "mse"}]  # the energy of pairs has no free constant
    run(case, tmp_path / "out", rule, epochs=60, learning_rate=0.05, loss=loss)
    forces = pd.read_csv(tmp_path / "out/history.csv")["validation_forces_mae_mev_a"]
    assert forces.iloc[-1] < 0.05 * forces.iloc[0]
