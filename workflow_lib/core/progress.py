"""Progress of a long job: a bar on a terminal, an occasional line in a log file."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

from workflow_lib.core.errors import printable

PAUSE = 30.0
"""s between two lines of a log."""


def duration(seconds: float) -> str:
    """Return a time for people to read, with two figures."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def pace(rate: float) -> str:
    """Return the work per second, or the time per piece if that is easier to read."""
    return f"{rate:.3g}/s" if rate >= 1 else f"{1 / rate:.3g} s each"


def readable(size: float) -> str:
    """Return a number of bytes for people to read, in powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def say(line: str) -> None:
    """Write one line to standard error, above any progress bars."""
    tqdm.write(printable(line), file=sys.stderr)


class Progress:
    """Shows pieces of work as they are done; a context manager.

    In a log every line is complete in itself: time, amount done out of the total, rate and time
    left (both from the work of this process, so a search that resumes after a kill does not count
    earlier work) and the caller's note. ``announce`` writes the first and the last line at once;
    without it work that ends within :data:`PAUSE` writes nothing.
    """

    def __init__(self, what: str, total: int, unit: str, *, done: int = 0, announce: bool = True) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = self._before = done
        self._announce = announce
        self._started = time.monotonic()
        self._said = self._started
        self._lines = 0
        self._last = ""
        self._bar: tqdm | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total, initial=done, desc=what, unit=unit, leave=announce, file=sys.stderr
            )
        elif announce:
            self._say("")

    def show(self, done: int, note: str = "") -> None:
        """Show the number of pieces done; repeating the same number shows that work continues."""
        self._last = note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self.done)
        self.done = done
        # The end has its own line, see close.
        if self._bar is None and done < self.total and time.monotonic() - self._said >= PAUSE:
            self._say(note)

    def close(self) -> None:
        """Write the last line, with the time taken."""
        if self._bar is not None:
            self._bar.close()
        elif self._announce or self._lines:
            took = f"in {duration(time.monotonic() - self._started)}"
            self._write(f"{self._count()} {took}{f'; {self._last}' if self._last else ''}")

    def _count(self) -> str:
        unit = self.unit if self.total == 1 else f"{self.unit}s"
        return f"{self.what}: {self.done} of {self.total} {unit}"

    def _say(self, note: str) -> None:
        line = self._count()
        made = self.done - self._before
        if made > 0:
            rate = made / max(time.monotonic() - self._started, 1e-9)
            left = duration((self.total - self.done) / rate)
            line += f", {100 * self.done // self.total} %, {pace(rate)}, {left} left"
        self._write(f"{line}; {note}" if note else line)

    def _write(self, line: str) -> None:
        self._said = time.monotonic()
        self._lines += 1
        print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or self._bar is not None:
            self.close()
