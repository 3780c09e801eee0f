"""Which charge state a converged ion has: read from its magnetic moment."""

from __future__ import annotations

import math

import numpy as np

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import Calculation
from workflow_lib.lattice.arrangement import StateKey

MOMENTS: dict[str, dict[tuple[str, int], tuple[float, float]]] = {
    "GPAW": {
        ("Fe", 2): (3.50, 3.85),
        ("Fe", 3): (4.10, 4.50),
        ("Mn", 2): (4.35, 4.85),
        ("Co", 2): (2.45, 2.95),
        ("Ni", 2): (1.55, 1.95),
    },
    "VASP": {("Fe", 2): (3.0, 3.79), ("Fe", 3): (4.3, 5.0)},
}
"""Windows in muB of high-spin ions by code, element and oxidation state, PBE+U: in GPAW's augmentation
spheres at 500 eV and more, and in VASP's. Between two windows a hole has not localised: fits none."""


def require_steerable(calculation: Calculation) -> None:
    """Raise UserError for a steered ion that has no Hubbard U or no window of moments.

    Without the first nothing holds its charge state, without the second nothing tells whether it got there.
    """
    level = calculation.level
    for site in calculation.steered_sites():
        symbol, state = SYMBOLS[int(calculation.numbers[site])], int(calculation.oxidation_states[site])
        ion = f"{calculation.name}: {symbol}{state}+"
        if symbol not in level.hubbard_u:
            raise UserError(f"{ion} has no Hubbard U to hold it; add {symbol} to dft.level.hubbard_u")
        if (symbol, state) not in MOMENTS[level.code]:
            raise UserError(
                f"{ion} has no known window of {level.code} moments; add it to MOMENTS in "
                "workflow_lib/dft/charge_state.py"
            )


def realised_states(calculation: Calculation, magmoms: np.ndarray) -> np.ndarray:
    """Return oxidation states [n] by moment; -1 where a moment fits none of the element's windows.

    Sites that were given none (0) stay 0.
    """
    states = np.zeros(len(calculation), dtype=np.int64)
    for site in np.flatnonzero(calculation.oxidation_states):
        symbol = SYMBOLS[int(calculation.numbers[site])]
        moment = abs(float(magmoms[site]))
        fitting = [
            state
            for (element, state), (low, high) in MOMENTS[calculation.level.code].items()
            if element == symbol and low <= moment <= high
        ]
        states[site] = fitting[0] if len(fitting) == 1 else -1
    return states


def starting_signs(calculation: Calculation) -> np.ndarray:
    """Return the sign [n] of the moment each site with an oxidation state starts with; 0 for the others.

    All are up, or in an antiferromagnetic level up and down in turn in the order of the atoms. In a
    supercell of a host, where the copies of a site stand together, every copy has the sign of its site, so
    that the order is that of the unit cell.
    """
    sites = np.flatnonzero(calculation.oxidation_states)
    signs = np.zeros(len(calculation), dtype=np.int64)
    signs[sites] = 1
    if calculation.level.magnetism == "antiferromagnetic":
        key = calculation.state_key
        cells = 1 if key is None else math.prod(StateKey.parse(key).repeat)
        signs[sites[np.arange(len(sites)) // cells % 2 == 1]] = -1
    return signs


def lost(calculation: Calculation, magmoms: np.ndarray) -> str | None:
    """Say how charge order or signs of moments [n] (muB) differ from the wanted ones; None where not.

    Nothing is wanted of an unsteered calculation. All spins turned over are the same state.
    """
    states, signs = realised_states(calculation, magmoms), starting_signs(calculation)
    if calculation.unsteered:
        return None
    if (states != calculation.oxidation_states).any():
        wanted = describe(calculation, calculation.oxidation_states)
        return f"collapsed to {describe(calculation, states)} (wanted {wanted})"
    sites = np.flatnonzero(signs)
    if np.unique(np.sign(np.asarray(magmoms)[sites]) * signs[sites]).size > 1:
        found = "".join("+" if moment > 0 else "-" for moment in np.asarray(magmoms)[sites])
        wanted = "".join("+" if sign > 0 else "-" for sign in signs[sites])
        return f"collapsed to moments of signs {found} (wanted {wanted})"
    return None


def describe(calculation: Calculation, states: np.ndarray) -> str:
    """Return the charge order as text, such as ``Fe 2 3 2 3``; ``?`` where a moment fits no state."""
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
