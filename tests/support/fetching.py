"""A fetch from the local API, impatient; what must hold after a failure; other processes beside it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from local_api import LocalApi

from workflow_lib.core.errors import UserError
from workflow_lib.stages.sources.fetch import Fetched, fetch
from workflow_lib.stages.sources.settings import FetchSettings
from workflow_lib.stages.sources.table import FigshareSource

ROOT = Path(__file__).parents[2]
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
