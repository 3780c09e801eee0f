"""Which charge state a converged ion has: read from its magnetic moment."""

from __future__ import annotations

import math

import numpy as np

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.crystal_field import target_occupation, unpaired_electrons
from workflow_lib.dft.level import Level
from workflow_lib.lattice.arrangement import StateKey

MOMENTS: dict[str, dict[str, tuple[float, float]]] = {
    "GPAW": {
        "Fe2": (3.50, 3.85),
        "Fe3": (4.10, 4.50),
        "Mn2": (4.35, 4.85),
        "Co2": (2.45, 2.95),
        "Ni2": (1.55, 1.95),
    },
    "VASP": {"Fe2": (3.0, 3.79), "Fe3": (4.3, 5.0)},
}
"""Windows in muB of high-spin ions by code and ion, PBE+U: in GPAW's augmentation spheres at 500 eV and
more, and in VASP's. Between two windows a hole has not localised: fits none."""


COLLAPSED = "collapsed to"
"""How the reason of a failure begins that has lost its charge or magnetic order."""
LEAST_SPIN = 0.5
"""A window of moments that ends below this part of the unpaired electrons is not one of high spin."""
LEAST_MOMENT = 0.5
"""muB; the sign of a smaller moment tells no magnetic order."""


def windows_of(calculation: Calculation) -> dict[str, tuple[float, float]]:
    """Return the windows of moments (muB) by ion, known and given, of the calculation's elements."""
    known = MOMENTS[calculation.level.code] | calculation.windows
    present = {SYMBOLS[int(number)] for number in np.unique(calculation.numbers)}
    return {ion: window for ion, window in known.items() if ion.rstrip("0123456789") in present}


def require_known(
    symbol: str, state: int, level: Level, windows: dict[str, tuple[float, float]], name: str = ""
) -> None:
    """Raise UserError, which begins with ``name``, for an ion that cannot be held or told.

    For want of a Hubbard U, of a window of moments, or as one of low spin: ions are steered to high spin.
    ``windows`` (muB) are those that are given, by ion.
    """
    ion = f"{symbol}{state}"
    if symbol not in level.hubbard_u:
        raise UserError(f"{name}{ion}+ has no Hubbard U to hold it; add {symbol} to dft.level.hubbard_u")
    if ion not in MOMENTS[level.code] | windows:
        raise UserError(
            f"{name}{ion}+ has no known window of {level.code} moments (there are those of "
            f"{', '.join(MOMENTS[level.code])}); give redox.states[].magmom one at "
            f"{level.energy_reference!r}, or dft.windows for an ion outside the couple"
        )
    high = (MOMENTS[level.code] | windows)[ion][1]
    unpaired = unpaired_electrons(SYMBOLS.index(symbol), state)
    if high < LEAST_SPIN * unpaired:
        raise UserError(
            f"{name}the window of {ion}+ ends at {high:g} muB, and with {unpaired} unpaired electrons it "
            "would have more: ions are steered to high spin here, low-spin ones cannot be computed"
        )


def require_steerable(calculation: Calculation) -> None:
    """Raise UserError for a steered ion that has no Hubbard U, no window of moments or too few ligands.

    Without the first nothing holds its charge state, without the second nothing tells whether it got
    there, without the last GPAW cannot be given its lowest orbitals. And for an antiferromagnetic order
    that would have more moments one way than the other.
    """
    signs = starting_signs(calculation)
    if calculation.level.magnetism == "antiferromagnetic" and signs.sum():
        raise UserError(
            f"{calculation.name}: the level is antiferromagnetic, moments alternate in the order of the "
            f"atoms, and here {(signs > 0).sum()} would be up and {(signs < 0).sum()} down; describe the "
            "host by a cell with an even number of magnetic ions"
        )
    atoms = calculation.atoms()
    for site, orbital in calculation.seeds().items():
        symbol, state = SYMBOLS[int(calculation.numbers[site])], int(calculation.oxidation_states[site])
        require_known(symbol, state, calculation.level, calculation.windows, f"{calculation.name}: ")
        if calculation.level.code != "GPAW":
            continue  # only GPAW is given orbitals
        try:
            target_occupation(atoms, site, state, orbital)
        except UserError as error:
            raise UserError(f"{calculation.name}: {error}") from error


def realised_states(calculation: Calculation, magmoms: np.ndarray) -> np.ndarray:
    """Return oxidation states [n] by moment; -1 where a moment fits no single one of the element's windows.

    Given windows come before the known ones, which those of another couple may overlap. Sites that were
    given no state (0) stay 0.
    """
    states = np.zeros(len(calculation), dtype=np.int64)
    windows = windows_of(calculation)
    for site in np.flatnonzero(calculation.oxidation_states):
        symbol = SYMBOLS[int(calculation.numbers[site])]
        moment = abs(float(magmoms[site]))
        fitting = [
            int(ion.removeprefix(symbol))
            for ion, (low, high) in windows.items()
            if ion.rstrip("0123456789") == symbol and low <= moment <= high
        ]
        given = [state for state in fitting if f"{symbol}{state}" in calculation.windows]
        fitting = given or fitting
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
        return f"{COLLAPSED} {describe(calculation, states)} (wanted {wanted})"
    sites = np.flatnonzero((signs != 0) & (np.abs(magmoms) >= LEAST_MOMENT))
    if np.unique(np.sign(np.asarray(magmoms)[sites]) * signs[sites]).size > 1:
        found = "".join("+" if moment > 0 else "-" for moment in np.asarray(magmoms)[sites])
        wanted = "".join("+" if sign > 0 else "-" for sign in signs[sites])
        return f"{COLLAPSED} moments of signs {found} (wanted {wanted})"
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
