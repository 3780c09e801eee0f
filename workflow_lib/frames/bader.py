"""What the net Bader charges of a neutral cell must satisfy, for all who read or compute them."""

from __future__ import annotations

NA_BADER = (0.5, 1.05)
"""Magnitude of the charge of Na (e); in oxides and polyanions it has 0.86 to 0.88."""
COUNTED = 0.5
"""e an atom. Net charges of a cell sum to less, though a file's maker may have adjusted some (the public
sets have P at +5 exactly); electrons that were counted, even those of valence alone, sum to one an atom or
more."""


def charge_tolerance(atoms: int) -> float:
    """Return how far the net charges of a neutral cell of so many atoms may sum from zero, in e.

    The grid loses 0.1 e in the 28 atoms of the olivine cell, and more in larger cells.
    """
    return 0.1 * max(1.0, atoms / 28)
