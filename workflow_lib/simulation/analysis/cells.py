"""Trajectories whose cell changes, seen in one cell."""

from __future__ import annotations

import numpy as np


def in_mean_cell(positions: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Return unwrapped positions [frames, n, 3] A at the same fractions of the mean of the cells.

    ``cells`` [frames, 3, 3] A, rows are vectors. An atom that only follows a cell that grows stays where
    it is. Positions in one and the same cell are returned as they are.
    """
    positions, cells = np.asarray(positions, dtype=float), np.asarray(cells, dtype=float)
    if (cells == cells[0]).all():
        return positions
    return positions @ np.linalg.inv(cells) @ cells.mean(axis=0)
