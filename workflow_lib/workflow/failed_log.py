"""Show the end of a failed job's log instead of all of it.

Snakemake's ``show-failed-logs`` repeats logs as a whole: a training of a day, whose log holds its
progress, would bury every other message. The Snakefile replaces Snakemake's own function,
``snakemake.logging.show_logs``, with :func:`last_lines`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

LINES = 30
LETTERS = 300
"""Largest number of characters shown of one line."""
BYTES = 64 * 1024
"""Number of bytes read from the end of a log; enough for the lines shown."""
RULE = "=" * 80


def last_lines(logs: Iterable[str | os.PathLike[str]]) -> Iterator[str]:
    """Name each log and repeat its last lines; of a progress bar only the last state counts."""
    for log in logs:
        try:
            lines, more = _end(log)
        except OSError as error:
            yield f"Log {os.fspath(log)}: {error.strerror}"
            continue
        if not lines:
            yield f"Log {os.fspath(log)} is empty: the job ended before it wrote anything"
            continue
        yield f"Log {os.fspath(log)}{f', its last {len(lines)} lines' if more else ''}:"
        yield RULE
        yield from lines
        yield RULE


def _end(log: str | os.PathLike[str]) -> tuple[list[str], bool]:
    """Return the last lines of a file, and whether there are others before them."""
    with open(log, "rb") as handle:  # noqa: PTH123 - Snakemake hands over strings of a class of its own
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(0, size - BYTES))
        text = handle.read().decode(errors="replace")
    # A bar is redrawn after every carriage return.
    lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
    if size > BYTES:
        del lines[0]  # may be cut in the middle
    while lines and not lines[-1]:
        lines.pop()
    shown = [line if len(line) <= LETTERS else f"{line[:LETTERS]}..." for line in lines[-LINES:]]
    return shown, size > BYTES or len(lines) > LINES
