"""Finished parts of a long job, kept so that a killed job goes on where it was.

A store is one SQLite file. What belongs together is stored in one transaction: after kill -9 it is
there completely or not at all. Keys must name everything that decides a value, the code included.
"""

from __future__ import annotations

import io
import sqlite3
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from workflow_lib.core.errors import BusyError, UserError
from workflow_lib.core.io import cannot_write, digest_of, disk_full

WAIT = 60.0
"""Seconds to wait for another process that writes to the file."""

type Arrays = dict[str, np.ndarray]


def key_of(*parts: object) -> str:
    """Return a short key that names values, lists, mappings and arrays of these."""
    return digest_of(parts)[:32]


class Kept:
    """Values by key in the SQLite file ``path``; ``what`` names them in messages.

    Several processes may share the file; the first value stored under a key stays. Every method raises
    UserError naming the file where it, or a value in it, is damaged, it cannot be written or read, or the
    disk is full, and BusyError where another process keeps it locked for longer than :data:`WAIT`. The
    advice to delete it comes with damage alone: it may hold days of work.
    """

    def __init__(self, path: str | Path, what: str) -> None:
        self.path, self._what = Path(path), what
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        with self._open() as connection, connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, checksum INTEGER, value BLOB)"
            )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        # One connection per call: nothing to close, nothing shared with a forked process.
        try:
            with closing(sqlite3.connect(self.path, timeout=WAIT)) as connection:
                yield connection
        except sqlite3.DatabaseError as error:
            raise self._fault(error) from error

    def _fault(self, error: sqlite3.DatabaseError) -> UserError:
        """Return what an error of SQLite means for the user."""
        # The lower byte is the kind of fault, the rest its detail (https://sqlite.org/rescode.html).
        match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
            case sqlite3.SQLITE_FULL:
                return disk_full(self.path)
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return BusyError(
                    f"{self.path} is locked by another process ({error}); wait for it to end, then run the "
                    "same command again"
                )
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                return self.damaged(error)
            case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_IOERR:
                return UserError(
                    f"cannot write {self.path} ({error}); mend the disk or the rights of the file, then "
                    "run the same command again, finished work is kept"
                )
        return UserError(
            f"cannot use the {self._what} kept in {self.path} ({error}); run the same command again, and "
            "move the file away if it says so again"
        )

    def damaged(self, error: Exception | str) -> UserError:
        """Return the error to raise for a file, or a value in it, that cannot be used."""
        return UserError(
            f"cannot use the {self._what} kept in {self.path} ({error}); delete the file, they will be "
            "made again"
        )

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the values of those of ``keys`` that are stored."""
        found = {}
        with self._open() as connection:
            for key in dict.fromkeys(keys):
                row = connection.execute(
                    "SELECT checksum, value FROM kept WHERE key = ?", (key,)
                ).fetchone()
                if row is None:
                    continue
                if not isinstance(row[1], bytes) or zlib.crc32(row[1]) != row[0]:
                    raise self.damaged(f"the value of {key} is damaged")
                found[key] = row[1]
        return found

    def put_many(self, values: Mapping[str, bytes]) -> None:
        """Store several values, all or none; those already stored are kept."""
        rows = [(key, zlib.crc32(value), value) for key, value in values.items()]
        with self._open() as connection, connection:
            connection.executemany("INSERT OR IGNORE INTO kept VALUES (?, ?, ?)", rows)

    def arrays(self, key: str, compute: Callable[[], Arrays]) -> Arrays:
        """Return the arrays kept under ``key``; compute and keep them if there are none.

        The answer is the stored one, even if another process stored it first.
        """
        found = self.get_many([key])
        if key not in found:
            self.put_many({key: _packed(compute())})
            found = self.get_many([key])
        try:
            with np.load(io.BytesIO(found[key]), allow_pickle=False) as unpacked:
                return dict(unpacked)
        except (ValueError, zipfile.BadZipFile) as error:
            raise self.damaged(error) from error

    def remove(self) -> None:
        """Remove the file: the job is done."""
        self.path.unlink(missing_ok=True)

    def __len__(self) -> int:
        with self._open() as connection:
            return int(connection.execute("SELECT COUNT(*) FROM kept").fetchone()[0])


def _packed(arrays: Arrays) -> bytes:
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **arrays)
    return packed.getvalue()
