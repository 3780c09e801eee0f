"""Mistakes in the configuration: one line, key and remedy named, within two seconds, without torch."""

from __future__ import annotations

import copy
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from changed_config import DEMO, changed_config

from workflow_lib.cli.main import main
from workflow_lib.config import Config
from workflow_lib.config_files import load_config, load_studies, validate_config, validate_studies
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


def test_studies_alone_keep_off_shared_folders_too() -> None:
    """``make clean`` of such a run would have removed the store of DFT energies."""
    studies = yaml.safe_load((ROOT / "config/chgnet.yaml").read_text())
    with pytest.raises(UserError, match="results/dft is shared by all runs"):
        validate_studies(studies | {"run": "dft"}, "test.yaml")


@pytest.mark.parametrize("stage", ["dynamics", "charge_inference"])
def test_the_potential_of_a_study_is_a_path_that_snakemake_can_use(stage: str) -> None:
    studies = yaml.safe_load((ROOT / "config/chgnet.yaml").read_text())
    studies[stage]["studies"][0]["potential"] = "models/{mine}"
    name = studies[stage]["studies"][0]["name"]
    with pytest.raises(UserError, match=rf"{stage}\.{name}\.potential: .*wildcards, got .*mine") as caught:
        validate_studies(studies, "test.yaml")
    assert "\n" not in str(caught.value)


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
    planned = subprocess.run(
        [sys.executable, "-m", "snakemake", "--configfile", str(path), "--cores", "1", "--dry-run"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert planned.returncode != 0 and "40 Na is no composition to search at" in planned.stdout


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
        ("redox.states.1.magmom", {"M": [4.1, 4.5]}, "redox.states: not both have a moment window"),
    ],
)
def test_runs_that_cannot_be_are_refused_by_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, value: object, told: str
) -> None:
    """They failed in their first jobs, or after the trainings."""
    config = changed_config(path, value)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["check", "--config", str(tmp_path / "config.yaml")]) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1


def test_frames_that_state_their_charges_need_no_windows(tmp_path: Path) -> None:
    config = changed_config("redox.states.0.magmom", {})
    config["redox"]["states"][1]["magmom"] = {}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["check", "--config", str(tmp_path / "config.yaml")]) == 0


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


def run_cli(*arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run the command line in a process of its own; also return the processor time it took in s.

    Not the time on the clock: other work on the machine would be measured with it.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "workflow_lib", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_without_torch() -> None:
    code = "import sys, workflow_lib.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    done, seconds = run_cli("--help")
    assert done.returncode == 0
    assert "evaluate" in done.stdout
    assert seconds < 0.5  # the promise of the README; measured 0.1 s


def test_configuration_error_is_one_line_and_fast(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(changed_config("datset", {})))
    done, seconds = run_cli("dataset", "--config", str(path), "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "did you mean 'dataset'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    assert seconds < 2  # the promise of the README; measured 0.4 s


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "not valid YAML: line 1: "),
        ("- 1", "must hold keys and values"),
        ("run: a\nrun: b", "found duplicate key"),
        ("seed: 2026-11-28", "a date; quote it"),
        (None, "does not exist"),
    ],
)
def test_unreadable_configuration(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=words):
        load_config(path)


def test_a_file_of_an_earlier_version_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"benchmark.yaml does not exist; it is called .*study.yaml now"):
        load_config(tmp_path / "benchmark.yaml")


def test_later_files_and_overrides_replace_single_keys(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(changed_config("training.epochs", 7)))
    (tmp_path / "b.yaml").write_text("training: {batch_size: 3}\nseeds: [010, 2]\n")
    config = load_config(tmp_path / "a.yaml", tmp_path / "b.yaml", overrides={"run": "other"})
    assert (config.training.epochs, config.training.batch_size) == (7, 3)
    assert config.seeds == (10, 2)  # not octal
    assert config.run == "other"


def test_the_written_configuration_is_read_again(tmp_path: Path) -> None:
    """A run writes its resolved configuration as JSON, which every job reads."""
    config = load_config(ROOT / "config/config.yaml")
    (tmp_path / "config.json").write_text(config.model_dump_json(indent=2))
    assert load_config(tmp_path / "config.json") == config


def test_schema_is_current(tmp_path: Path) -> None:
    """config/schema.json is generated: ``python -m workflow_lib schema --out config/schema.json``."""
    done, _ = run_cli("schema", "--out", str(tmp_path / "schema.json"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "schema.json").read_text() == (ROOT / "config/schema.json").read_text()


def test_unwritable_results_folder(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    done, _ = run_cli("dataset", "--out", str(blocked / "dataset"))
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr


def test_snakemake_reports_the_same_line(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(changed_config("training.epoch", 5)))
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "--configfile", str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode != 0
    assert "did you mean 'epochs'" in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["chgnet", "chgnet-paper", "charge-dynamics"])
def test_runs_of_studies_alone_are_read_and_read_again(name: str, tmp_path: Path) -> None:
    from workflow_lib.stages.charge_inference.run import neutral_split

    config = load_studies(ROOT / f"config/{name}.yaml")
    assert not isinstance(config, Config)
    assert config.folder == Path("results") / name
    (tmp_path / "config.json").write_text(config.model_dump_json())
    assert load_studies(tmp_path / "config.json") == config
    for study in config.charge_inference.studies if config.charge_inference else ():
        atoms = study.crystal.build(np.random.default_rng(0))
        cells = np.prod(study.crystal.repeat)
        assert len(atoms) == 114 * cells
        assert neutral_split(study, atoms) == 6 * cells
    assert config.dynamics is not None
    systems = {job.system.name: job.system.crystal for job in config.dynamics.trajectories()}
    sizes = {name: len(crystal.build(np.random.default_rng(0))) for name, crystal in systems.items()}
    if name == "charge-dynamics":
        assert sizes == {"half": 26}
        return
    assert sizes["half"] == 140
    assert sizes["stuffed"] == sizes["stoichiometric"] + systems["stuffed"].stuff.count


def test_studies_do_not_train() -> None:
    with pytest.raises(UserError, match="has studies alone") as error:
        load_config(ROOT / "config/chgnet.yaml")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="host: required but missing"):
        validate_studies({"run": "empty"}, "empty.yaml")  # neither kind: told as a run that trains
    wrong = yaml.safe_load((ROOT / "config/chgnet.yaml").read_text())
    wrong["dynamics"]["studies"][0]["temperatures"] = [0]
    with pytest.raises(UserError, match=r"temperatures.*greater than or equal to 1"):
        validate_studies(wrong, "wrong.yaml")
    wrong["dynamics"]["studies"][0]["temperature"] = [0]
    with pytest.raises(UserError, match="temperature"):
        validate_studies(wrong, "wrong.yaml")
    comparison = load_config(ROOT / "config/smoke.yaml")
    assert comparison.dynamics is None


def test_commands_of_a_comparison_refuse_studies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ["--config", str(ROOT / "config/chgnet.yaml"), "--out", str(tmp_path / "out")]
    assert main(["dataset", *wanted]) == 2
    assert "has studies alone" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    known = ["--study", "nasikon", "--work", str(tmp_path / "work")]
    assert main(["charge-inference", *wanted, *known]) == 2
    assert "nasicon" in capsys.readouterr().err
    assert main(["dynamics", *wanted, "--trajectory", "x", "--work", str(tmp_path)]) == 2
    assert "dynamics has no trajectory 'x'" in capsys.readouterr().err
