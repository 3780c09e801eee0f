"""Find where each frame of an extended XYZ file begins and ends, and where the file is damaged.

Only newlines are examined, a block of the file at a time; ``xyz.py`` parses the lines. After damage
the search goes on at the next plausible count line: a whole number alone on its line, followed by a
line with ``key=value``.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from workflow_lib.frames.reading.common import Damaged

BLOCK = 1 << 20  # bytes
MOST_ATOMS = 100_000
"""A larger count is damage: to trust it would read the rest of the file into memory."""
MOST_BYTES = 1 << 27
"""No frame is longer; what has no line end within it is no text."""


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
            # As much as is kept, so that a long frame is not copied again and again.
            data = handle.read(max(BLOCK, len(rest)))
            if not done:
                data = data.removeprefix(BOM_UTF8)  # as editors on Windows begin a file
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


def _skip(buffer: bytes, start: int, lines: int) -> int:
    """Return the place after so many lines from ``start`` on; -1 if the buffer ends before."""
    first = buffer.find(b"\n", start) + 1
    if not first:
        return -1
    # Most programs write lines of one length.
    after = start + lines * (first - start)
    if (
        after <= len(buffer)
        and buffer[after - 1] == ord("\n")
        and buffer.count(b"\n", start, after) == lines
    ):
        return after
    for _ in range(lines):
        start = buffer.find(b"\n", start) + 1
        if not start:
            return -1
    return start


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
        at = 0
        while at < len(buffer):
            line_end = buffer.find(b"\n", at)
            step: int | None = None
            if line_end >= 0:
                step = (self._search if self._searching else self._frame)(buffer, at, line_end, end, cut)
            if step is not None:
                at = step
            elif len(buffer) - at > MOST_BYTES:
                at = self._give_up(buffer, at, line_end)
            else:
                break
        return buffer[at:]

    def _give_up(self, buffer: bytes, at: int, line_end: int) -> int:
        if not self._searching:
            self._reject(f"no frame ends within {MOST_BYTES} bytes")
        if line_end < 0:
            return len(buffer)
        self._line += 1
        return line_end + 1

    def _bad(self, reason: str) -> None:
        self._found.append(Damaged(self._index, self._line, reason))
        self._searching = True

    def _reject(self, reason: str) -> None:
        self._bad(reason)
        self._index += 1

    def _frame(self, buffer: bytes, at: int, line_end: int, end: bool, cut: bool) -> int | None:
        """Take the frame whose count line is at ``at``; return the place to go on, None to read more."""
        line = buffer[at:line_end]
        atoms = _count(line)
        if atoms is None or not 1 <= atoms <= MOST_ATOMS:
            if line.strip():
                if atoms is None:
                    self._bad(f"the count line holds {_shown(line)}, not a number of atoms")
                else:
                    self._bad(f"the count line says {atoms} atoms; a frame has 1 to {MOST_ATOMS}")
                self._owed = True
            self._line += 1
            return line_end + 1
        comment_end = buffer.find(b"\n", line_end + 1)
        start = comment_end + 1 if comment_end >= 0 else len(buffer)
        after = _skip(buffer, start, atoms) if start < len(buffer) else -1
        if not end and (after < 0 or buffer.find(b"\n", after) < 0):
            return None
        reason: str | None
        if after < 0:
            reason = f"the file ends after {buffer.count(b'\n', start)} of its {atoms} atoms"
            if b"=" in buffer[start:]:
                reason = _OVERRUN.format(atoms)
        else:
            reason = _doubt(buffer, start, after, atoms, cut=cut)
        if reason:
            self._reject(reason)
            self._line += 1
            return line_end + 1
        self._found.append(
            RawFrame(
                self._index, self._line, atoms, buffer[line_end + 1 : comment_end], buffer[start:after]
            )
        )
        self._index += 1
        self._line += atoms + 2
        return after

    def _search(self, buffer: bytes, at: int, line_end: int, end: bool, cut: bool) -> int | None:
        """Go on to the next line unless this one may be a count line; None to read more."""
        following = buffer.find(b"\n", line_end + 1)
        if following < 0 and not end:
            return None
        line = buffer[at:line_end]
        atoms = _count(line)
        if atoms is not None and 1 <= atoms <= MOST_ATOMS and b"=" in buffer[line_end + 1 : following]:
            self._searching = self._owed = False
            return at
        if self._owed and b"=" in line:
            self._index += 1
            self._owed = False
        self._line += 1
        return line_end + 1


_OVERRUN = "the count line says {} atoms, but the next frame begins before"


def _doubt(buffer: bytes, start: int, after: int, atoms: int, *, cut: bool) -> str | None:
    """Return why a count line cannot be trusted, from its atoms' lines and what follows them."""
    if buffer.find(b"=", start, after) >= 0:
        return _OVERRUN.format(atoms)
    if after == len(buffer):
        *others, last = buffer[start : after - 1].split(b"\n")
        if cut and others and len(last) < min(map(len, others)):
            return f"the file ends in the middle of the last of its {atoms} atoms"
        return None
    following = buffer[after : buffer.find(b"\n", after)]
    if following.strip() and _count(following) is None:
        last = buffer[buffer.rfind(b"\n", start, after - 1) + 1 or start : after]
        if b"=" in following and _count(last) is not None:
            return _OVERRUN.format(atoms)
        if len(following.split()) == len(last.split()) > 1:
            return f"the count line says {atoms} atoms, but more follow"
    return None


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "replace").strip()
    return repr(text if len(text) <= 40 else text[:37] + "...")
