"""Formation energy of an arrangement against the empty and the full host."""

from __future__ import annotations

from typing import overload

import numpy as np
from numpy.typing import ArrayLike

MEV = 1000.0
"""meV in an eV."""
SAME_X = 1e-5
"""Compositions that differ by no more are the same: five digits of a third are enough."""


def at_x(x: ArrayLike, wanted: float) -> np.ndarray:
    """Return which of the compositions ``x`` [...] are the ``wanted`` one."""
    return np.abs(np.asarray(x, dtype=float) - wanted) <= SAME_X


@overload
def formation_energy(energy: float, x: float, empty: float, full: float) -> float: ...
@overload
def formation_energy(energy: np.ndarray, x: ArrayLike, empty: ArrayLike, full: ArrayLike) -> np.ndarray: ...
def formation_energy(
    energy: float | np.ndarray, x: ArrayLike, empty: ArrayLike, full: ArrayLike
) -> float | np.ndarray:
    """Return E_f = E - (1 - x) E(empty) - x E(full), in the unit of the energies.

    All energies are of one amount of host (a formula unit, a mobile site), which the caller chooses;
    ``x`` is the filled fraction of the mobile sites.
    """
    x = np.asarray(x)
    return energy - (1 - x) * empty - x * full  # type: ignore[operator, return-value]


def end_energies(energy: ArrayLike, x: ArrayLike) -> tuple[float, float]:
    """Return the lowest finite energies at x = 0 and at x = 1; nan where there is none."""
    values, filled = np.asarray(energy, dtype=float), np.asarray(x, dtype=float)
    ends = []
    for end in (0.0, 1.0):
        own = values[np.isclose(filled, end) & np.isfinite(values)]
        ends.append(float(own.min()) if len(own) else float("nan"))
    return ends[0], ends[1]


def formation_mev_fu(energy_ev: ArrayLike, formula_units: ArrayLike, x: ArrayLike) -> np.ndarray:
    """Return formation energies in meV per formula unit, against the lowest end members among them.

    ``energy_ev`` [n] are of cells of ``formula_units`` [n]. nan where an end member is missing.
    """
    per_unit = np.asarray(energy_ev, dtype=float) / np.asarray(formula_units, dtype=float)
    empty, full = end_energies(per_unit, x)
    return MEV * formation_energy(per_unit, x, empty, full)
