"""Mistakes in the configuration: one line, key and remedy named."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from changed_config import DEMO, changed_config
from test_config_files import run_cli

from workflow_lib import config_runnable
from workflow_lib.cli.main import main
from workflow_lib.config_files import load_config, validate_config
from workflow_lib.config_runnable import require_runnable
from workflow_lib.core.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["config", "smoke", "study", "paper", "phase-diagram", "table-1"])
def test_shipped_configurations_are_valid(name: str) -> None:
    config = load_config(ROOT / f"config/{name}.yaml")
    assert list(config.trained())


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("datset", {}, ["datset", "unknown key", "did you mean 'dataset'"]),
        ("dataset.fold", {}, ["dataset.fold", "did you mean 'folds'"]),
        ("training.epoch", 5, ["training.epoch", "did you mean 'epochs'"]),
        (
            "models.0.hyperparameters",
            {"num_chanels": 8},
            ["models[0].hyperparameters.num_chanels", "num_channels"],
        ),
        ("models.0.training", {"lerning_rate": 1e-3}, ["models[0].training", "learning_rate"]),
        ("threads", "many", ["threads", "integer", "'many'"]),
        ("threads", 0, ["threads", "greater than or equal to 1"]),
        ("training.learning_rate", -1.0, ["training.learning_rate", "greater than 0"]),
        ("models.0.family", "mase", ["models[0].family", "did you mean 'mace'"]),
        ("variants", ["entropie"], ["variants[0]", "'baseline'", "'entropy'"]),
        ("redox.element", "Fee", ["redox.element", "no element 'Fee'", "did you mean Fe"]),
        ("dataset.subset_elements", ["Na", "Xx"], ["dataset.subset_elements", "no element 'Xx'"]),
        ("dataset.validation_fraction", 1.5, ["dataset.validation_fraction", "less than"]),
        ("controls", [{"model": "pain", "variant": "shuffled"}], ["controls", "did you mean 'painn'"]),
        ("run", "../elsewhere", ["run", "pattern"]),
        ("search.cells.0.repeat", [1, 1, 10**12], ["search.cells[0]", "1000 are the most"]),
        ("run", "dft", ["run", "results/dft is shared by all runs"]),
        ("host", None, ["host", "string"]),
        # What looks like a number or a count is one, and nothing else is.
        ("training.epochs", False, ["training.epochs", "valid integer", "False"]),
        ("training.epochs", "5", ["training.epochs", "valid integer", "'5'"]),
        ("training.epochs", 5.0, ["training.epochs", "valid integer"]),
        ("training.learning_rate", True, ["training.learning_rate", "valid number"]),
        ("training.learning_rate", float("inf"), ["training.learning_rate", "finite"]),
        ("charge_order.fmax", float("nan"), ["charge_order.fmax", "finite"]),
        ("seed", True, ["seed", "valid integer"]),
        ("models.0.training", {"epochs": "5"}, ["models[0].training.epochs", "valid integer"]),
        ("models.0.hyperparameters", {"r_max": "4"}, ["models[0].hyperparameters.r_max", "valid number"]),
        ("dataset.subset_elements", "Na", ["dataset.subset_elements", "list"]),
        # What a shifted mesh with one point samples there is no shifted mesh of the unit cell.
        ("search.cells.0.repeat", [2, 1, 1], ["search.cells[0]", "1x2x2", "2x1x1", "dft.level.kpoints"]),
        # DFT's states are sites of one host; another's would be read as if they were its own.
        (
            "phase_diagram",
            {
                "systems": [
                    {"name": "li", "potential": "dft", "host": "resources/hosts/olivine-lifepo4.json"}
                ]
            },
            ["phase_diagram.systems", "olivine-nafepo4.json", "leave out the host of li"],
        ),
        # Everything is trained once.
        ("variants", ["baseline", "baseline"], ["variants", "mace-baseline-f0-s1", "2 times"]),
        ("models.0.variants", ["entropy", "entropy"], ["variants", "mace-entropy-f0-s1", "2 times"]),
        # Names of earlier versions.
        ("exam", {}, ["exam: is called charge_order now"]),
        ("exam", {"breathing": 0.1}, ["exam.breathing: is called charge_order.polaron_distortion now"]),
        ("charge_order.breathing", 0.1, ["charge_order.breathing", "charge_order.polaron_distortion"]),
        ("sampling", {}, ["sampling: is called search now"]),
        ("embedding.max_steps", 5, ["embedding.max_steps: is called charge_order.max_steps now"]),
        ("embedding.seed", 5, ["embedding.seed: is called seed, as for every other random choice"]),
        ("dft.breathing", 0.1, ["dft.breathing: is called dft.polaron_distortion now"]),
    ],
)
def test_mistakes_name_key_and_remedy(path: str, value: object, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        validate_config(changed_config(path, value), "test.yaml")
    message = str(caught.value)
    assert "\n" not in message
    for word in ["test.yaml", *words]:
        assert word in message, message


def test_a_run_needs_a_model_that_searches() -> None:
    models = [model | {"control": True} for model in DEMO["models"]]
    with pytest.raises(UserError, match="models: all of them are controls"):
        validate_config(changed_config("models", models) | {"outside": [], "controls": []}, "test.yaml")


def test_cells_that_cannot_be_searched_are_said_before_anything_trains(tmp_path: Path) -> None:
    cells = [{"repeat": [1, 3, 1], "compositions": [40], "budget": 8, "population": 4}]
    path = tmp_path / "cells.yaml"
    path.write_text(yaml.safe_dump(changed_config("search", {"cells": cells})))
    done, _ = run_cli("check", "--config", str(path))
    assert done.returncode == 2 and "40 Na is no composition to search at" in done.stderr
    # Snakemake called by hand, as on a cluster, refuses the same.
    path.write_text(yaml.safe_dump(changed_config("redox.states.1.magmom", {"M": [4.1, 4.5]})))
    planned = subprocess.run(
        [sys.executable, "-m", "snakemake", "--configfile", str(path), "--cores", "1", "--dry-run"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert planned.returncode != 0 and "not both have a moment window" in planned.stdout


def test_the_level_of_dft_has_a_default_for_the_frames_of_this_project_only() -> None:
    """Frames of another level were once compared with what GPAW computes at the level of ours."""
    config = changed_config("dft", {"engine": "gpaw"})
    validate_config(config, "test.yaml")
    config["dataset"]["energy_reference"] = "GPAW/PBE+U(Fe 5.3)/PW600/1x2x2 shifted"
    with pytest.raises(UserError, match=r"dft\.level: state the level .*PW600.*PW800"):
        validate_config(config, "test.yaml")
    config["dft"]["level"] = {"cutoff": 600.0, "kpoints": [1, 2, 2], "shifted": True}
    validate_config(config, "test.yaml")


def test_cells_of_other_frames_need_no_mesh_of_this_projects_level() -> None:
    """``dft.level`` was left out and nothing is computed, but its mesh refused the cell."""
    own = "VASP/PBE+U(Fe 5.3)/PAW520"
    config = changed_config("search.cells", [{"repeat": [2, 1, 1]}])
    config["dataset"]["energy_reference"] = own
    found = validate_config(config, "test.yaml")
    validate_config(json.loads(found.model_dump_json()), "config.json")  # what the jobs of a run read
    config["dft"] = {"engine": "vasp", "level": {"code": "VASP", "cutoff": 520, "kpoints": [1, 2, 2]}}
    validate_config(config, "test.yaml")
    config["dft"]["level"]["shifted"] = True
    with pytest.raises(UserError, match=r"search\.cells\[0\].*dft\.level\.kpoints"):
        validate_config(config, "test.yaml")


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (
            "charge_order.compared_x",
            0.6,
            "charge_order.compared_x is 0.6, where the cell of olivine NaFePO4",
        ),
        ("dataset.path", "my/none.extxyz", "my/none.extxyz does not exist"),
        ("dataset.path", "my/full.cif", "my/full.cif: unknown suffix '.cif'"),
        (
            "phase_diagram.systems",
            [{"name": "na", "potential": "chgnet-0.3.0", "host": "none.json"}],
            "phase_diagram.systems: na: none.json",
        ),
        ("redox.states.1.magmom", {"M": [4.1, 4.5]}, "redox.states: not both have a moment window"),
        (
            "phase_diagram.systems",
            [{"name": "na", "potential": "chgnet-0.3"}],
            "phase_diagram.na.potential: chgnet-0.3 is no potential: no shipped name",
        ),
        (
            "outside",
            [{"name": "mine", "potential": "ase.calculators.emtt:EMT"}],
            "outside.mine.potential: ase.calculators.emtt:EMT is in no module that Python finds here",
        ),
        ("dft", {"engine": "gpaw"}, "dft.engine: GPAW is not installed; run 'make dft-setup'"),
    ],
)
def test_runs_that_cannot_be_are_refused_by_the_check(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    value: object,
    told: str,
) -> None:
    """They failed in their first jobs, or after the trainings."""
    monkeypatch.setattr(config_runnable, "find_spec", lambda name: None)  # as where GPAW is not installed
    config = changed_config(path, value)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["check", "--config", str(tmp_path / "config.yaml")]) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1


def test_models_of_the_run_are_potentials_before_they_are_trained() -> None:
    model = next(iter(validate_config(DEMO, "test.yaml").trained()))
    folder = f"results/{DEMO['run']}/training/{model}"
    for spelled in (str(model), folder, f"./{folder}/", "dft", "ase.calculators.emt:EMT"):
        system = {"name": "na", "potential": spelled}
        require_runnable(
            validate_config(changed_config("phase_diagram", {"systems": [system]}), "test.yaml")
        )


def test_frames_that_state_their_charges_need_no_windows(tmp_path: Path) -> None:
    config = changed_config("redox.states.0.magmom", {})
    config["redox"]["states"][1]["magmom"] = {}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["check", "--config", str(tmp_path / "config.yaml")]) == 0


def test_check_says_what_a_run_would_lack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A typing error in the level of the metal cost the voltages, and nobody was told."""
    config = changed_config("thermodynamics.metals.0.level", "another level")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["check", "--config", str(tmp_path / "config.yaml")]) == 0
    assert "no voltages: thermodynamics.metals has no Na metal at " in capsys.readouterr().err
    config = changed_config(
        "dft",
        {
            "engine": "vasp",
            "level": {"code": "VASP", "hubbard_u": {"Mn": 3.9}, "cutoff": 520, "kpoints": [2, 4, 4]},
        },
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["check", "--config", str(tmp_path / "config.yaml")]) == 2
    assert "Fe2+ has no Hubbard U to hold it" in capsys.readouterr().err


