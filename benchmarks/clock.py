"""Times of epochs, taken the same way on both sides: from the end of one to the end of the next."""

from __future__ import annotations

import time
from itertools import pairwise


class Clock:
    """Marks the end of each epoch; intervals between marks are whole epochs, the first left out.

    The first epoch makes caches and compiles on some sides and not on others; it ends at the first
    mark, so that no interval holds it.
    """

    def __init__(self) -> None:
        self._wall: list[float] = []
        self._cpu: list[float] = []

    def mark(self) -> None:
        """Mark the end of an epoch."""
        self._wall.append(time.perf_counter())
        self._cpu.append(time.process_time())

    def seconds(self, epochs: int) -> list[float]:
        """Return the wall time of epochs 2 to ``epochs``; RuntimeError unless each was marked once."""
        return _intervals(self._wall, epochs)

    def cpu_seconds(self, epochs: int) -> list[float]:
        """Return the processor time of the same epochs."""
        return _intervals(self._cpu, epochs)


def _intervals(marks: list[float], epochs: int) -> list[float]:
    if len(marks) != epochs:
        raise RuntimeError(f"{len(marks)} ends of epochs were seen, {epochs} were trained")
    return [after - before for before, after in pairwise(marks)]
