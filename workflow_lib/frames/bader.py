"""What the net Bader charges of a neutral cell must satisfy, for all who read or compute them."""

from __future__ import annotations

import numpy as np

from workflow_lib.core.elements import atomic_number

NA_BADER = (0.5, 1.05)
"""Magnitude of the charge of Na (e); in oxides and polyanions it has 0.86 to 0.88."""
ANIONS = tuple(map(atomic_number, ("F", "O", "Cl", "N", "Br", "I", "S", "Se")))
"""Atomic numbers of the elements that are negative in a salt, the most electronegative (Pauling) first: the
first of them that a cell without Na has tells the sign of its charges."""
COUNTED = 0.5
"""e an atom. Net charges of a cell sum to less, though a file's maker may have adjusted some (the public
sets have P at +5 exactly); electrons that were counted, even those of valence alone, sum to one an atom or
more."""


def charge_tolerance(atoms: int) -> float:
    """Return how far the net charges of a neutral cell of so many atoms may sum from zero, in e.

    The grid loses 0.1 e in the 28 atoms of the olivine cell, and more in larger cells.
    """
    return 0.1 * max(1.0, atoms / 28)


def anion(numbers: np.ndarray) -> int | None:
    """Return the atomic number of the most electronegative anion among atoms [n]; None without one."""
    return next((z for z in ANIONS if (numbers == z).any()), None)