def test_dft_of_ions_outside_the_couple_is_asked_before_any_training(tmp_path: Path) -> None:
    """With open-shell ions beside the couple every calculation failed, after all trainings."""
    host = json.loads(Path(DEMO["host"]).read_text())
    host["numbers"] = [24 if number == 15 else number for number in host["numbers"]]
    (tmp_path / "host.json").write_text(json.dumps(host))
    charges = {"Cr" if name == "P" else name: z for name, z in DEMO["redox"]["formal_charges"].items()}
    level = {"code": "VASP", "hubbard_u": {"Fe": 5.3}, "cutoff": 520, "kpoints": [2, 4, 4]}
    config = DEMO | {
        "host": str(tmp_path / "host.json"),
        "redox": DEMO["redox"] | {"formal_charges": charges},
        "dft": {"engine": "vasp", "level": level},
    }
    checked = validate_config(config, "test.yaml")
    with pytest.raises(UserError, match=r"Cr5\+ has no Hubbard U to hold it"):
        require_runnable(checked)


def test_a_level_that_a_written_configuration_states_by_default_is_assumed(tmp_path: Path) -> None:
    """Every key stands in the config.json of a run, also the level that nobody chose."""
    reference = "VASP/mine"
    config = changed_config("dataset.energy_reference", reference)
    for state in config["redox"]["states"]:
        state["magmom"] = {reference: next(iter(state["magmom"].values()))}
    found = validate_config(config, "test.yaml")
    written = validate_config(found.model_dump(mode="json"), "config.json")
    for one in (found, written):
        with pytest.raises(UserError, match="state the level to compute at; the frames of this run are at"):
            one.require_dft_level()


