"""How far a long job is: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

PAUSE = 30.0
"""s between two lines of a log."""


def duration(seconds: float) -> str:
    """A time for people, two figures of it."""
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
    """Work a second, or the time that one piece takes where that is easier to read."""
    return f"{rate:.3g}/s" if rate >= 1 else f"{1 / rate:.3g} s each"


def readable(size: float) -> str:
    """A number of bytes for people, in powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def say(line: str) -> None:
    """One line on standard error, above the bars if there are any."""
    tqdm.write(line, file=sys.stderr)


class Progress:
    """Shows pieces of work as they are done; a context manager.

    In a log every line stands for itself: time, how much of how much, rate and time left (both from
    what this process did, so a search that goes on after a kill does not count the work before) and
    what the caller has to say. ``announce`` writes the first and the last line at once; without it
    work that ends within :data:`PAUSE` says nothing.
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
        """So many pieces are done; the same number again says that work goes on."""
        self._last = note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self.done)
        self.done = done
        # The end has a line of its own, see close.
        if self._bar is None and done < self.total and time.monotonic() - self._said >= PAUSE:
            self._say(note)

    def close(self) -> None:
        """The last line, with the time it took."""
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
