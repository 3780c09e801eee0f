"""What goes wrong on the way: one clear line, no bad file kept, no good byte fetched twice."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from local_api import Fault, LocalApi, md5, serve

from workflow_lib.core.errors import UserError
from workflow_lib.core.progress import say
from workflow_lib.stages.sources import fetch as fetch_module
from workflow_lib.stages.sources import transport
from workflow_lib.stages.sources.fetch import Fetched, fetch
from workflow_lib.stages.sources.settings import FetchSettings
from workflow_lib.stages.sources.table import FigshareSource

ROOT = Path(__file__).parents[3]
FAST = FetchSettings(
    attempts=3,
    connect_timeout=5,
    stall_timeout=5,
    backoff=0.01,
    max_backoff=0.02,
    max_retry_after=3,
    lock_wait=20,
)
BIG = bytes(range(256)) * 1500  # 384,000 bytes
FILES = {"big.xyz": BIG, "small.xyz": b"small"}


@pytest.fixture
def api() -> Iterator[LocalApi]:
    with serve(FILES) as server:
        yield server


def get(api: LocalApi, out: Path, settings: FetchSettings = FAST, **more: Any) -> Fetched:
    return fetch("test-item", FigshareSource.model_validate(api.source(**more)), out, settings=settings)


def fails(api: LocalApi, out: Path, *words: str, settings: FetchSettings = FAST, **more: Any) -> str:
    """The fetch ends with one line that holds these words, and ``big.xyz`` is not taken for good."""
    with pytest.raises(UserError) as caught:
        get(api, out, settings, **more)
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line, line
    assert not (out / "test-item/files/big.xyz").exists()
    return line


def good(api: LocalApi, out: Path, settings: FetchSettings = FAST) -> None:
    """A further run completes the item, and fetches ``small.xyz`` no second time."""
    get(api, out, settings)
    assert (out / "test-item/files/big.xyz").read_bytes() == BIG
    assert not list((out / "test-item").rglob("*.part*"))
    assert len(api.downloads("small.xyz")) == 1


def test_truncated_body_goes_on_where_it_broke(api: LocalApi, tmp_path: Path) -> None:
    api.faults["big.xyz"] = [Fault(cut_at=100_000), Fault(cut_at=50_000)]
    good(api, tmp_path)
    first, second, third = api.downloads("big.xyz")
    assert (first.range, second.range, third.range) == (None, "bytes=100000-", "bytes=150000-")
    assert second.if_range == f'"{md5(BIG)}"'
    assert first.sent + second.sent + third.sent == len(BIG)


def test_progress_renews_patience(api: LocalApi, tmp_path: Path) -> None:
    api.faults["big.xyz"] = [Fault(cut_at=30_000) for _ in range(8)]
    good(api, tmp_path)  # more breaks than FAST.attempts, but each brought something


def test_truncated_again_and_again(api: LocalApi, tmp_path: Path) -> None:
    # A host that knows no ranges and always breaks at the same place makes no progress.
    api.faults["big.xyz"] = [Fault(cut_at=100_000, ignore_range=True) for _ in range(4)]
    fails(api, tmp_path, "big.xyz", "broke off", "after 3 tries", "1 of 2 files are here")
    good(api, tmp_path)


def test_short_body_that_claims_to_be_whole(api: LocalApi, tmp_path: Path) -> None:
    api.faults["big.xyz"] = [Fault(content=BIG[:1000]) for _ in range(3)]
    fails(api, tmp_path, "big.xyz", "offers 1000 bytes, the file list says 384000")
    good(api, tmp_path)


def test_wrong_md5(api: LocalApi, tmp_path: Path) -> None:
    wrong = BIG[:-1] + b"!"
    # Two whole downloads from each of the two addresses, then it is given up.
    api.faults["big.xyz"] = [Fault(content=wrong) for _ in range(4)]
    fails(api, tmp_path, "big.xyz", f"md5 is {md5(wrong)}, not {md5(BIG)}", "save the file with a browser")
    assert len(api.downloads("big.xyz")) == 4
    good(api, tmp_path)


def test_wrong_md5_once_is_mended(api: LocalApi, tmp_path: Path) -> None:
    api.faults["big.xyz"] = [Fault(content=BIG[:-1] + b"!")]
    good(api, tmp_path)


def test_404_of_a_file(api: LocalApi, tmp_path: Path) -> None:
    api.faults["big.xyz"] = [Fault(status=404), Fault(status=404)]
    fails(api, tmp_path, "big.xyz", "HTTP 404 (Not Found)", "Run the same command again")
    assert len(api.downloads("big.xyz")) == 2  # asking the same address again would be no use
    good(api, tmp_path)


def test_404_of_the_item(api: LocalApi, tmp_path: Path) -> None:
    fails(api, tmp_path, "HTTP 404", "articles/31812499/versions/7", "check item, version", version=7)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_429_waits_as_asked(api: LocalApi, tmp_path: Path, form: str) -> None:
    # A date has whole seconds only: two ahead is a wait of one to two.
    value = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    api.faults["big.xyz"] = [Fault(status=429, headers={"Retry-After": value})]
    start = time.monotonic()
    good(api, tmp_path)
    assert time.monotonic() - start > 0.9


def test_429_that_asks_too_much(api: LocalApi, tmp_path: Path) -> None:
    api.faults["big.xyz"] = [Fault(status=429, headers={"Retry-After": "7200"})]
    fails(api, tmp_path, "big.xyz", "HTTP 429", "asks to wait 7200 s", "same command again")
    good(api, tmp_path)


def test_500s(api: LocalApi, tmp_path: Path) -> None:
    api.faults["big.xyz"] = [Fault(status=500), Fault(status=503)]
    api.list_faults = [Fault(status=502)]
    good(api, tmp_path)
    api.faults["big.xyz"] = [Fault(status=500) for _ in range(3)]
    fails(api, tmp_path / "b", "big.xyz", "HTTP 500", "after 3 tries", "1 of 2 files are here")
    api.list_faults = [Fault(status=500) for _ in range(3)]
    fails(api, tmp_path / "c", "file list", "HTTP 500", "after 3 tries")


def test_back_off_grows(api: LocalApi, tmp_path: Path) -> None:
    settings = FAST.model_copy(update={"attempts": 4, "backoff": 0.2, "max_backoff": 10.0})
    api.faults["big.xyz"] = [Fault(status=500) for _ in range(3)]
    start = time.monotonic()
    get(api, tmp_path, settings)
    assert 0.5 * (0.2 + 0.4 + 0.8) <= time.monotonic() - start < 5


def test_stalled_connection(api: LocalApi, tmp_path: Path) -> None:
    impatient = FAST.model_copy(update={"stall_timeout": 0.6, "attempts": 2})
    api.faults["big.xyz"] = [Fault(stall_at=65_536)]
    good(api, tmp_path, impatient)
    assert api.downloads("big.xyz")[1].range == "bytes=65536-"
    api.faults["big.xyz"] = [Fault(stall_at=0), Fault(stall_at=0)]
    fails(api, tmp_path / "b", "big.xyz", "sent nothing for 0.6 s", settings=impatient)


def test_trickling_connection(api: LocalApi, tmp_path: Path) -> None:
    impatient = FAST.model_copy(update={"stall_timeout": 0.6})
    api.faults["big.xyz"] = [Fault(trickle=0.05, stall_at=1000)]
    good(api, tmp_path, impatient)
    assert api.downloads("big.xyz")[0].sent < 50


def test_file_that_changes_between_two_tries_is_not_glued(api: LocalApi, tmp_path: Path) -> None:
    other = BIG[::-1]
    api.faults["big.xyz"] = [Fault(content=other, cut_at=100_000)]
    good(api, tmp_path)
    second = api.downloads("big.xyz")[1]
    assert (second.range, second.status, second.sent) == ("bytes=100000-", 200, len(BIG))


def test_range_answer_that_does_not_fit_is_not_glued(api: LocalApi, tmp_path: Path) -> None:
    api.faults["big.xyz"] = [
        Fault(content=BIG + b"more", cut_at=100_000, headers={"Content-Length": str(len(BIG)), "ETag": ""}),
        Fault(content=BIG + b"more"),
    ]
    good(api, tmp_path)
    assert [request.range for request in api.downloads("big.xyz")] == [None, "bytes=100000-", None]


def test_changed_file_list_against_the_table(api: LocalApi, tmp_path: Path) -> None:
    pin = {"path": "big.xyz", "size": len(BIG), "md5": md5(BIG), "id": api.id("big.xyz")}
    wrong = {**pin, "md5": "0" * 32}
    fails(api, tmp_path, "is not the pinned one", "big.xyz has 384000 bytes", files=[wrong])
    fails(api, tmp_path, "gone.xyz is gone", files=[{**pin, "path": "gone.xyz", "id": "1"}])
    fails(api, tmp_path, "is now called big.xyz", files=[{**pin, "path": "old.xyz"}])
    fails(api, tmp_path, "all files together have 384005 bytes, not 5", size=5)
    assert not api.downloads("small.xyz")
    get(api, tmp_path, files=[pin], size=len(BIG) + 5)


def test_changed_file_list_against_an_earlier_fetch(api: LocalApi, tmp_path: Path) -> None:
    source = FigshareSource.model_validate(api.source())
    fetch("test-item", source, tmp_path, only=["small*"], settings=FAST)
    api.files |= {"big.xyz": BIG[::-1], "new.xyz": b"new"}
    fails(api, tmp_path, "no longer the one of the first fetch: new.xyz is new; big.xyz has changed")
    assert not api.downloads("big.xyz")
    api.files = dict(FILES)
    good(api, tmp_path)
    api.version = 2
    with pytest.raises(
        UserError, match=r"holds item 31812499 version 1, the table of sources says .*version 2"
    ):
        get(api, tmp_path)


def test_api_gives_another_version(api: LocalApi, tmp_path: Path) -> None:
    api.article["version"] = 2
    fails(api, tmp_path, "asked for version 1", "the API gives version 2")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": "../../outside"}, "'./../../outside', which leads out of its folder"),
        ({"computed_md5": ""}, "no md5 for big.xyz"),
        ({"size": "many"}, "unknown form"),
    ],
)
def test_file_lists_that_make_no_sense(api: LocalApi, tmp_path: Path, entry: dict, words: str) -> None:
    api.entries["big.xyz"] = entry
    fails(api, tmp_path, words)
    assert not (tmp_path / "outside").exists()


def test_answers_that_are_no_file_list(api: LocalApi, tmp_path: Path) -> None:
    api.list_faults = [Fault(content=b"<html>please log in</html>")]
    fails(api, tmp_path, "something else than JSON")
    api.list_faults = [Fault(content=b"[1, 2]")]
    fails(api, tmp_path, "unknown form")
    api.article["download_disabled"] = True
    fails(api, tmp_path, "switched off by its owner")


def test_file_lists_are_bounded(api: LocalApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MOST_JSON", 10_000)
    api.list_faults = [Fault(content=b'{"x": "' + b"x" * 20_000 + b'"}')]
    fails(api, tmp_path, "sends a file list of over 10000 bytes")
    api.list_faults = [Fault(content=b"[" * 9000)]
    fails(api, tmp_path, "something else than JSON")
    api.list_faults = [Fault(content=b'{"version": ' + b"1" * 6000 + b"}")]
    fails(api, tmp_path, "something else than JSON")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("/again", "redirects more than 10 times"),
        ("http://[::1", "cannot be asked"),
        ("file:///etc/passwd", "no web address"),
    ],
)
def test_redirects_are_bounded(api: LocalApi, tmp_path: Path, target: str, words: str) -> None:
    api.list_faults = [Fault(status=302, headers={"Location": target}) for _ in range(30)]
    fails(api, tmp_path, words)
    assert len(api.requests) <= 11


@pytest.mark.parametrize("value", ["\u00b2", "9" * 5000, "soon", "Mon, 99 Foo 99999 99:99:99 GMT", ""])
def test_odd_waits_are_not_believed(value: str) -> None:
    assert transport._retry_after(value) is None


def test_malformed_addresses_are_one_line(api: LocalApi, tmp_path: Path) -> None:
    web = transport.Web(FAST)
    for url in ("http://[::1", "http://\ud800/x", "http://a b/", "http:///x"):
        with pytest.raises(UserError) as caught:
            web.get_json("item: file list", url)
        line = str(caught.value)
        assert "\n" not in line
        line.encode()


def test_control_characters_never_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[2Jb\r\n\x07\u202e\ud800.xyz"
    say(name)
    shown = capsys.readouterr().err + str(UserError(f"{name} is wrong"))
    assert not set(shown.replace("\n", "")) & set("\x1b\r\x07\u202e\ud800")
    assert str(UserError("größer als 1 Å")) == "größer als 1 Å"


def test_browser_check_everywhere(api: LocalApi, tmp_path: Path) -> None:
    api.faults["big.xyz"] = [Fault(status=202), Fault(status=403)]
    line = fails(api, tmp_path, "a browser check instead of the file", "HTTP 403", "with a browser as")
    place = Path(re.search(r"with a browser as (\S+):", line)[1])
    place.write_bytes(BIG)
    good(api, tmp_path)
    assert len(api.downloads("big.xyz")) == 2


def test_no_network(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    raw = {"api": "figshare", "address": f"http://127.0.0.1:{port}/v2", "item": "1", "version": 1}
    with pytest.raises(UserError) as caught:
        fetch("test-item", FigshareSource.model_validate(raw), tmp_path, settings=FAST)
    line = str(caught.value)
    assert f"cannot reach 127.0.0.1:{port} (Connection refused), after 3 tries" in line
    assert "\n" not in line


def test_network_lost_in_the_middle(tmp_path: Path) -> None:
    def lose(sent: int) -> None:
        if sent == 0:
            wait_until((tmp_path / "test-item/files/small.xyz").exists)
            api.stop_listening()

    with serve(FILES) as api:
        api.faults["big.xyz"] = [Fault(cut_at=100_000, at=lose)]
        fails(api, tmp_path, "big.xyz", "cannot reach", "what has arrived is kept")
    part = tmp_path / "test-item/.fetch/parts/big.xyz.part"
    assert part.read_bytes() == BIG[:100_000]


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
        UserError, match=r"cannot use .*file.*: (Not a directory|File exists); choose an --out"
    ):
        get(api, tmp_path / "file")


class Gate:
    """Holds a download open after some bytes until the test lets it go on."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, sent: int) -> None:
        if sent >= self.after:
            self.reached.set()
            self.go_on.wait(20)


@contextlib.contextmanager
def another_run(api: LocalApi, out: Path) -> Iterator[subprocess.Popen]:
    """The verb in a process of its own."""
    table = api.table(out / "sources.json")
    command = [sys.executable, "-m", "workflow_lib", "fetch", "--source", "test-item"]
    command += ["--sources", str(table), "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(condition: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


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