def test_a_loss_of_what_a_family_does_not_predict_is_refused() -> None:
    place = next(k for k, model in enumerate(DEMO["models"]) if model["family"] == "painn")
    config = changed_config(f"models.{place}.training.loss", [{"label": "energy"}, {"label": "magmoms"}])
    said = rf"models\[{place}\]: .* has a loss term for magmoms, which painn does not predict"
    with pytest.raises(UserError, match=said):
        validate_config(config | {"charge_order": {"cell": "fixed"}}, "test.yaml")


def test_a_model_may_change_single_keys_of_the_scheduler() -> None:
    """The others of the common scheduler went back to their defaults without a word."""
    name = DEMO["models"][0]["name"]
    for own, expected in (
        ({"final_ratio": 0.1}, ("cosine", 1, 0.1)),
        ({"kind": "cosine", "final_ratio": 0.1}, ("cosine", 1, 0.1)),
        ({"kind": "plateau"}, ("plateau", 0, 0.01)),
    ):
        config = changed_config("models.0.training", {"scheduler": own})
        found = validate_config(config, "test.yaml").training_of(name).scheduler
        assert (found.kind, found.warmup_epochs, found.final_ratio) == expected


def test_jobs_train_on_the_device_of_the_run() -> None:
    """They read all keys from config.json, with the default of those that nobody wrote."""
    found = validate_config(DEMO | {"device": "cuda"}, "test.yaml")
    again = validate_config(json.loads(found.model_dump_json()), "config.json")
    for name in (model.name for model in found.models):
        assert found.training_of(name).device == again.training_of(name).device == "cuda"


