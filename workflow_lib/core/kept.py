"""Finished parts of a long job, kept so that a killed job goes on where it was.

A store is one SQLite file. What belongs together is stored in one transaction: after kill -9 it is
there completely or not at all. Keys must name everything that decides a value, the code included.
"""

from __future__ import annotations

import hashlib
import io
import sqlite3
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import to_json

type Arrays = dict[str, np.ndarray]


def key_of(*parts: object) -> str:
    """Return a short key that names values, lists, mappings and arrays of these."""
    return hashlib.sha256(to_json(parts).encode()).hexdigest()[:32]


class Kept:
    """Values by key in the SQLite file ``path``; ``what`` names them in messages.

    Several processes may share the file; the first value stored under a key stays. A damaged file or
    value raises UserError naming the file.
    """

    def __init__(self, path: str | Path, what: str) -> None:
        self.path, self._what = Path(path), what
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._open() as connection, connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, checksum INTEGER, value BLOB)"
                )
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror}; choose a folder you can write to"
            ) from error
        except sqlite3.DatabaseError as error:
            raise self.damaged(error) from error

    def _open(self) -> closing[sqlite3.Connection]:
        # One connection per call: nothing to close, nothing shared with a forked process.
        return closing(sqlite3.connect(self.path, timeout=60))

    def damaged(self, error: Exception | str) -> UserError:
        """Return the error to raise for a file, or a value in it, that cannot be used."""
        return UserError(
            f"cannot use the {self._what} kept in {self.path} ({error}); delete the file, they will be "
            "made again"
        )

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the values of those of ``keys`` that are stored."""
        found = {}
        try:
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
        except sqlite3.DatabaseError as error:
            raise self.damaged(error) from error
        return found

    def put_many(self, values: Mapping[str, bytes]) -> None:
        """Store several values, all or none; those already stored are kept."""
        rows = [(key, zlib.crc32(value), value) for key, value in values.items()]
        try:
            with self._open() as connection, connection:
                connection.executemany("INSERT OR IGNORE INTO kept VALUES (?, ?, ?)", rows)
        except sqlite3.DatabaseError as error:
            raise self.damaged(error) from error

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
