"""Find where each frame of an extended XYZ file begins and ends, and where the file is damaged.

Only newlines are examined, a block of the file at a time; ``xyz.py`` parses the lines. After damage
the search goes on at the next plausible count line: a whole number alone on its line, followed by a
line with ``key=value``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from workflow_lib.frames.reading.common import Damaged

BLOCK = 1 << 20  # bytes
MOST_ATOMS = 100_000
"""A larger count is damage: to trust it would read the rest of the file into memory."""


class RawFrame(NamedTuple):
    """A frame as bytes. ``number`` counts from 0, ``line`` (of its count) from 1."""

    number: int
    line: int
    atoms: int
    comment: bytes
    block: bytes


def scan(path: Path) -> Iterator[tuple[list[RawFrame | Damaged], int]]:
    """Yield frames in the order of the file with the bytes read so far, a few megabytes at a time.

    Raises OSError if the file cannot be read.
    """
    walker = _Walker()
    rest, done = b"", 0
    with path.open("rb") as handle:
        while True:
            data = handle.read(BLOCK)
            done += len(data)
            rest = walker.feed(rest + data, end=not data)
            yield walker.take(), done
            if not data:
                return


def _count(line: bytes) -> int | None:
    text = line.strip()
    if not text.isdigit() or len(text) > 9:
        return None
    return int(text)


class _Walker:
    """Goes from count line to count line; keeps its position between blocks."""

    def __init__(self) -> None:
        self._found: list[RawFrame | Damaged] = []
        self._index = 0
        self._line = 1
        self._searching = False
        # A bad count line belongs to a frame only if a comment line follows before the next frame.
        self._owed = False

    def take(self) -> list[RawFrame | Damaged]:
        """Return what was found since the last call."""
        found, self._found = self._found, []
        return found

    def feed(self, buffer: bytes, *, end: bool) -> bytes:
        """Find the frames that are complete in ``buffer``; return the bytes that belong to the next one."""
        cut = end and bool(buffer) and not buffer.endswith(b"\n")
        if cut:
            buffer += b"\n"
        ends = np.flatnonzero(np.frombuffer(buffer, dtype=np.uint8) == ord("\n")).tolist()
        used = self._walk(_Lines(buffer, ends), end=end, cut=cut)
        self._line += used
        return buffer[ends[used - 1] + 1 :] if used else buffer

    def _bad(self, at: int, reason: str) -> None:
        self._found.append(Damaged(self._index, self._line + at, reason))

    def _walk(self, lines: _Lines, *, end: bool, cut: bool) -> int:
        """Return the number of lines that are processed."""
        at, total = 0, len(lines)
        while at < total:
            if self._searching:
                at = self._search(lines, at, end=end)
                if self._searching:
                    return at
                continue
            line = lines[at]
            atoms = _count(line)
            if atoms is None:
                if not line.strip():
                    at += 1
                    continue
                self._bad(at, f"the count line holds {_shown(line)}, not a number of atoms")
                self._searching = self._owed = True
                at += 1
                continue
            if not 1 <= atoms <= MOST_ATOMS:
                self._bad(at, f"the count line says {atoms} atoms; a frame has 1 to {MOST_ATOMS}")
                self._searching = self._owed = True
                at += 1
                continue
            after = at + atoms + 2
            if after > total or (after == total and not end):
                if not end:
                    return at
                missing = f"the file ends after {max(0, total - at - 2)} of its {atoms} atoms"
                if b"=" in lines.between(at + 2, total):
                    missing = _OVERRUN.format(atoms)
                self._reject(at, missing)
                at += 1
                continue
            block = lines.between(at + 2, after)
            reason = self._doubt(lines, block, atoms, after, cut=cut)
            if reason:
                self._reject(at, reason)
                at += 1
                continue
            self._found.append(RawFrame(self._index, self._line + at, atoms, lines[at + 1], block))
            self._index += 1
            at = after
        return at

    def _reject(self, at: int, reason: str) -> None:
        self._bad(at, reason)
        self._index += 1
        self._searching = True

    def _doubt(self, lines: _Lines, block: bytes, atoms: int, after: int, *, cut: bool) -> str | None:
        """Return why the count line cannot be trusted, from its block and what follows it."""
        if b"=" in block:
            return _OVERRUN.format(atoms)
        if after == len(lines):
            last = lines[after - 1]
            others = [len(lines[index]) for index in range(after - atoms, after - 1)]
            if cut and others and len(last) < min(others):
                return f"the file ends in the middle of the last of its {atoms} atoms"
            return None
        following = lines[after]
        if following.strip() and _count(following) is None:
            last = lines[after - 1]
            if b"=" in following and _count(last) is not None:
                return _OVERRUN.format(atoms)
            if len(following.split()) == len(last.split()) > 1:
                return f"the count line says {atoms} atoms, but more follow"
        return None

    def _search(self, lines: _Lines, at: int, *, end: bool) -> int:
        """Return the next plausible count line from ``at`` on; keep searching if there is none yet."""
        total = len(lines)
        while at < total:
            if at + 1 == total and not end:
                return at
            atoms = _count(lines[at])
            plausible = atoms is not None and 1 <= atoms <= MOST_ATOMS
            if plausible and at + 1 < total and b"=" in lines[at + 1]:
                self._searching = self._owed = False
                return at
            if self._owed and b"=" in lines[at]:
                self._index += 1
                self._owed = False
            at += 1
        return at


_OVERRUN = "the count line says {} atoms, but the next frame begins before"


class _Lines:
    """Lines of a buffer by number, without their newline."""

    def __init__(self, buffer: bytes, ends: list[int]) -> None:
        self._buffer = buffer
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> bytes:
        start = self._ends[index - 1] + 1 if index else 0
        return self._buffer[start : self._ends[index]]

    def between(self, first: int, after: int) -> bytes:
        """Return the lines from ``first`` to before ``after``, newlines included."""
        if first >= after:
            return b""
        start = self._ends[first - 1] + 1 if first else 0
        return self._buffer[start : self._ends[after - 1] + 1]


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "replace").strip()
    return repr(text if len(text) <= 40 else text[:37] + "...")
