"""Mistakes in the configuration: one line, key and remedy named, within two seconds, without torch."""

from __future__ import annotations

import copy
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from changed_config import DEMO, changed_config

from workflow_lib.config import load_config, validate_config
from workflow_lib.core.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["config", "smoke", "study", "paper"])
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
        ("host", None, ["host", "string"]),
    ],
)
def test_mistakes_name_key_and_remedy(path: str, value: object, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        validate_config(changed_config(path, value), "test.yaml")
    message = str(caught.value)
    assert "\n" not in message
    for word in ["test.yaml", *words]:
        assert word in message, message


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
    [("a: [1", "not valid YAML"), ("- 1", "must hold keys and values"), (None, "does not exist")],
)
def test_unreadable_configuration(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=words):
        load_config(path)


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
