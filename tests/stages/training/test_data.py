"""Sets, shuffled labels, batch order, and the refusals that save a wasted training."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from toy_potential import ToyHyperparameters, ToyPotential
from training_case import run, settings, write_case

from workflow_lib.core.errors import UserError
from workflow_lib.frames.frame import Frame, with_labels
from workflow_lib.frames.table import read_parquet, write_parquet
from workflow_lib.models.species import species_alphabet
from workflow_lib.stages.dataset.settings import DatasetSettings
from workflow_lib.stages.training.data import (
    EpochOrder,
    LabelledGraphs,
    leave_out_unknown,
    leave_out_unlabelled,
    leave_out_untaught,
    load_sets,
    require_labels,
    shuffle_charge_states,
    to_structure,
)


def load(case, **changes):
    options = {"fold": 0, "subset": None} | changes
    return load_sets(case / "frames.parquet", case / "splits.json", **options)


def edit(case, change):
    """Rewrite the splits after ``change`` of their first fold."""
    splits = json.loads((case / "splits.json").read_text())
    change(splits["folds"][0])
    (case / "splits.json").write_text(json.dumps(splits))


def test_order_is_a_function_of_seed_and_epoch():
    order = EpochOrder(10, 4, seed=1)
    epoch = order.batches(3)
    assert [len(batch) for batch in epoch] == [4, 4, 2] and order.per_epoch == 3
    assert sorted(i for batch in epoch for i in batch) == list(range(10))
    order.batches(0)  # asking for another epoch in between changes nothing
    assert order.batches(3) == epoch == EpochOrder(10, 4, seed=1).batches(3)
    others = [EpochOrder(10, 4, seed=1).batches(4), EpochOrder(10, 4, seed=2).batches(3)]
    assert epoch not in others
    assert [order.batch(step) for step in range(9, 12)] == epoch
    assert order.batch(0) == order.batches(0)[0]  # back again, as a resumed run may


def test_sets_are_those_of_the_splits(case, original_frames):
    sets = load(case)
    expected = write_case(case, original_frames)
    for name, own in expected.items():
        assert {f.frame_id for f in sets[name]} == {f.frame_id for f in own}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fold: fold.update(fold=7), "holds no fold 0; it has [7]"),
        (lambda fold: fold["train"].append("nowhere-1"), "lacks 1 frames"),
        (lambda fold: fold["train"].append(fold["test"][0]), "is in the sets train and test"),
        (lambda fold: fold.update(test=[]), "no test frame"),
    ],
)
def test_bad_splits_are_refused(case, change, message):
    edit(case, change)
    with pytest.raises(UserError, match=re.escape(message)):
        load(case)


def test_empty_subset_is_refused(case):
    def subset(*elements, required=()):
        return DatasetSettings(subset_elements=elements, required_elements=required)

    with pytest.raises(UserError, match=r"no train frame in the subset \(only Na, Si, O"):
        load(case, subset=subset("Na", "Si", "O"))
    assert len(load(case, subset=subset("Na", "Fe", "P", "O"))["train"]) == 20
    required = load(case, subset=subset("Na", "Fe", "P", "O", required=("Na",)))["train"]
    assert required and all(11 in frame.numbers for frame in required)
    without_sodium = load(case) | {}
    edit(case, lambda fold: fold.update(test=fold["validation"], validation=fold["train"][:2]))
    edit(case, lambda fold: fold.update(train=fold["train"][2:]))
    with pytest.raises(UserError, match="no test frame"):
        load(case, subset=subset("Fe", "P", "O"))
    assert without_sodium["test"]


def test_models_with_and_without_labels_are_tested_on_the_same_frames(case):
    """A full data set adds frames that train and validate; frames of other chemistries test nobody."""
    iron = DatasetSettings(subset_elements=("Na", "Fe", "P", "O"), required_elements=())
    frames = read_parquet(case / "frames.parquet")
    splits = json.loads((case / "splits.json").read_text())["folds"][0]
    for name in ("train", "validation", "test"):  # the first frame of each set is of manganese
        place = next(i for i, frame in enumerate(frames) if frame.frame_id == splits[name][0])
        numbers = np.where(frames[place].numbers == 26, 25, frames[place].numbers)
        frames[place] = with_labels(frames[place], numbers=numbers, oxidation_states=None)
    write_parquet(frames, case / "frames.parquet")

    def ids(sets, name):
        return [frame.frame_id for frame in sets[name]]

    labelled, blind = load(case, subset=iron), load(case, subset=iron, full=True)
    assert ids(labelled, "test") == ids(blind, "test") == splits["test"][1:]
    for name in ("train", "validation"):
        assert set(ids(blind, name)) - set(ids(labelled, name)) == {splits[name][0]}


def test_a_labelled_model_on_all_frames_leaves_out_those_it_cannot_label(case, rule):
    frames = read_parquet(case / "frames.parquet")
    splits = json.loads((case / "splits.json").read_text())["folds"][0]
    places = {frame.frame_id: place for place, frame in enumerate(frames)}
    manganese, undecided = splits["train"][:2]
    for name, metal in ((manganese, 25), (undecided, 26)):  # NaMnPO4, and an alloy whose Fe has no state
        place = places[name]
        numbers = np.where(frames[place].numbers == 26, metal, frames[place].numbers)
        numbers[np.flatnonzero(numbers == metal)[0]] = 25
        frames[place] = with_labels(frames[place], numbers=numbers, oxidation_states=None)
    write_parquet(frames, case / "frames.parquet")
    iron = DatasetSettings(subset_elements=("Na", "Fe", "P", "O"), required_elements=("Fe",))
    sets = load(case, subset=iron, full=True)
    kept, left_out = leave_out_unlabelled(sets, rule)
    ids = {name: [frame.frame_id for frame in found] for name, found in sets.items()}
    assert left_out == 1 and manganese in ids["train"]
    assert [frame.frame_id for frame in kept["train"]] == [i for i in ids["train"] if i != undecided]
    assert all(len(kept[name]) == len(sets[name]) for name in ("validation", "test"))
    for found in kept.values():
        for frame in found:
            to_structure(frame, rule, "surrogate")


def test_mixed_levels_of_theory_are_refused(case):
    frames = read_parquet(case / "frames.parquet")
    frames[3] = with_labels(frames[3], energy_reference="VASP/PBE+U")
    write_parquet(frames, case / "frames.parquet")
    with pytest.raises(UserError, match="mixes 2 levels of theory"):
        load(case)


def test_shuffled_control_touches_labels_of_training_and_validation_alone(case, rule):
    sets = load(case)
    shuffled = shuffle_charge_states(sets, rule, seed=1)
    changed = {}
    for name, frames in sets.items():
        pairs = list(zip(frames, shuffled[name], strict=True))
        for before, after in pairs:
            rule.check_neutral(after.numbers, after.oxidation_states)
            assert np.array_equal(before.positions, after.positions) and before.energy == after.energy
        changed[name] = sum(
            not np.array_equal(before.oxidation_states, after.oxidation_states) for before, after in pairs
        )
    assert changed["test"] == 0 < changed["validation"]
    # Half the training frames are end members, where there is nothing to permute.
    assert changed["train"] >= 5
    again = shuffle_charge_states(sets, rule, seed=1)
    other = shuffle_charge_states(sets, rule, seed=2)
    for name in ("train", "validation"):
        same = [
            np.array_equal(a.oxidation_states, b.oxidation_states)
            for a, b in zip(shuffled[name], again[name], strict=True)
        ]
        assert all(same)
    assert any(
        not np.array_equal(a.oxidation_states, b.oxidation_states)
        for a, b in zip(shuffled["train"], other["train"], strict=True)
    )


def test_frames_without_charge_states_are_named(case, rule):
    frame = load(case)["train"][0]
    blind = with_labels(frame, oxidation_states=None)
    assert np.array_equal(to_structure(blind, rule, "none").species, frame.numbers)
    with pytest.raises(UserError, match=f"frame {frame.frame_id}: .*needs oxidation states"):
        to_structure(blind, rule, "surrogate")


@pytest.mark.parametrize("label", ["forces", "magmoms", "charges"])
def test_a_term_without_labels_is_refused(case, label):
    frames = [with_labels(frame, **{label: None}) for frame in load(case)["train"]]
    loss = settings(loss=[{"label": label}]).loss
    with pytest.raises(UserError, match=f"none of the 20 training frames has {label}"):
        require_labels(frames, loss, ToyPotential.predicts)
    frames[4] = load(case)["train"][4]
    require_labels(frames, loss, ToyPotential.predicts)


def test_a_stress_that_is_not_converged_is_no_label(case, rule, tmp_path):
    with pytest.raises(UserError, match="none of the 20 training frames has stress that is converged"):
        run(case, tmp_path / "out", rule, loss=[{"label": "stress"}])
    assert not (tmp_path / "out").exists()


def test_a_term_for_what_the_family_does_not_predict_is_refused(case):
    loss = settings(loss=[{"label": "charges"}]).loss
    with pytest.raises(UserError, match="charges, which this family does not predict"):
        require_labels(load(case)["train"], loss, frozenset())


def test_batches_hold_graphs_and_labels_in_step(case, rule):
    frames = load(case)["train"][:6]
    frames[2] = with_labels(frames[2], forces=None)
    species = species_alphabet(rule, {8, 11, 15, 26}, "surrogate")
    potential = ToyPotential.build(ToyHyperparameters(), species, init="scratch", seed=1)
    graphs = [potential.graph(to_structure(frame, rule, "surrogate")) for frame in frames]
    data = LabelledGraphs(potential, frames, graphs, ["energy", "forces", "stress"])
    batch, targets = data.batch([4, 2])
    assert targets["energy"].dtype == torch.float64
    assert targets["energy"].tolist() == [frames[4].energy, frames[2].energy]
    n = len(frames[4])
    assert targets["system"].tolist() == [0] * n + [1] * len(frames[2])
    assert torch.equal(targets["forces"][:n], torch.tensor(frames[4].forces, dtype=torch.float32))
    assert torch.isnan(targets["forces"][n:]).all() and torch.isnan(targets["stress"]).all()
    assert torch.equal(batch["positions"][:n], graphs[4]["positions"])
    sizes = [len(targets["energy"]) for _, targets in data.fixed_batches(4)]
    assert sizes == [4, 2]


def test_what_no_training_frame_holds_is_not_known(original_frames, rule, capsys):
    """A charge state of test frames alone: its weights are random, so it neither tests nor is known."""

    def of(*states: int) -> list[Frame]:
        return [f for f in original_frames if set(f.oxidation_states[f.numbers == 26]) <= set(states)]

    sets = {"train": of(3), "validation": of(3), "test": [*of(3), *of(2)]}
    assert all(sets.values())
    structures = {name: [to_structure(f, rule, "surrogate") for f in fs] for name, fs in sets.items()}
    species = species_alphabet(rule, {8, 11, 15, 26}, "surrogate")
    whole = rule, "surrogate", "painn entropy"
    kept, graphs, known = leave_out_unknown(sets, structures, species, *whole)
    assert kept["train"] == sets["train"] and kept["test"] == of(3)
    assert len(graphs["test"]) == len(kept["test"])
    assert set(species.labels) - set(known.labels) == {11, 26}  # Na comes with Fe2+, whose label is its own
    said = capsys.readouterr().err
    assert f"{len(of(2))} test frames are left out, as no training frame holds Na, Fe2+\n" in said
    again = leave_out_unknown(kept, graphs, known, *whole)
    assert again == (kept, graphs, known) and not capsys.readouterr().err


def silicon(frame: Frame, *, manganese: bool = False) -> Frame:
    """The frame with Si for P, and with Mn for Fe."""
    numbers = np.where(frame.numbers == 15, 14, frame.numbers)
    if not manganese:
        return with_labels(frame, numbers=numbers)
    return with_labels(frame, numbers=np.where(numbers == 26, 25, numbers), oxidation_states=None)


def test_all_variants_are_tested_on_the_same_frames(case, rule, tmp_path):
    """An element that frames of other chemistries alone teach: models of all frames knew it, others not."""
    charges = rule.model_copy(update={"formal_charges": rule.formal_charges | {"Si": 5}})
    subset = DatasetSettings(subset_elements=("Na", "Fe", "P", "Si", "O"), required_elements=("Fe",))
    frames = read_parquet(case / "frames.parquet")
    splits = json.loads((case / "splits.json").read_text())["folds"][0]
    teacher, taught = splits["train"][0], splits["test"][0]
    changed = [
        silicon(f, manganese=f.frame_id == teacher) if f.frame_id in (teacher, taught) else f
        for f in frames
    ]
    write_parquet(changed, case / "frames.parquet")
    tested = {}
    for variant in ("baseline", "entropy"):
        run(case, tmp_path / variant, charges, variant=variant, dataset=subset, epochs=1)
        used = pd.read_parquet(tmp_path / variant / "frames.parquet")
        assert (teacher in set(used["frame_id"])) is (variant == "baseline")
        tested[variant] = used.loc[used["set"] == "test", "frame_id"].tolist()
    assert tested["baseline"] == tested["entropy"] == splits["test"][1:]

    places = [
        silicon(f) if f.frame_id in splits["test"] else g for f, g in zip(frames, changed, strict=True)
    ]
    write_parquet(places, case / "frames.parquet")
    for variant in ("baseline", "entropy"):
        message = (
            f"toy {variant}: every test frame holds Si, which no training frame of the chemical subset"
        )
        with pytest.raises(UserError, match=message):
            run(case, tmp_path / "refused", charges, variant=variant, dataset=subset, epochs=1)


def test_a_charge_state_of_test_frames_alone_tests_no_variant(original_frames, rule, capsys):
    """A model without labels would take Fe2+ for an Fe that it knows; labelled ones cannot be asked."""
    oxidised = [f for f in original_frames if not (f.oxidation_states == 2).any()]
    reduced = [f for f in original_frames if not (f.oxidation_states == 3).any()]
    sets = {"train": oxidised, "validation": [], "test": [oxidised[0], *reduced]}
    kept = leave_out_untaught(sets, rule, DatasetSettings(required_elements=("Fe",)), "painn baseline")
    assert kept == sets | {"test": [oxidised[0]]}
    assert "subset holds Fe2+, Na\n" in capsys.readouterr().err
