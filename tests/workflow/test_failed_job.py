"""A job that fails names its log and repeats the end of it, and only that."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from workflow_lib.workflow.failed_log import LINES, RULE, last_lines

ROOT = Path(__file__).parents[2]
SMOKE = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
CHATTER = 2000


def test_the_end_of_a_long_log(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text("".join(f"line {n}\n" for n in range(20_000)) + "error: the cause\n\n")
    shown = list(last_lines([log]))
    assert shown[0] == f"Log {log}, its last {LINES} lines:"
    assert shown[1] == shown[-1] == RULE
    assert shown[2] == f"line {20_000 - LINES + 1}" and shown[-2] == "error: the cause"
    assert len(shown) == LINES + 3


def test_short_empty_and_missing_logs(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("one\ntwo")
    (tmp_path / "empty").write_text("\n")
    names = [str(tmp_path / name) for name in ("short", "empty", "missing")]
    assert list(last_lines(names)) == [
        f"Log {names[0]}:",
        *(RULE, "one", "two", RULE),
        f"Log {names[1]} is empty: the job ended before it wrote anything",
        f"Log {names[2]}: No such file or directory",
    ]


def test_bars_long_lines_and_bytes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    bar = "".join(f"\rtraining: {n:3d}%" for n in range(101))
    log.write_bytes(bar.encode() + b"\r\n" + b"x" * 10_000 + b"\n\xff\xfe\n" + bar.encode())
    _, _, first, second, third, fourth, _ = last_lines([log])
    assert first == fourth == "training: 100%"
    assert len(second) < 400 and second.startswith("xxx") and second.endswith("...")
    assert third == "\ufffd\ufffd"
    log.write_bytes(b"\r" + b"y" * 200_000)  # one line longer than what is read
    assert all(len(line) < 400 for line in last_lines([log]))


@pytest.mark.slow
def test_a_failed_training_in_a_real_run(tmp_path: Path) -> None:
    """PaiNN is to choose weights on too few compositions, which only its job sees; all chatter before."""
    name = f"test-failed-{os.getpid()}"
    config = copy.deepcopy(SMOKE) | {"run": name, "variants": ["baseline"], "controls": []}
    config["models"] = [model for model in config["models"] if model["name"] == "painn"]
    config["models"][0]["training"] = {"select": "validation"}
    config["dataset"]["validation_fraction"] = 0.02
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nif 'train' in sys.orig_argv:\n    print('chatter\\n' * {CHATTER}, file=sys.stderr)\n"
    )
    model = "painn-baseline-f0-s1"
    command = [sys.executable, "-m", "snakemake", "--configfile", str(path), "--cores", "1"]
    command += ["--", f"results/{name}/training/{model}/card.json"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
    finally:
        shutil.rmtree(ROOT / "results" / name, ignore_errors=True)
    text = done.stdout + done.stderr
    assert done.returncode == 1, text
    log = f"results/{name}/logs/train-{model}.log"
    assert "Error in rule train" in text and f"log: {log}" in text
    end = text[text.index(f"{log}, its last {LINES} lines:") :].splitlines()
    assert "error: training.select is validation, but the validation set holds" in end[LINES + 1]
    assert "Traceback" not in text
    assert text.count("chatter") < LINES
