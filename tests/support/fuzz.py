"""What every fuzz test asserts: any input gives an answer or one line, within ten seconds and 1 GB.

A failing input is shrunk by hypothesis and printed. Brief by default, the same inputs at every run;
``pytest --hypothesis-profile long FILE`` searches longer, with new ones (profiles: tests/conftest.py).
"""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from workflow_lib.core.errors import UserError

SECONDS = 10.0  # of the processor, so that a busy machine fails no test
PATIENCE = 60.0  # s by the clock, for what waits instead of working: a pipe, a lock
BYTES = 1 << 30
LONGEST_LINE = 2000  # characters
WORDS = (
    *("0", "-1", "1e300", "nan", "inf", ".inf", "99999", "1000000000", "9" * 5000, "T", "F", "no", "four"),
    *("=", '"', "'", "{", "[", "]", "}", ":", "- ", "&a ", "*a", "!!python/name:os.system", "%", "#", "|"),
    *("\\", "\x1b[2J", "\x00", "\u202e", "\ud7ff", "\ufeff", "²", "010", "0x10", "1_000", "\r\n", "\n"),
    *("  ", "</script>", "$x_{$", "../../x", "a" * 300, "[" * 2000, "{" * 2000),
)
"""Words that broke a reader before, here or elsewhere."""


class LimitError(BaseException):
    """No handler of the program may take this for an error of the input."""


def _stop(number: int, _frame: object) -> None:
    what = f"{SECONDS:g} s of work" if number == signal.SIGPROF else f"{PATIENCE:g} s of waiting"
    raise LimitError(f"no answer within {what}")


def _peak() -> int:
    """Return the largest memory of this process since :func:`_forget`, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _forget() -> None:
    Path("/proc/self/clear_refs").write_text("5")


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Fail if the block works longer than SECONDS, waits longer than PATIENCE, or takes BYTES more."""
    handlers = {number: signal.signal(number, _stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    old = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    # A backstop for the machine; a MemoryError that is caught and reworded is found by the peak.
    resource.setrlimit(resource.RLIMIT_AS, (size + 4 * BYTES, old[1]))
    _forget()
    before = _peak()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, old)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    used = _peak() - before
    assert used < BYTES, f"took {used / 1e6:.0f} MB"


def answer_or_line[T](call: Callable[..., T], *arguments: Any) -> T | None:
    """Return the answer, or None if the input was refused in one line; anything else fails."""
    with limits():
        try:
            return call(*arguments)
        except UserError as error:
            check_line(str(error))
            return None


def check_line(line: str) -> None:
    """Assert that a message is one line that a terminal can show."""
    assert line
    assert line.isprintable(), line
    assert len(line) < LONGEST_LINE, line


Edits = list[tuple[float, int, str]]


def edits(words: tuple[str, ...] = WORDS) -> st.SearchStrategy[Edits]:
    """Return changes to a text: where (fraction of its length), how many letters go, what comes."""
    word = st.sampled_from(words) | st.text(max_size=5)
    return st.lists(st.tuples(st.floats(0, 1), st.integers(0, 60), word), min_size=1, max_size=4)


def edited(text: str, changes: Edits) -> bytes:
    """Return the text with changes of :func:`edits`, as a file would hold it."""
    for where, length, word in changes:
        at = int(where * len(text))
        text = text[:at] + word + text[at + length :]
    return text.encode("utf-8", "surrogatepass")
