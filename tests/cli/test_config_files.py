"""Files of configurations: how they are read, joined and written again, and errors in one line, fast."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from changed_config import changed_config

from workflow_lib.config_files import load_config
from workflow_lib.core.errors import UserError

ROOT = Path(__file__).parents[2]


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
