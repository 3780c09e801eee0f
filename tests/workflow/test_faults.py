"""Faults one after another on one run; it ends with the table of a run that had none."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from workflow_lib.io import read_json

ROOT = Path(__file__).parents[2]
SMOKE = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
LIMIT = 600  # s; nothing here takes as long, even on a busy machine

pytestmark = pytest.mark.slow


class Call:
    """One ``snakemake`` call and what it printed."""

    def __init__(self, config: Path, *arguments: str) -> None:
        self.log = config.with_suffix(f".{time.monotonic_ns()}.log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "snakemake",
                    "--configfile",
                    str(config),
                    "--cores",
                    "2",
                    *arguments,
                ],
                cwd=ROOT,
                start_new_session=True,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def end(self) -> int:
        return self.process.wait(LIMIT)

    def text(self) -> str:
        return self.log.read_text()


def until(condition: Callable[[], object], call: Call | None = None) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert call is None or call.process.poll() is None, call.text()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def trainings(results: Path) -> list[int]:
    """Processes that train into these results, by number: Python's, not those of shells around them."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"train" in words and any(results.name.encode() in word for word in words):
            found.append(int(folder.name))
    return found


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], Path]:
    """Writes the smoke configuration of one model, trained for a while, under another run name."""

    def write(name: str) -> Path:
        content = copy.deepcopy(SMOKE) | {
            "run": name,
            "models": [model for model in SMOKE["models"] if model["name"] == "painn"],
            "variants": ["entropy"],
            "controls": [],
            "training": SMOKE["training"] | {"epochs": 12, "checkpoint_every_s": 0.3},
            "dft": {"store": str(tmp_path / "store")},
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A results folder on a disk of its own, small enough to be filled."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    results = ROOT / "results" / f"test-faults-{os.getpid()}"
    results.mkdir(parents=True)
    try:
        mount = ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(results)]
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
        if mounted.returncode != 0:
            pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
        yield results
    finally:
        for process in trainings(results):
            os.kill(process, signal.SIGKILL)
        subprocess.run(["umount", "--lazy", results], check=False)
        shutil.rmtree(results, ignore_errors=True)


def fill(folder: Path) -> Path:
    """Write until nothing more fits; the file to delete."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as handle:
        try:
            for size in (1 << 20, 4096, 1):
                while handle.write(b"\0" * size) == size:
                    pass
        except OSError:
            pass
    assert shutil.disk_usage(folder).free == 0
    return ballast


def test_a_run_through_all_faults_ends_with_the_same_table(
    config: Callable[[str], Path], small_disk: Path
) -> None:
    results, broken = small_disk, config(small_disk.name)
    log = results / "logs/train-painn-entropy-f0-s1.log"

    def checkpoints() -> set[Path]:
        return set((results / "work/checkpoints").rglob("*.pt"))

    def progress(call: Call | None = None) -> None:
        before = checkpoints()
        until(lambda: checkpoints() - before, call)

    # The training job is killed: the call fails, says of what, and ends.
    call = Call(broken)
    progress(call)
    [job] = trainings(results)
    os.kill(job, signal.SIGKILL)
    assert call.end() == 1
    assert "Error in rule train" in call.text() and log.name in call.text()

    # The disk is full: one line, checkpoints that can be read, and no half-written file.
    call = Call(broken)
    progress(call)
    ballast = fill(results)
    assert call.end() == 1
    ballast.unlink()
    assert "the disk is full; free some space" in call.text()
    assert "going on after epoch" in log.read_text()
    assert not [path for path in results.rglob("*") if ".tmp" in path.name]
    for path in results.rglob("*.json"):
        read_json(path)

    # The main process alone is killed: its training goes on, the next call waits for it.
    call = Call(broken)
    progress(call)
    [orphan] = trainings(results)
    call.process.kill()
    call.process.wait()
    assert trainings(results) == [orphan]
    assert Call(broken, "--unlock").end() == 0
    successor = Call(broken)
    until(lambda: len(trainings(results)) == 2, successor)
    until(lambda: f"process {orphan} on" in log.read_text(), successor)
    progress(successor)
    assert successor.end() == 0, successor.text()
    assert orphan not in trainings(results)

    name = f"{results.name}-whole"
    try:
        whole = Call(config(name))
        assert whole.end() == 0, whole.text()
        table = "benchmark/benchmark.csv"
        assert (ROOT / "results" / name / table).read_text() == (results / table).read_text()
    finally:
        shutil.rmtree(ROOT / "results" / name, ignore_errors=True)
