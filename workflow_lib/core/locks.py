"""One process at a time in a folder, also between nodes of a cluster and after a crash.

Why not filelock: it would replace the loop of five lines below and nothing else. Who holds the lock, the
message after a wait, and the refusal of file systems without locks (there it falls back to a file that
outlives a killed process unless told not to) would stay here.
"""

from __future__ import annotations

import fcntl
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import cannot_write, remove_temporaries

POLL = 0.1  # s


@contextmanager
def folder_lock(path: Path, wait: float, say: Callable[[str], None], what: str = "fetch") -> Iterator[None]:
    """Hold the lock file ``path``; wait up to ``wait`` s for another process, saying so.

    ``what`` names the work in messages. The system releases the lock when its process ends, for any
    reason. Raises UserError if the other process did not end in time, the folder cannot be written, or
    the file system has no locks.
    """
    folder = path.parent.parent
    deadline = time.monotonic() + wait
    told = False
    with _opened(path, folder) as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                handle.seek(0)
                who = handle.read().strip() or "another process"
            except OSError as error:
                raise UserError(
                    f"{folder} is on a file system without locks ({error.strerror}); choose another folder"
                ) from error
            if time.monotonic() >= deadline:
                raise UserError(
                    f"{folder} is in use by another {what} ({who}); wait for it to end, then run the same "
                    "command again"
                )
            if not told:
                limit = "" if wait == math.inf else f", {wait:g} s at most"
                say(f"another {what} ({who}) works in {folder}; waiting for it{limit}")
                told = True
            time.sleep(POLL)
        handle.seek(0)
        handle.truncate()
        handle.write(f"process {os.getpid()} on {socket.gethostname()}")
        handle.flush()
        yield


def _opened(path: Path, folder: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+")
    except OSError as error:
        raise cannot_write(folder, error) from error


@contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Work in ``folder`` while no other process does; wait as long as another one is active.

    A run that was killed may leave jobs on a cluster. Their successors wait here for them to end
    and continue from what they have done, so no two write the same file. Half-written files of a
    process that was killed there are removed. Raises UserError if the folder cannot be written.
    """

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    with folder_lock(folder / ".busy" / "lock", math.inf, say, what):
        remove_temporaries(folder)
        yield
