"""The stage with a calculator whose moments are known from the surroundings."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from moment_calculator import CALCULATOR, perovskite
from morse_potential import morse_model
from pydantic import ValidationError
from samples import REFERENCE

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.results_reading import read_document, read_table
from workflow_lib.stages.charge_inference import run as stage
from workflow_lib.stages.charge_inference.figures import not_relaxed
from workflow_lib.stages.charge_inference.run import as_neutral, run_charge_inference
from workflow_lib.stages.charge_inference.settings import ChargeInferenceSettings, ChargeInferenceStudy

pytestmark = pytest.mark.draws


def study(**changes: object) -> ChargeInferenceStudy:
    values = {
        "name": "toy",
        "potential": CALCULATOR,
        "crystal": perovskite(),
        "element": "Fe",
        "states": (2, 3),
        "formal_charges": {"Na": 1, "F": -1},
        "removals": 3,
        "start": {"max_steps": 3},
    }
    return ChargeInferenceStudy.model_validate(values | changes)


def run(folder: Path, **changes: object) -> dict:
    return run_charge_inference(study(**changes), seed=5, work=folder / "work", out=folder / "toy")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("charges")
    run(folder)
    return folder


def test_counts_are_those_of_the_moments(done: Path):
    atoms = read_table("charge_inference/atoms", done / "toy")
    removals = read_table("charge_inference/removals", done / "toy").set_index("removal")
    assert len(atoms) == 3 * 2 * 18
    for removal, group in atoms[atoms["stage"] == "after"].groupby("removal"):
        larger = (group["moment_mub"] > 4.1).sum()
        row = removals.loc[removal]
        assert row["larger"] == larger == (group["state"] == 3).sum()
        assert row["smaller"] == 18 - larger
        assert row["ambiguous"] == 0
        assert 0.5 < row["gap_mub"] < 0.62
        assert row["silhouette_moments"] > 0.9
    # Na9Fe18F54: 9 + 18 q - 54 = 0, so that half of the Fe are 3+.
    assert (removals["neutral_larger"] == 9).all()
    assert (removals["formula"] == "F54Fe18Na9").all()
    assert (removals["steps"] == 3).all()
    assert (removals["status"] == "unconverged").all()
    assert (removals["host_status"] == "unconverged").all()


def test_summary_and_figure(done: Path):
    summary = read_document(done / "toy/summary.json", "charge-inference", ("neutral_larger",))
    removals = read_table("charge_inference/removals", done / "toy")
    assert summary["states"] == ["Fe2+", "Fe3+"]
    assert summary["larger"] == removals["larger"].tolist()
    assert summary["as_neutral"] == (removals["larger"] == 9).sum()
    assert summary["gap_mub"]["mean"] == pytest.approx(removals["gap_mub"].mean())
    assert summary["silhouette_features"]["mean"] is None  # a calculator shows no features
    assert (done / "toy/charges.svg").stat().st_size > 5000
    text = (done / "toy/charges.svg").read_text()
    assert "Fe3+ found" in text
    assert "not relaxed: host, 3 of 3 removals" in text
    rested = summary | {"host_converged": True, "converged": summary["removals"]}
    assert not not_relaxed(rested)


def test_removals_differ_and_repeat(done: Path, tmp_path: Path):
    atoms = read_table("charge_inference/atoms", done / "toy")
    moments = [group["moment_mub"].to_numpy() for _, group in atoms.groupby("removal")]
    assert not np.array_equal(moments[0], moments[1])
    run(tmp_path)
    for name in ("atoms.csv", "removals.csv", "summary.json", "charges.svg"):
        assert (tmp_path / "toy" / name).read_bytes() == (done / "toy" / name).read_bytes()


def test_a_killed_study_goes_on(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    relax, made = stage.relaxed_start, []

    def dying(*arguments, **named):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(named["path"].name)
        return relax(*arguments, **named)

    monkeypatch.setattr(stage, "relaxed_start", dying)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert not (tmp_path / "toy").exists()
    monkeypatch.undo()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()}
    run(tmp_path)
    assert {name: (tmp_path / "work" / name).stat().st_mtime_ns for name in kept} == kept
    assert (tmp_path / "toy/atoms.csv").read_bytes() == (done / "toy/atoms.csv").read_bytes()


def test_windows(tmp_path: Path):
    run(tmp_path, removals=1, assign="window", windows=((3.6, 3.745), (4.2, 4.4)))
    atoms = read_table("charge_inference/atoms", tmp_path / "toy")
    doubt = atoms["moment_mub"].between(3.7451, 4.19)
    assert (atoms["state"] == 0).equals(doubt)
    after = atoms[atoms["stage"] == "after"]
    assert pd.read_csv(tmp_path / "toy/removals.csv")["ambiguous"].iloc[0] == (after["state"] == 0).sum()


def test_windows_tell_one_charge_state_alone(tmp_path: Path):
    empty = perovskite(remove={"element": "Na", "fraction": 1.0})
    changes = {"removals": 1, "assign": "window", "windows": ((3.6, 3.9), (4.2, 4.4)), "crystal": empty}
    summary = run(tmp_path, **changes)
    assert (summary["neutral_larger"], summary["larger"], summary["as_neutral"]) == (18, [18], 1)


def test_an_atom_in_no_state_makes_no_neutral_crystal():
    removals = pd.DataFrame({"larger": [9, 9, 8], "neutral_larger": 9, "ambiguous": [0, 1, 0]})
    assert as_neutral(removals).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"element": "Mn", "formal_charges": {"Na": 1, "F": -1, "Fe": 2}}, "holds no Mn"),
        ({"formal_charges": {"F": -1}}, "formal_charges has none for Na"),
        ({"formal_charges": {"Na": 1, "F": -2}}, r"makes .* neutral \(the other ions carry -99 e\)"),
        # Half of the Na leaves Fe at +2.5 on average; only without any Na do Fe3+ and Fe4+ balance.
        ({"states": (3, 4)}, r"no assignment of Fe3\+/Fe4\+ .* neutral"),
        ({"crystal": perovskite(remove={"element": "Na", "fraction": 0.3})}, "5.40 atoms"),
        # FeF3 and NaFeF3: noise has a widest gap as well, which would find two states in one.
        (
            {"crystal": perovskite(remove={"element": "Na", "fraction": 1.0})},
            r"all 18 Fe .* Fe3\+, which a gap",
        ),
        (
            {"crystal": perovskite(remove={"element": "Na", "fraction": 0.0})},
            r"all 18 Fe .* Fe2\+, which a gap",
        ),
        ({"potential": "ase.calculators.lj:LennardJones"}, "predicts no magnetic moments"),
        ({"potential": "no.such.module:Thing"}, "gives no calculator"),
    ],
)
def test_what_cannot_be(changes: dict, words: str, tmp_path: Path):
    with pytest.raises(UserError, match=words) as error:
        run(tmp_path, **changes)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())  # before anything was relaxed


def test_a_model_that_is_given_charge_states(rule: RedoxRule, tmp_path: Path, monkeypatch):
    """It was told that --assign search helps, which is no option of this stage."""
    model = morse_model(rule.model_dump(mode="json"), REFERENCE)
    monkeypatch.setattr(stage, "load_predictor", lambda *_: model)
    with pytest.raises(UserError, match=r"is given the charge states .* take a model that is given none"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"states": (3, 3)}, "must differ"),
        ({"assign": "window"}, "windows"),
        ({"windows": ((1.0, 2.0), (3.0, 4.0))}, "windows"),
        ({"assign": "window", "windows": ((1.0, 2.0), (1.5, 4.0))}, "do not overlap"),
        ({"formal_charges": {"Na": 1, "Fe": 2}}, "no fixed charge"),
        ({"crystal": perovskite(remove=None)}, "nothing is removed"),
        ({"name": "Toy!"}, "pattern"),
        ({"removals": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_contradict(changes: dict, words: str):
    with pytest.raises(ValidationError, match=words):
        study(**changes)


def test_names_differ():
    twice = {"studies": (study().model_dump(), study().model_dump())}
    with pytest.raises(ValidationError, match="names must differ"):
        ChargeInferenceSettings.model_validate(twice)
