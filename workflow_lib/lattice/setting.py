"""The ways in which the lattice of a frame can be read as a repetition of the host's cell.

A crystal can be given in many settings: permuted axes, a left-handed or skewed basis, another origin.
Two bases M C and S span lattices of one shape where their metric tensors agree, so the candidates are
whole-numbered matrices M of determinant +-1 that turn the frame's cell C into something of the shape
of a repeated host cell S. The atoms decide which of them is right and where the origin lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from workflow_lib.lattice.arrangement import Repeat

LENGTH = 0.10
"""Largest relative difference of an edge from the host's (interpolated to the composition)."""
COSINE = 0.12
"""Largest difference of the cosine of an angle, about 7 degrees near 90."""
MOST = 400
"""Readings that are compared, best shapes first; a cubic cell has 48."""


class Basis(NamedTuple):
    """``matrix`` [3, 3], integers: ``matrix @ cell`` are the edges of the host repeated ``repeat``."""

    repeat: Repeat
    matrix: np.ndarray


def factorisations(copies: int) -> Iterator[Repeat]:
    """Yield all ordered ways to write a number of cells as a product of three."""
    for a in range(1, copies + 1):
        if copies % a == 0:
            for b in range(1, copies // a + 1):
                if copies // a % b == 0:
                    yield a, b, copies // a // b


def bases(host_cell: np.ndarray, copies: int, cell: np.ndarray) -> list[Basis]:
    """Return the readings of ``cell`` [3, 3] (A) as ``copies`` host cells, the best shape first."""
    from ase.geometry import minkowski_reduce

    reduced, operation = minkowski_reduce(cell)
    short = np.sort(np.linalg.norm(reduced, axis=1))
    found: list[tuple[float, Basis]] = []
    for repeat in factorisations(copies):
        wanted = host_cell * np.array(repeat)[:, None]
        other = np.sort(np.linalg.norm(minkowski_reduce(wanted)[0], axis=1))
        if np.any(np.abs(short - other) > LENGTH * other):
            continue
        found += [
            (worse, Basis(repeat, matrix @ operation)) for worse, matrix in _matrices(reduced, wanted)
        ]
    found.sort(key=lambda item: item[0])
    return [basis for _, basis in found[:MOST]]


def _matrices(reduced: np.ndarray, wanted: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Yield ``(deviation, matrix)`` of the whole-numbered bases of a lattice that have a wanted shape."""
    lengths = np.linalg.norm(wanted, axis=1)
    reach = (1 + LENGTH) * lengths.max() * np.linalg.norm(np.linalg.inv(reduced), axis=0)
    ranges = [np.arange(-int(n), int(n) + 1) for n in reach]
    whole = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    vectors = whole @ reduced
    norms = np.linalg.norm(vectors, axis=1)
    unit = vectors / np.where(norms > 0, norms, 1)[:, None]
    rows = [np.flatnonzero(np.abs(norms - length) <= LENGTH * length) for length in lengths]
    cosine = (wanted / lengths[:, None]) @ (wanted / lengths[:, None]).T
    off = [np.abs(unit[rows[i]] @ unit[rows[j]].T - cosine[i, j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    for a, b in zip(*np.nonzero(off[0] <= COSINE), strict=True):
        third = np.flatnonzero((off[1][a] <= COSINE) & (off[2][b] <= COSINE))
        for c in third:
            matrix = whole[[rows[0][a], rows[1][b], rows[2][c]]]
            if abs(round(np.linalg.det(matrix))) != 1:
                continue
            edges = norms[[rows[0][a], rows[1][b], rows[2][c]]]
            yield (
                float(np.abs(edges / lengths - 1).sum() + off[0][a, b] + off[1][a, c] + off[2][b, c]),
                matrix,
            )
