"""Frames that two tables share, whatever their names: the same atoms in the same places with one energy."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from workflow_lib.frames.frame import Frame

ENERGY, LENGTH = 1e-4, 1e-3
"""eV and A within which two frames are one: files keep fewer digits than calculations."""


def in_both(frames: Sequence[Frame], others: Sequence[Frame]) -> np.ndarray:
    """Return which of ``frames`` are among ``others``: a truth value each, shape (n,).

    Two frames are one if atomic numbers agree in order, energies within 1e-4 eV, cells and positions within
    1e-3 A. Atoms wrapped into the cell or listed in another order are not recognised.
    """
    known: dict[bytes, list[Frame]] = {}
    for other in others:
        known.setdefault(np.asarray(other.numbers, dtype=np.int16).tobytes(), []).append(other)
    for alike in known.values():
        alike.sort(key=lambda frame: frame.energy)
    found = np.zeros(len(frames), dtype=bool)
    for index, frame in enumerate(frames):
        alike = known.get(np.asarray(frame.numbers, dtype=np.int16).tobytes(), [])
        start = bisect_left(alike, frame.energy - ENERGY, key=lambda other: other.energy)
        for other in alike[start:]:
            if other.energy > frame.energy + ENERGY:
                break
            if np.allclose(other.cell, frame.cell, rtol=0, atol=LENGTH) and np.allclose(
                other.positions, frame.positions, rtol=0, atol=LENGTH
            ):
                found[index] = True
                break
    return found
