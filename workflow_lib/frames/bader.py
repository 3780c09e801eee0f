"""What the net Bader charges of a neutral cell must satisfy, for all who read or compute them."""

from __future__ import annotations

import numpy as np

NA_BADER = (0.5, 1.05)
"""Magnitude of the charge of Na (e); in oxides and polyanions it has 0.86 to 0.88."""


def charge_tolerance(atoms: int | np.ndarray) -> np.ndarray:
    """Return how far the net charges of a neutral cell of so many atoms may sum from zero, in e.

    The grid loses 0.1 e in the 28 atoms of the olivine cell, and more in larger cells.
    """
    return 0.1 * np.maximum(1.0, np.asarray(atoms) / 28)
