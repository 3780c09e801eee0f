"""Faults one after another on one run; it ends with the table of a run that had none."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulted_run import Run, until

from workflow_lib.core.io import read_json

EPOCHS = 40  # some seconds of training after each of four faults, however late one is noticed
CHECKPOINT_EVERY = 0.3  # s

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A run whose results are on a disk that is small enough to be filled, if one can be mounted here."""
    with Run(tmp_path, "faults", EPOCHS, CHECKPOINT_EVERY) as run:
        run.results.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(run.results)]
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)  # root only
        if mounted.returncode != 0:
            said = f"the full disk is NOT tested: {mounted.stderr.strip()}"
            warnings.warn(said, RuntimeWarning, stacklevel=1)
        try:
            yield run
        finally:
            for process in run.trainings():
                os.kill(process, signal.SIGKILL)
            if mounted.returncode == 0:
                subprocess.run(["umount", "--lazy", run.results], check=False)


def keep_full(folder: Path, process: subprocess.Popen[str]) -> Path:
    """Write until nothing more fits, again and again until the process has ended; the file to delete.

    What the process deletes, such as the checkpoint before the last, would leave it room for the next.
    """
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as handle:
        while process.poll() is None:
            for size in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while handle.write(b"\0" * size) == size:
                        pass
            time.sleep(0.02)
    return ballast


def test_a_run_through_all_faults_ends_with_the_same_table(run: Run, tmp_path: Path) -> None:
    # All processes are killed at once: the same command goes on, once the folder is unlocked.
    process = run.start(None)
    run.progress()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not run.trainings()
    code, output = run.call(None, "--unlock")
    assert code == 0, output

    # The training job is killed: the call fails, says of what, and ends.
    process = run.start(None)
    run.progress()
    assert run.resumed()
    [job] = run.trainings()
    os.kill(job, signal.SIGKILL)
    code, output = run.finish(process)
    assert code == 1
    assert "Error in rule train" in output and run.log.name in output

    # The disk is full: one line, checkpoints that can be read, and no half-written file.
    if run.results.is_mount():
        process = run.start(None)
        run.progress()
        ballast = keep_full(run.results, process)
        code, output = run.finish(process)
        assert code == 1
        ballast.unlink()
        assert "the disk is full; free some space" in output
        assert run.resumed()
        assert not [path for path in run.results.rglob("*") if ".tmp" in path.name]
        for path in run.results.rglob("*.json"):
            read_json(path)

    # The main process alone is killed: its training goes on, the next call waits for it.
    process = run.start(None)
    run.progress()
    [orphan] = run.trainings()
    os.kill(orphan, signal.SIGSTOP)  # or it might end before its successor begins
    process.kill()
    process.wait()
    assert run.trainings() == [orphan]
    code, output = run.call(None, "--unlock")
    assert code == 0, output
    process = run.start(None)
    until(lambda: len(run.trainings()) == 2, "a successor")
    until(lambda: f"process {orphan} on" in run.log.read_text(), "its word on whom it waits for")
    os.kill(orphan, signal.SIGCONT)
    run.progress()
    code, output = run.finish(process)
    assert code == 0, output
    assert orphan not in run.trainings()

    with Run(tmp_path, "whole", EPOCHS, CHECKPOINT_EVERY) as whole:
        code, output = whole.call(None)
        assert code == 0, output
        assert whole.table.read_text() == run.table.read_text()
