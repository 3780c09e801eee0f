"""Faults of network and host while a file is fetched: one line, no bad byte kept, none fetched twice."""

from __future__ import annotations

import re
import socket
import time
from email.utils import formatdate
from pathlib import Path

import pytest
from fetching import BIG, FAST, FILES, fails, good, wait_until
from local_api import Fault, LocalApi, md5, serve

from workflow_lib.core.errors import UserError
from workflow_lib.stages.sources.fetch import fetch
from workflow_lib.stages.sources.table import FigshareSource
from workflow_lib.stages.sources.transport import TransientError, Web


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


def test_back_off_grows() -> None:
    """Each wait is at most twice the one before and at least half of that; no more than the longest."""
    web = Web(FAST.model_copy(update={"attempts": 5, "backoff": 0.2, "max_backoff": 1.0}))
    waits: list[float] = []

    class Clock:
        def wait(self, seconds: float) -> bool:
            waits.append(seconds)
            return False

    web.stop = Clock()  # type: ignore[assignment]

    def fail() -> None:
        raise TransientError("HTTP 500")

    with pytest.raises(UserError, match="after 5 tries"):
        web.retry("big.xyz", fail)
    assert len(waits) == 4
    for wait, longest in zip(waits, (0.2, 0.4, 0.8, 1.0), strict=True):
        assert longest / 2 <= wait <= longest


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
