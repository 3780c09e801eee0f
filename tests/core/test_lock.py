"""One process at a time: the lock is waited for, and dies with its holder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workflow_lib.__main__ import main
from workflow_lib.core.errors import UserError
from workflow_lib.core.locks import alone, folder_lock

HOLDER = """
import sys, time
from pathlib import Path
from workflow_lib.core.locks import alone
with alone(Path(sys.argv[1]), "test"):
    print("holding", flush=True)
    time.sleep(float(sys.argv[2]))
    Path(sys.argv[1], "done").touch()
"""


def holder(folder: Path, seconds: float) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "holding\n"
    return process


def test_the_second_waits_for_the_first_and_says_for_whom(tmp_path, capsys):
    with holder(tmp_path, 0.5) as process, alone(tmp_path, "test"):
        assert (tmp_path / "done").exists()
    assert f"another test (process {process.pid} on " in capsys.readouterr().err


def test_a_stage_waits_for_its_predecessor(tmp_path, capsys):
    out = tmp_path / "charge_order"
    with holder(out, 0.5) as process:
        assert (
            main(
                [
                    "charge-order-reference",
                    "--config",
                    "config/smoke.yaml",
                    "--dataset",
                    "no",
                    "--out",
                    str(out),
                ]
            )
            == 2
        )
        assert (out / "done").exists()
    waited, error = capsys.readouterr().err.splitlines()
    assert f"another charge-order-reference (process {process.pid} on " in waited
    assert error.startswith("error: no/")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["dataset", "--out", str(tmp_path / "file" / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: cannot write {tmp_path}/file/out: Not a directory")


@pytest.mark.parametrize("make", [Path.touch, lambda path: (path / "lock").mkdir(parents=True)])
def test_a_lock_that_cannot_be_written_is_one_line(make, tmp_path):
    """As in a folder without rights to write, which root does not know."""
    make(tmp_path / ".run")
    with (
        pytest.raises(UserError, match=rf"cannot write {tmp_path}: .*; choose a folder you can write to"),
        folder_lock(tmp_path / ".run/lock", 0, print),
    ):
        pytest.fail("there is no lock")


def test_a_killed_holder_holds_nothing(tmp_path):
    with holder(tmp_path, 600) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        started = time.monotonic()
        with alone(tmp_path, "test"):
            pass
    # Not a measurement: the holder would have slept for ten minutes.
    assert time.monotonic() - started < 60
    assert not (tmp_path / "done").exists()


def test_other_folders_do_not_wait(tmp_path):
    with holder(tmp_path / "one", 600) as process:
        with alone(tmp_path / "two", "test"):
            pass
        process.kill()
