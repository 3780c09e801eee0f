"""Bars of several downloads on a terminal; elsewhere one line per file instead."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


class Progress:
    """A bar for the total and one for each file being fetched; no bars without a terminal."""

    def __init__(self, total: int, done: int) -> None:
        self._quiet = not sys.stderr.isatty()
        self._all = self._bar("all files", total, done, 0)
        self._places = set(range(1, 33))
        self._lock = threading.Lock()

    def _bar(self, name: str, total: int, done: int, place: int) -> tqdm:
        return tqdm(
            desc=name if len(name) <= 32 else f"...{name[-29:]}",
            total=total,
            initial=done,
            position=place,
            leave=False,
            unit="B",
            unit_scale=True,
            disable=self._quiet,
            file=sys.stderr,
        )

    @contextmanager
    def file(self, name: str, size: int, done: int) -> Iterator[Callable[[int], None]]:
        """Show one file; the yielded function takes the number of bytes arrived, which may also fall."""
        with self._lock:
            place = min(self._places)
            self._places.remove(place)
            bar = self._bar(name, size, done, place)
        arrived = done

        def show(now: int) -> None:
            nonlocal arrived
            with self._lock:
                bar.update(now - arrived)
                self._all.update(now - arrived)
                arrived = now

        try:
            yield show
        finally:
            with self._lock:
                bar.close()
                self._places.add(place)

    def close(self) -> None:
        """Remove the bars."""
        self._all.close()
