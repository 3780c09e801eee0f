"""Download one file from the network to its verified place, resuming where an earlier try stopped."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import requests

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json, write_json
from workflow_lib.stages.sources.listing import ListedFile
from workflow_lib.stages.sources.transport import (
    RangeRefusedError,
    RefusedError,
    StoppedError,
    TransientError,
    Web,
)
from workflow_lib.stages.sources.verified import checksum

BLOCK = 1 << 18  # bytes
MISMATCHES = 2  # complete downloads with a wrong checksum after which the host is not tried again


class Part:
    """The bytes of a file that have arrived, with a record of the file version they belong to."""

    def __init__(self, path: Path, file: ListedFile) -> None:
        self.path = path
        self._note = path.with_name(f"{path.name}.json")
        self._file = file
        self.etag: str | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            note = read_json(self._note)
            belongs = note["digest"] == file.digest and self.size() <= file.size
            self.etag = note["etag"]
        except (UserError, KeyError, TypeError):
            belongs = False
        if not belongs:
            self.discard()

    def size(self) -> int:
        """Return the number of bytes that have arrived."""
        return self.path.stat().st_size if self.path.exists() else 0

    def discard(self) -> None:
        """Delete the bytes that have arrived."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
        self.etag = None

    def begin(self, etag: str | None) -> None:
        """Empty the part; the next bytes belong to this ETag."""
        self.discard()
        self.etag = etag
        write_json(self._note, {"digest": self._file.digest, "etag": etag})

    def accept(self, target: Path) -> None:
        """Move the complete, verified bytes to their place, after syncing them to disk."""
        with self.path.open("rb") as handle:
            os.fsync(handle.fileno())
        target.parent.mkdir(parents=True, exist_ok=True)
        self.path.replace(target)
        self._note.unlink(missing_ok=True)


def download(
    web: Web, file: ListedFile, part_path: Path, target: Path, show: Callable[[int], None]
) -> None:
    """Fetch one file to ``target``, which appears only once its checksum is right.

    ``show`` is called with the number of bytes that have arrived. They stay at ``part_path`` if the
    fetch fails. Raises UserError with one line, OSError if writing fails, and StoppedError if
    another thread has given up.
    """
    part = Part(part_path, file)
    mismatches = 0
    refusals: list[str] = []

    def attempt(url: str) -> None:
        nonlocal mismatches
        if part.size() < file.size:
            _receive(web, url, file, part, show)
        elif not part.path.exists():
            part.begin(None)
            part.path.touch()
        digest = checksum(part.path, file.algorithm)
        if digest != file.digest:
            part.discard()
            show(0)
            mismatches += 1
            message = f"{file.algorithm} is {digest}, not {file.digest} as the file list says"
            raise (RefusedError if mismatches % MISMATCHES == 0 else TransientError)(message)

    for url in file.urls:
        try:
            web.retry(file.path, partial(attempt, url), part.size)
            part.accept(target)
            return
        except RefusedError as error:
            refusals.append(str(error))
    raise UserError(
        f"{file.path}: {'; '.join(dict.fromkeys(refusals))}. Run the same command again later, or save the "
        f"file with a browser as {target}: it is then checked and used"
    )


def _receive(web: Web, url: str, file: ListedFile, part: Part, show: Callable[[int], None]) -> None:
    """Try once to bring the part to its full size; raise TransientError or RefusedError if that fails."""
    have = part.size()
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and part.etag:
        # A file that has changed since is then sent completely, instead of its second half.
        headers["If-Range"] = part.etag
    try:
        with web.open(url, headers) as response:
            if response.status_code == 206:
                _check_continues(response, file, part, have)
            else:
                _check_length(response, file)
                part.begin(_strong_etag(response))
                have = 0
            show(have)
            _write(web, response, file, part, have, show)
    except RangeRefusedError:
        part.discard()
        raise


def _strong_etag(response: requests.Response) -> str | None:
    """Return the ETag if it guarantees equality byte by byte, as If-Range requires."""
    etag: str | None = response.headers.get("ETag")
    return None if etag is None or etag.startswith("W/") else etag


def _check_length(response: requests.Response, file: ListedFile) -> None:
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and int(length) != file.size:
        raise TransientError(f"the host offers {length} bytes, the file list says {file.size}")


def _check_continues(response: requests.Response, file: ListedFile, part: Part, have: int) -> None:
    """Check that the answer to a Range request continues the part: place, total size, ETag if known."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    etag = _strong_etag(response)
    fits = (
        match is not None
        and int(match[1]) == have
        and match[2] in ("*", str(file.size))
        and (part.etag is None or etag is None or etag == part.etag)
    )
    if not fits:
        part.discard()
        raise TransientError("the file changed on the host since the last try")


def _write(
    web: Web,
    response: requests.Response,
    file: ListedFile,
    part: Part,
    have: int,
    show: Callable[[int], None],
) -> None:
    settings = web.settings
    window_start, window_bytes = time.monotonic(), 0
    with part.path.open("ab") as handle:
        # read1 returns what has arrived; waiting for full blocks would hide a slow trickle.
        while block := response.raw.read1(BLOCK, decode_content=False):
            have += len(block)
            if have > file.size:
                raise TransientError(f"the host sends more than the {file.size} bytes of the file list")
            handle.write(block)
            show(have)
            if web.stop.is_set():
                raise StoppedError
            window_bytes += len(block)
            seconds = time.monotonic() - window_start
            if seconds > settings.stall_timeout:
                if window_bytes < settings.minimum_rate * seconds:
                    raise TransientError(
                        f"the connection stalled ({window_bytes} bytes in {seconds:.0f} s)"
                    )
                window_start, window_bytes = time.monotonic(), 0
    if have < file.size:
        raise TransientError(f"the connection broke off after {have} of {file.size} bytes")
