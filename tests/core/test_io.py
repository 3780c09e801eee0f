"""Results are written whole or not at all, also on a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from workflow_lib.__main__ import main
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path, remove_temporaries
from workflow_lib.core.locks import alone
from workflow_lib.workflow.run_folder import clear_run

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", [FULL, OSError(errno.EDQUOT, "Disk quota exceeded")])
def test_a_full_disk_leaves_the_old_file_and_one_line(error, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(UserError, match=r"table.csv: the disk is full; free some space"), atomic_path(path):
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_where_a_file_should_be_is_one_line(tmp_path):
    with pytest.raises(UserError, match="it is a folder; give the name of a file"), atomic_path(tmp_path):
        pytest.fail("nothing is to be computed for it")


def test_a_library_with_an_error_of_its_own_is_understood(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="serialise"), atomic_path(tmp_path / "a"):
        raise RuntimeError("cannot serialise")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(UserError, match="the disk is full"), atomic_path(tmp_path / "a"):
        raise RuntimeError("cannot serialise")


def test_a_full_disk_elsewhere_is_one_line_too(tmp_path, monkeypatch, capsys):
    """Where a stage writes its log, for one."""

    def run(**_):
        raise FULL

    monkeypatch.setattr("workflow_lib.stages.dataset.run.build_dataset", run)
    assert main(["dataset", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: cannot write {tmp_path}/out: the disk is full")


def test_another_error_of_the_system_is_not_taken_for_it(tmp_path, monkeypatch):
    def run(**_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("workflow_lib.stages.dataset.run.build_dataset", run)
    with pytest.raises(OSError, match="Input/output"):
        main(["dataset", "--out", str(tmp_path / "out")])


def test_what_a_kill_left_goes_when_its_successor_has_the_folder(tmp_path):
    """The file of a killed process, made for real; what only looks like one stays."""
    code = (
        "import os, sys; from workflow_lib.core.io import atomic_path\n"
        f"with atomic_path({str(tmp_path / 'states.svg')!r}) as path:\n    os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    [left] = tmp_path.iterdir()
    kept = {".mine.tmp", ".a.12.tmp.b.c", "a.12.tmp.svg", ".tmp"}
    for name in kept:
        (tmp_path / name).touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below/.states.12.tmp.svg").touch()

    remove_temporaries(tmp_path, 3600)
    assert left.exists()
    with alone(tmp_path, "test"):
        assert not left.exists()
        assert {path.name for path in tmp_path.iterdir()} == {*kept, "below", ".busy"}
    clear_run(tmp_path)
    assert (tmp_path / "below/.states.12.tmp.svg").exists()
    os.utime(tmp_path / "below/.states.12.tmp.svg", (1, 1))
    clear_run(tmp_path)
    assert not (tmp_path / "below/.states.12.tmp.svg").exists()
