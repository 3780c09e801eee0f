"""Which charge state a converged ion has: read from its magnetic moment."""

from __future__ import annotations

import numpy as np

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.dft.calculation import Calculation

MOMENTS: dict[tuple[str, int], tuple[float, float]] = {
    ("Fe", 2): (3.50, 3.85),
    ("Fe", 3): (4.10, 4.50),
    ("Mn", 2): (4.35, 4.85),
    ("Co", 2): (2.45, 2.95),
    ("Ni", 2): (1.55, 1.95),
}
"""Windows in muB of high-spin ions in GPAW's augmentation spheres, PBE+U, 500 eV and more."""


def realised_states(calculation: Calculation, magmoms: np.ndarray) -> np.ndarray:
    """Oxidation states [n] by moment; -1 where a moment fits none of the element's windows.

    Sites that were given none (0) stay 0.
    """
    states = np.zeros(len(calculation), dtype=np.int64)
    for site in np.flatnonzero(calculation.oxidation_states):
        symbol = SYMBOLS[int(calculation.numbers[site])]
        moment = abs(float(magmoms[site]))
        fitting = [
            state
            for (element, state), (low, high) in MOMENTS.items()
            if element == symbol and low <= moment <= high
        ]
        states[site] = fitting[0] if len(fitting) == 1 else -1
    return states


def describe(calculation: Calculation, states: np.ndarray) -> str:
    """The charge order as text, such as ``Fe 2 3 2 3``; ``?`` where a moment fits no state."""
    parts = []
    for symbol in dict.fromkeys(SYMBOLS[int(z)] for z in calculation.numbers):
        sites = [
            i
            for i in np.flatnonzero(calculation.oxidation_states)
            if SYMBOLS[int(calculation.numbers[i])] == symbol
        ]
        if sites:
            parts.append(f"{symbol} " + " ".join("?" if states[i] < 0 else str(states[i]) for i in sites))
    return ", ".join(parts)
