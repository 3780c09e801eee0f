"""A whole training: what it writes, what it repeats, what it refuses, how it fails."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from networks import SMALL
from safetensors.torch import load_file
from sealed import without_id
from toy_potential import ToyHyperparameters, ToyPotential
from training_case import LOSS, TEST, VALIDATION, run

from workflow_lib.core.errors import UserError
from workflow_lib.frames.frame import frame_to_atoms, with_labels
from workflow_lib.frames.splits import Fold, Splits
from workflow_lib.frames.table import read_parquet, write_parquet
from workflow_lib.models.registry import FAMILIES
from workflow_lib.models.species import species_alphabet
from workflow_lib.models.trained import TrainedModel
from workflow_lib.results_reading import read_document
from workflow_lib.stages.training.data import EpochOrder, load_sets, to_structure
from workflow_lib.stages.training.learner import Learner

WRITTEN = {
    *("model.safetensors", "card.json", "history.csv", "metrics.csv", "frames.parquet", "parity.parquet"),
    *("labels.json", "timings.json", "train.sha256.json"),
    *(f"{stem}.{suffix}" for stem in ("learning", "parity") for suffix in ("svg", "png", "csv")),
}
MOMENTS = [*LOSS, {"label": "magmoms"}, {"label": "charges"}]


@pytest.mark.parametrize("scaled", [True, False])
def test_the_energy_scale_of_mace_is_that_of_the_training_forces(case, rule, tmp_path, scaled):
    run(
        case,
        tmp_path / "out",
        rule,
        family="mace",
        hyperparameters=FAMILIES["mace"].hyperparameters(**SMALL["mace"]),
        epochs=0,
        scale_by_forces=scaled,
    )
    known = Splits.load(case / "splits.json").fold(0)
    forces = [
        f.forces for f in read_parquet(case / "frames.parquet") if known.frame_role(f.frame_id) == "train"
    ]
    expected = np.sqrt(np.mean(np.concatenate(forces) ** 2)) if scaled else 1.0
    scale = load_file(tmp_path / "out/model.safetensors")["model.scale_shift.scale"]
    assert float(scale) == pytest.approx(expected, rel=1e-6)
    assert not scaled or abs(expected - 1) > 0.1


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
    best = 4
    assert card["training"]["kept_epoch"] == best
    assert card["training"]["trained_on"] == ["charges", "energy", "forces", "magmoms"]
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
    assert {"frame_id", "set", "kind", "label", "atom", "dft_value", "model_value"} <= set(parity.columns)
    timings = json.loads((out / "timings.json").read_text())
    assert timings["parameters"] == 3 * 119 and timings["peak_memory_mb"] > 100


def test_test_frames_of_states_that_train_are_no_held_out_frames(case, rule, tmp_path):
    """Those of an end member beside its frames for testing; split by frame, nearly all are such."""
    before = Splits.load(case / "splits.json")
    [fold] = before.folds
    moved = [f for f in read_parquet(case / "frames.parquet") if f.group == "x000_s0"][-2:]
    ids = {f.frame_id for f in moved}
    train = tuple(name for name in fold.frames["train"] if name not in ids)
    mixed = Fold(0, fold.frames | {"train": train, "test": (*fold.frames["test"], *ids)}, fold.states)
    states = {f.frame_id: f.state_key for f in read_parquet(case / "frames.parquet")}
    for split_by, held_out in (("state", {*fold.frames["test"]}), ("frame", {*fold.frames["test"], *ids})):
        replace(before, split_by=split_by, folds=(mixed,)).save(case / "splits.json")
        out = tmp_path / split_by
        run(case, out, rule, epochs=1)
        parity = pd.read_parquet(out / "parity.parquet")
        of = {name: set(parity.loc[parity["set"] == name, "frame_id"]) for name in ("test", "known")}
        assert of == {"test": held_out, "known": ids - held_out}
        metrics = pd.read_csv(out / "metrics.csv").query("label == 'energy' and kind == 'all'")
        assert set(metrics.loc[metrics["set"] == "test", "count"]) == {len(held_out)}
        known = json.loads((out / "card.json").read_text())["training"]["states"]
        assert known["test"] == sorted({states[name] for name in held_out})
        assert set(known["train"]).isdisjoint(known["test"]) is (split_by == "state")
        used = pd.read_parquet(out / "frames.parquet")
        assert set(used.loc[used["set"] == "test", "frame_id"]) == {*fold.frames["test"], *ids}


@pytest.mark.draws
def test_two_runs_give_the_same_bytes(case, rule, tmp_path):
    for name in ("one", "two"):
        run(case, tmp_path / name, rule, loss=MOMENTS)
        for file in case.glob("checkpoints/*/epoch*.pt"):
            file.unlink()
    for name in sorted(WRITTEN - {"timings.json", "train.sha256.json"}):  # the seal names its folder
        assert without_id(tmp_path / "one" / name) == without_id(tmp_path / "two" / name), name


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
    assert (parity["dft_value"] - parity["model_value"]).abs().mean() < 0.2


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
    assert card["training"]["kept_epoch"] == 2 and card["training"]["epochs"] == 3
    assert all(torch.isfinite(t).all() for t in load_file(out / "model.safetensors").values())
    metrics = pd.read_csv(out / "metrics.csv")
    assert set(metrics["status"]) == {"diverged"} and metrics["value"].notna().all()
    assert {path.name for path in out.iterdir()} == WRITTEN
    calls["count"] = -1000  # a rerun does not try its luck again: same inputs, same end
    run(case, out, rule, epochs=6)
    assert json.loads((out / "card.json").read_text())["status"] == "diverged"


def test_a_model_whose_predictions_are_not_finite_is_not_ok(case, rule, tmp_path, monkeypatch):
    """The loss never saw the frame: what is judged after training says so."""
    original = TrainedModel.predict
    held_out = [f for f in read_parquet(case / "frames.parquet") if f.group in TEST]

    def breaking(self, structures, **options):
        return [
            replace(item, energy=np.nan) if np.array_equal(atoms.positions, held_out[0].positions) else item
            for atoms, item in zip(structures, original(self, structures, **options), strict=True)
        ]

    monkeypatch.setattr(TrainedModel, "predict", breaking)
    out = tmp_path / "out"
    run(case, out, rule, epochs=1)
    assert json.loads((out / "card.json").read_text())["status"] == "diverged"
    assert TrainedModel.load(out).origin.status == "diverged"
    metrics = pd.read_csv(out / "metrics.csv")
    assert set(metrics["status"]) == {"diverged"}
    lost = metrics.query("set == 'test' and label == 'energy' and kind == 'all'")
    assert len(lost) == 2 and lost["value"].isna().all()
    assert metrics.query("set != 'test' or label != 'energy'")["value"].notna().all()
    read_document(out / "card.json", "train")  # sealed as it is


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
    assert test["unit"] == "meV/A^3" and test["count"] == 9 * 5
    assert np.isfinite(test["value"])


def test_a_label_that_no_step_met_is_not_learned(case, rule, tmp_path):
    """A stress of one frame in the loss, and a training that ends before it: the stress is random."""
    frames = read_parquet(case / "frames.parquet")
    train = load_sets(case / "frames.parquet", case / "splits.json", 0, None)["train"]
    late = next(i for i in range(len(train)) if i not in EpochOrder(len(train), 4, seed=1).batch(0))
    one = [with_labels(f, stress_converged=f.frame_id == train[late].frame_id) for f in frames]
    write_parquet(one, case / "frames.parquet")
    loss = [*LOSS, {"label": "stress", "weight": 10.0}]
    for steps, learned in ((1, False), (5, True)):
        out = tmp_path / str(steps)
        run(case, out, rule, loss=loss, max_steps=steps)
        assert TrainedModel.load(out).gives_stress is learned


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


def test_steps_limit_a_training_within_an_epoch(case, rule, tmp_path):
    """The schedule ends with the steps: the last learning rate is that of its end."""
    run(case, tmp_path, rule, epochs=100, max_steps=13, validate_every=4)
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["step"].tolist() == [0, 4, 8, 12, 13]
    assert history["epoch"].tolist() == pytest.approx([0, 0.8, 1.6, 2.4, 2.6])
    assert history["learning_rate"].iloc[-1] == pytest.approx(5e-3 * 0.01)
    card = json.loads((tmp_path / "card.json").read_text())["training"]
    assert card["steps"] == 13 and card["kept_epoch"] == pytest.approx(2.6)
    labels = json.loads((tmp_path / "labels.json").read_text())["labels"]
    assert labels["energy"]["used_per_epoch"] == [4, 16]  # 20 frames by fours: every batch is full


def resplit(case, validation):
    """Give the states of the case that are not tested to the training and the validation set."""
    members = {"train": [], "validation": [], "test": []}
    for frame in read_parquet(case / "frames.parquet"):
        name = "test" if frame.group in TEST else "validation" if frame.group in validation else "train"
        members[name].append((frame.frame_id, frame.state_key or frame.group))
    Splits("state", 711, (Fold.of(0, members),)).save(case / "splits.json")


def test_the_last_weights_count_unless_validation_is_asked_for(case, rule, tmp_path, monkeypatch):
    """With validation losses made up so that epoch 2 is the best."""
    original, losses, weights = Learner.judge, [], []

    def judge(self, batches):
        weights.append(self.snapshot()["strength"])
        return original(self, batches) | {"validation_loss": losses.pop(0)}

    monkeypatch.setattr(Learner, "judge", judge)
    losses[:] = [5.0, 4.0, 1.0, 3.0]
    run(case, tmp_path / "last", rule)
    last = json.loads((tmp_path / "last/card.json").read_text())["training"]
    assert last["kept_epoch"] == 3 and last["kept_validation_loss"] == 3.0
    assert torch.equal(load_file(tmp_path / "last/model.safetensors")["strength"], weights[3])

    message = r"1 state\(s\) at 1 composition\(s\) and three are the least"
    with pytest.raises(UserError, match=message):
        run(case, tmp_path / "refused", rule, select="validation")
    assert not (tmp_path / "refused").exists()

    resplit(case, validation=("x075_s1", "x000_s0", "x050_s0"))
    losses[:] = [5.0, 4.0, 1.0, 3.0]
    run(case, tmp_path / "chosen", rule, select="validation")
    chosen = json.loads((tmp_path / "chosen/card.json").read_text())["training"]
    assert chosen["kept_epoch"] == 2 and chosen["kept_validation_loss"] == 1.0
    assert torch.equal(load_file(tmp_path / "chosen/model.safetensors")["strength"], weights[6])
    assert pd.read_csv(tmp_path / "chosen/history.csv")["epoch"].tolist() == [0, 1, 2, 3]


def test_a_training_without_validation_frames(case, rule, tmp_path):
    """All states train; only what follows the validation loss cannot do without."""
    resplit(case, validation=())
    run(case, tmp_path / "out", rule)
    run(case, tmp_path / "untrained", rule, epochs=0)
    for name in ("out", "untrained"):
        assert {path.name for path in (tmp_path / name).iterdir()} == WRITTEN
    history = pd.read_csv(tmp_path / "out/history.csv")
    assert history["validation_loss"].isna().all() and history["train_loss"].iloc[1:].notna().all()
    assert set(pd.read_csv(tmp_path / "out/metrics.csv")["set"]) == {"train", "test"}
    for changes in ({"select": "validation"}, {"scheduler": {"kind": "plateau"}}):
        with pytest.raises(UserError, match=r"validation set (is empty|holds 0 state)"):
            run(case, tmp_path / "refused", rule, **changes)


def test_labels_that_no_validation_frame_has_are_no_perfect_errors(case, rule, tmp_path, capsys):
    """Zero would say that the network knows them, and would stand in the loss that is followed."""
    bare = [
        replace(frame, forces=None, charges=None) if frame.group in VALIDATION else frame
        for frame in read_parquet(case / "frames.parquet")
    ]
    write_parquet(bare, case / "frames.parquet")
    out = tmp_path / "out"
    run(case, out, rule, loss=MOMENTS, epochs=2)
    told = capsys.readouterr().err.splitlines()
    said = "toy entropy: no validation frame has forces, charges: its loss goes without"
    assert told.count(said) == 1
    assert "F 0" not in "".join(told) and " meV/atom" in told[-1]
    history = pd.read_csv(out / "history.csv")
    for column in ("validation_forces", "validation_forces_mae_mev_a", "validation_charges"):
        assert column not in history
    # 10 is the weight of the energy in the loss of the case.
    expected = 10 * history["validation_energy"] + history["validation_magmoms"]
    np.testing.assert_allclose(history["validation_loss"], expected, rtol=1e-6)
    assert (history["validation_magmoms"] > 0).all() and history["train_forces"].iloc[1:].notna().all()
    shown = pd.read_csv(out / "learning.csv")
    assert "validation_forces_mae_mev_a" not in shown


@pytest.mark.parametrize("changes", [{"select": "validation"}, {"scheduler": {"kind": "plateau"}}])
def test_a_validation_loss_of_no_label_is_not_followed(changes, case, rule, tmp_path):
    """It would be zero before the first step, whose weights would be kept."""
    resplit(case, validation=("x075_s1", "x000_s0", "x050_s0"))
    sets = load_sets(case / "frames.parquet", case / "splits.json", 0, None)
    bare = {frame.frame_id for frame in sets["validation"]}
    frames = [
        replace(frame, forces=None) if frame.frame_id in bare else frame
        for frame in read_parquet(case / "frames.parquet")
    ]
    write_parquet(frames, case / "frames.parquet")
    forces = [{"label": "forces"}]
    with pytest.raises(UserError, match=f"none of the {len(bare)} validation frames has forces; add"):
        run(case, tmp_path / "refused", rule, loss=forces, **changes)
    run(case, tmp_path / "out", rule, loss=forces, epochs=1)
    history = pd.read_csv(tmp_path / "out/history.csv")
    assert history["validation_loss"].isna().all() and (history["validation_energy_mae_mev_atom"] > 0).all()


def test_steps_without_a_label_have_no_error_of_it(case, rule, tmp_path):
    frames = read_parquet(case / "frames.parquet")
    known = next(frame.frame_id for frame in frames if frame.group == "x050_s0")
    few = [frame if frame.frame_id == known else replace(frame, charges=None) for frame in frames]
    write_parquet(few, case / "frames.parquet")
    run(case, tmp_path / "out", rule, loss=MOMENTS, epochs=1, validate_every=1)
    rows = pd.read_csv(tmp_path / "out/history.csv").iloc[1:]
    assert len(rows) == 5 and rows["train_charges"].notna().sum() == 1
    assert (rows["train_charges"].dropna() > 0).all() and rows["train_magmoms"].notna().all()


def test_moments_of_either_sign_train_the_same_model(case, rule, tmp_path):
    """Antiferromagnetic frames, and a frame with all moments turned round: only magnitudes count."""
    frames = read_parquet(case / "frames.parquet")
    run(case, tmp_path / "one", rule, loss=MOMENTS)
    rng = np.random.default_rng(0)
    turned = [with_labels(f, magmoms=f.magmoms * rng.choice([-1.0, 1.0], len(f))) for f in frames]
    write_parquet(turned, case / "frames.parquet")
    run(case, tmp_path / "two", rule, loss=MOMENTS)
    for name in ("model.safetensors", "metrics.csv", "parity.csv"):
        assert without_id(tmp_path / "one" / name) == without_id(tmp_path / "two" / name), name
