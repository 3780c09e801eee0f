"""The answer of a run in words: what is decided, by how large a run, and what must be known beside it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from page_run import write_contrasts
from sealed import write_sealed

from workflow_lib.core.io import read_json, write_json
from workflow_lib.results import Run
from workflow_lib.stages.report.answer import (
    _notes_of_intervals,
    _verdict,
    answer_of,
    headline,
    training_length,
)

MODELS = ("mace", "painn")
ENERGY, FORCE = "energy_mae_mev_atom", "force_mae_mev_a"


def verdict(*differences: tuple[str, str, float], trainings: int = 3) -> str:
    """The verdict of a run of two models; ``differences``: model, endpoint, and what is decided of it.

    Zero: nothing is.
    """
    rows = [
        {"model": model, "endpoint": endpoint, "difference": change or 0.5, "decided": bool(change)}
        | {"trainings": trainings, "reason": None if change else "zero lies within the interval"}
        for model, endpoint, change in differences
    ]
    return _verdict(pd.DataFrame(rows), MODELS)


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        (
            [("mace", ENERGY, 3.0), ("painn", ENERGY, 3.0)],
            "No: the label raises the error of the energy of held-out frames (mace and painn).",
        ),
        (
            [("mace", ENERGY, 3.0), ("painn", ENERGY, 0)],
            "No for mace: the label raises the error of the energy of held-out frames (mace); not decided "
            "for painn.",
        ),
        (
            [("mace", ENERGY, -3.0), ("painn", ENERGY, 3.0)],
            "It depends on the model and on the quantity: the label lowers the error of the energy of "
            "held-out frames (mace), and it raises the error of the energy of held-out frames (painn).",
        ),
        (
            [("mace", ENERGY, 3.0), ("mace", FORCE, -3.0), ("painn", ENERGY, 0), ("painn", FORCE, 0)],
            "It depends on the model and on the quantity: the label lowers the error of the forces on "
            "held-out frames (mace), and it raises the error of the energy of held-out frames (mace); not "
            "decided for painn.",
        ),
        (
            [("mace", ENERGY, 0), ("painn", ENERGY, 0), ("painn", FORCE, 0)],
            "Not decided by this run: no difference is clear of chance where all of them are asked "
            "together, with 95 % confidence.",
        ),
    ],
    ids=["no", "no for one", "one each way", "one each way of one model", "nothing"],
)
def test_the_verdict_has_the_sign_of_what_is_decided(differences: list, words: str):
    assert verdict(*differences) == words


@pytest.mark.parametrize("reason", ["trained 2 times", "differences without any spread", None])
def test_too_few_trainings_are_too_few_whatever_else_a_row_says(reason: str | None):
    """No joint test was made: none may be claimed."""
    rows = [
        {"model": "mace", "endpoint": name, "difference": 0.5, "decided": False, "trainings": count}
        | {"reason": why}
        for name, count, why in ((ENERGY, 2, "trained 2 times"), (FORCE, 1, reason))
    ]
    assert _verdict(pd.DataFrame(rows), MODELS).startswith(
        "Not decided by this run: no model has more than two pairs of trainings"
    )


def test_nothing_is_decided_by_one_training(run_folder: Path):
    answer = answer_of(Run(run_folder))
    assert not answer.decided
    assert answer.verdict.startswith(
        "Not decided by this run: no model has more than one pair of trainings"
    )
    assert answer.numbers[0] == (
        "Energy of held-out frames (meV/atom): lower with the label for 2 of 2 models, "
        "from −43 % (mace: 7.0 → 4.0 [−5.0 to −1.0]) to −43 % (painn: 7.0 → 4.0 [−5.0 to −1.0])"
    )
    assert "forces of NaFePO4 in two ways" in answer.setting
    assert any("330 frames, those with it on 257" in note for note in answer.notes)
    assert dict(answer.size)["Models trained"] == "4, of 2 families"
    assert answer.question.endswith("which Fe is Fe²⁺ and which is Fe³⁺?")


def test_a_model_that_diverged_is_named_and_undecided(copy: Path):
    """The others alone would say a bare yes."""
    write_contrasts(copy, decided=True)
    table = copy / "comparison/contrasts.csv"
    rows = pd.read_csv(table)
    write_sealed("comparison/contrasts", copy / "comparison", rows[rows["model"] == "mace"])
    models = pd.read_csv(copy / "comparison/comparison.csv")
    models.loc[models["id"] == "painn-entropy-f0-s1", "status"] = "diverged"
    write_sealed("comparison", copy / "comparison", models)
    answer = answer_of(Run(copy))
    assert answer.verdict.startswith("Yes for mace: the label lowers")
    assert answer.verdict.endswith("not decided for painn.")
    assert any("painn-entropy-f0-s1" in note and "diverged" in note for note in answer.notes)


def _only_variants(folder: Path, *variants: str) -> None:
    """Leave the trainings of some variants in the tables of a run."""
    models = Run(folder).table("comparison")
    write_sealed("comparison", folder / "comparison", models[models["variant"].isin(variants)])
    contrasts = Run(folder).table("comparison/contrasts")
    kept = contrasts["variant_without"].isin(variants) & contrasts["variant_with"].isin(variants)
    write_sealed("comparison/contrasts", folder / "comparison", contrasts[kept])


def test_the_lead_says_what_the_models_of_the_run_learnt(copy: Path):
    both = answer_of(Run(copy)).setting
    assert "in two ways: without a label" in both and "and with a label that makes Fe³⁺" in both
    assert both.endswith("convex hull, voltage.")
    write_sealed(
        "thermodynamics/voltage", copy / "thermodynamics", Run(copy).table("thermodynamics/voltage")[:0]
    )
    _only_variants(copy, "entropy")
    answer = answer_of(Run(copy))
    assert "of NaFePO4 with a label that makes Fe³⁺" in answer.setting
    assert "ways" not in answer.setting and "without" not in answer.setting
    assert answer.setting.endswith("convex hull.")
    assert answer.verdict.startswith("This run does not ask it")


def test_models_without_an_epoch_are_not_counted_as_trained(copy: Path):
    changed = read_json(copy / "config.json")
    changed["models"][1]["training"] = {"epochs": 0}
    write_json(copy / "config.json", changed)
    size = dict(answer_of(Run(copy)).size)
    assert size["Models trained"] == "2, of 1 family"
    assert size["Models without training (0 epochs)"] == "2 (painn)"


def test_a_run_whose_labelled_trainings_all_diverged_asked_and_names_them(copy: Path):
    models = Run(copy).table("comparison")
    models.loc[models["variant"] == "entropy", "status"] = "diverged"
    write_sealed("comparison", copy / "comparison", models)
    write_sealed("comparison/contrasts", copy / "comparison", Run(copy).table("comparison/contrasts")[:0])
    answer = answer_of(Run(copy))
    assert answer.verdict.startswith("Not decided by this run: no model has a training with the label and")
    (note,) = answer.notes
    assert "mace-entropy-f0-s1" in note and "painn-entropy-f0-s1" in note and "diverged" in note


def test_no_state_is_held_out_where_frames_are_split(copy: Path):
    assert dict(answer_of(Run(copy)).size)["Held-out states"] == "7"
    rows = pd.read_csv(copy / "comparison/contrasts.csv")
    few = rows["endpoint"] == "states_mae_mev_fu"  # counts the states of one composition alone
    write_sealed(
        "comparison/contrasts", copy / "comparison", rows.assign(states=rows["states"].mask(few, 5))
    )
    assert few.any() and dict(answer_of(Run(copy)).size)["Held-out states"] == "7"
    changed = read_json(copy / "config.json")
    changed["dataset"]["split_by"] = "frame"
    write_json(copy / "config.json", changed)
    answer = answer_of(Run(copy))
    assert "Held-out states" not in dict(answer.size)
    assert any("states that also train" in note for note in answer.notes)


def test_the_most_steps_are_no_length_of_the_training():
    plain, longer = {"name": "a"}, {"name": "b", "training": {"epochs": 1200}}
    limited, none = (
        {"name": "c", "training": {"max_steps": 100_000}},
        {"name": "d", "training": {"epochs": 0}},
    )
    training = {"epochs": 24, "max_steps": None}

    def length(*models: dict) -> str:
        return training_length({"training": training, "models": models})

    assert length(plain) == "24 epochs"
    assert length(plain, longer, plain) == "24 or 1,200 epochs"
    assert length(limited) == "24 epochs, at most 100,000 steps"
    assert length(plain, limited) == "24 epochs; 24 epochs, at most 100,000 steps"
    assert length(none) == "none"


def test_a_decided_run_says_so(copy: Path):
    write_contrasts(copy, decided=True)
    answer = answer_of(Run(copy))
    assert answer.decided
    assert answer.verdict == (
        "Yes: the label lowers the error of the energy of held-out frames (mace and painn); of the "
        "energies of unseen charge orders (mace and painn), given the training sets of this run."
    )
    assert any(note.startswith("There are fewer than three folds") for note in answer.notes)


@pytest.mark.parametrize(
    ("trainings", "folds", "words"),
    [
        (2, 1, "The intervals hold the spread over charge-ordered states alone"),
        (6, 2, "There are fewer than three folds"),
        (12, 4, "share frames; the intervals are widened for it"),
    ],
)
def test_what_the_intervals_lack_is_said(trainings: int, folds: int, words: str):
    variants = ("baseline", "entropy")
    comparison = pd.DataFrame(
        [{"variant": name, "fold": fold, "train_frames": 90} for name in variants for fold in range(folds)]
    )
    # Of a sixth fold no model could be compared: one of its trainings diverged.
    comparison = pd.concat([comparison, comparison[:1].assign(fold=5)])
    row = {"trainings": trainings, "folds": folds}
    contrasts = pd.DataFrame([row | {"variant_without": variants[0], "variant_with": variants[1]}])
    (note,) = _notes_of_intervals(comparison, contrasts)
    assert words in note


@pytest.mark.parametrize(
    ("pairs", "models", "chosen"),
    [
        (["baseline entropy", "subset entropy", "shuffled entropy"], 2, "subset entropy"),
        (["baseline entropy", "subset entropy"], 1, "baseline entropy"),  # one of two has the subset
        (["shuffled entropy", "baseline entropy"], 2, "baseline entropy"),
        (["baseline surrogate", "shuffled surrogate"], 2, "baseline surrogate"),
    ],
)
def test_the_answer_is_of_models_that_differ_in_the_label_alone_if_all_have_them(pairs, models, chosen):
    """Other chemistries train the variant baseline too. An answer for one model would hide the others."""
    split = [pair.split() for pair in pairs]
    table = pd.DataFrame(split, columns=["variant_without", "variant_with"])
    variants = {"baseline", "entropy"} | {name for pair in split for name in pair}
    trained = [("mace", name) for name in variants]
    trained += [("painn", name) for name in variants if models > 1 or name != "subset"]
    comparison = pd.DataFrame(trained, columns=["model", "variant"]).assign(fold=0)
    found = headline(table.assign(endpoint="energy_mae_mev_atom"), comparison)
    assert [" ".join(row) for row in found[["variant_without", "variant_with"]].to_numpy()] == [chosen]
