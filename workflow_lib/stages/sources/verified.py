"""Checksums, and a record of which files have passed theirs."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json, write_json

BLOCK = 1 << 20  # bytes
ALGORITHMS = ("md5", "sha256", "git-sha1")
"""Checksums by which files are known; the record of a file has one of them."""


def checksum(path: Path, algorithm: str) -> str:
    """Return the hexadecimal md5, sha256 or git-sha1 (git's hash of a blob) of a file."""
    if algorithm == "git-sha1":
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    else:
        digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as handle:
        while block := handle.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


class Verified:
    """Remembers verified files by checksum, size and modification time, so that checking is cheap.

    A file whose size or time has changed is hashed again; ``always`` hashes every time.
    """

    def __init__(self, memory: Path, *, always: bool = False) -> None:
        self._memory = memory
        self._always = always
        self._lock = threading.Lock()
        try:
            known = read_json(memory)
        except UserError:
            # Absent, or damaged by a full disk: the files are then hashed again, which only costs time.
            known = {}
        self._known: dict[str, dict[str, Any]] = known if isinstance(known, dict) else {}

    def digest(self, key: str, path: Path, algorithm: str) -> str:
        """Return the checksum of a file, from the record if it is unchanged; OSError if unreadable."""
        state = path.stat()
        mark = {"algorithm": algorithm, "size": state.st_size, "mtime_ns": state.st_mtime_ns}
        known = self._known.get(key)
        if known is not None and not self._always and mark.items() <= known.items():
            return str(known["digest"])
        digest = checksum(path, algorithm)
        self.record(key, path, algorithm, digest)
        return digest

    def record(self, key: str, path: Path, algorithm: str, digest: str) -> None:
        """Record a file that has just been hashed."""
        state = path.stat()
        with self._lock:
            self._known[key] = {
                "algorithm": algorithm,
                "digest": digest,
                "size": state.st_size,
                "mtime_ns": state.st_mtime_ns,
            }
            write_json(self._memory, self._known)