def test_what_is_left_out_follows_from_the_material() -> None:
    """A user's own material was refused because of keys that nobody wrote, with the elements of another."""
    config = copy.deepcopy(DEMO)
    for key in ("subset_elements", "required_elements"):
        del config["dataset"][key]
    config["redox"] |= {"element": "Mn", "formal_charges": {"Li": 1, "O": -2}}
    del config["search"]
    found = validate_config(config, "test.yaml")
    assert found.dataset.subset_elements == ("Mn", "Li", "O")
    assert found.dataset.required_elements == ("Mn",)
    assert [(cell.name, cell.enumerate) for cell in found.search.cells] == [("1x1x1", True)]
    config["dataset"]["subset_elements"] = ["Li", "Mn", "O", "F"]
    found = validate_config(config, "test.yaml")
    assert (found.dataset.subset_elements, found.dataset.required_elements) == (
        ("Li", "Mn", "O", "F"),
        ("Mn",),
    )


def test_missing_key_is_named() -> None:
    config = copy.deepcopy(DEMO)
    del config["redox"]
    with pytest.raises(UserError, match="redox: required but missing"):
        validate_config(config, "test.yaml")


def test_pretrained_without_shipped_weights() -> None:
    place = [m["family"] for m in DEMO["models"]].index("mace")
    with pytest.raises(UserError, match="ships no weights"):
        validate_config(changed_config(f"models.{place}.init", "pretrained"), "test.yaml")


def test_cpainn_needs_three_interactions() -> None:
    place = [m["family"] for m in DEMO["models"]].index("cpainn")
    with pytest.raises(UserError, match="n_interactions"):
        validate_config(
            changed_config(f"models.{place}.hyperparameters", {"n_interactions": 2}), "test.yaml"
        )


def test_names_must_differ() -> None:
    with pytest.raises(UserError, match="used twice"):
        validate_config(changed_config("models", [DEMO["models"][0]] * 2), "test.yaml")
