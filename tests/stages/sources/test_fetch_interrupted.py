"""Full disks, killed processes, two fetches at once: the same command continues where the last stopped."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fetching import BIG, FAST, Gate, another_run, fails, get, good, wait_until
from local_api import Fault, LocalApi, serve

from workflow_lib.core.errors import UserError
from workflow_lib.stages.sources import fetch as fetch_module


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of ``size`` bytes of its own; skips the test where none can be mounted."""
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small tmpfs needs root")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_disk_that_is_too_small_is_noticed_before(api: LocalApi, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 200_000) as disk:
        fails(api, disk, "384.0 kB are needed", "free some space")
        assert not api.downloads("big.xyz")


def test_disk_that_fills_up_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Plenty:
        free = 10**12

    with small_disk(tmp_path / "disk", 300_000) as disk, serve({"big.xyz": BIG}) as api:
        with monkeypatch.context() as patch:
            # As where a quota, or somebody else, takes what seemed free.
            patch.setattr(fetch_module.shutil, "disk_usage", lambda _: Plenty)
            line = fails(
                api, disk, "the disk is full (No space left on device)", "what has arrived is kept"
            )
        assert str(disk) in line
        arrived = (disk / "test-item/.fetch/parts/big.xyz.part").stat().st_size
        assert arrived > 100_000
        subprocess.run(["mount", "-o", "remount,size=2000000", str(disk)], check=True)
        (fetched,) = get(api, disk).files
        assert fetched.read_bytes() == BIG
        assert api.downloads("big.xyz")[1].range == f"bytes={arrived}-"


def test_failing_write(api: LocalApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The same without root: moving the finished file into place fails.
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if self.name == "big.xyz.part":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        fails(api, tmp_path, "the disk is full")
    good(api, tmp_path)
    assert len(api.downloads("big.xyz")) == 1


def test_folder_that_cannot_be_written(api: LocalApi, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"cannot write .*file.*: (Not a directory|File exists); choose a folder"
    ):
        get(api, tmp_path / "file")


def test_kill_9_in_the_middle(api: LocalApi, tmp_path: Path) -> None:
    gate = Gate(200_000)
    api.faults["big.xyz"] = [Fault(at=gate)]
    part = tmp_path / "test-item/.fetch/parts/big.xyz.part"
    with another_run(api, tmp_path) as process:
        assert gate.reached.wait(20)
        wait_until((tmp_path / "test-item/files/small.xyz").exists)
        wait_until(lambda: part.exists() and part.stat().st_size > 100_000)
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
    gate.go_on.set()
    arrived = part.stat().st_size
    assert part.read_bytes() == BIG[:arrived]
    assert not (tmp_path / "test-item/files/big.xyz").exists()
    good(api, tmp_path)
    resumed = api.downloads("big.xyz")[1]
    assert (resumed.range, resumed.sent) == (f"bytes={arrived}-", len(BIG) - arrived)


def test_killed_before_the_checksum_was_noted(api: LocalApi, tmp_path: Path) -> None:
    get(api, tmp_path)
    (tmp_path / "test-item/.fetch/verified.json").unlink()
    good(api, tmp_path)
    assert len(api.downloads("big.xyz")) == 1


def test_part_that_was_damaged_on_the_disk(api: LocalApi, tmp_path: Path) -> None:
    api.faults["big.xyz"] = [Fault(cut_at=100_000, ignore_range=True), *[Fault(status=500)] * 3]
    fails(api, tmp_path, "HTTP 500")
    part = tmp_path / "test-item/.fetch/parts/big.xyz.part"
    part.write_bytes(bytes(100_000))
    good(api, tmp_path)


def test_two_runs_at_once(api: LocalApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gate = Gate(100_000)
    api.faults["big.xyz"] = [Fault(at=gate)]
    with another_run(api, tmp_path) as process:
        assert gate.reached.wait(20)
        hasty = FAST.model_copy(update={"lock_wait": 0.0})
        fails(api, tmp_path, "is in use by another fetch", f"process {process.pid}", settings=hasty)
        threading.Timer(0.5, gate.go_on.set).start()
        get(api, tmp_path)  # waits, then finds everything there
        assert f"another fetch (process {process.pid} on " in capsys.readouterr().err
        assert process.wait(20) == 0
    good(api, tmp_path)
    assert len(api.downloads("big.xyz")) == 1
