"""Open-circuit voltage: the slope of the hull, relative to the metal of the mobile ion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workflow_lib.lattice.hull import Hull


@dataclass(frozen=True, slots=True)
class VoltageProfile:
    """A staircase: ``volts`` [v-1] holds between ``x`` [v], ascending from 0 to 1."""

    x: np.ndarray
    volts: np.ndarray

    def at(self, x: np.ndarray) -> np.ndarray:
        """Return the voltage at ``x``; at a step, the value to its right (at x = 1, the last plateau)."""
        place = np.searchsorted(self.x, x, side="right") - 1
        return self.volts[np.clip(place, 0, len(self.volts) - 1)]

    @property
    def average(self) -> float:
        """Integral of V over x from 0 to 1: reaction energy per mobile ion and electron, V."""
        return float(np.diff(self.x) @ self.volts)


def voltage_profile(hull: Hull, *, mobile_energy: float, charge: int = 1) -> VoltageProfile:
    """Return V between neighbouring vertices of the hull, in V against the metal.

    V(x1 -> x2) = -[E(x2) - E(x1) - (x2 - x1) E(metal)] / [z (x2 - x1)] with E per mobile site
    (Aydinol, Kohan, Ceder, Cho and Joannopoulos, Phys. Rev. B 56, 1354, 1997). ``mobile_energy`` is
    E(metal) in eV per atom, at the level of the reference; ``charge`` is z.
    """
    step = np.diff(hull.x)
    volts = -(np.diff(hull.energy) - step * mobile_energy) / (charge * step)
    return VoltageProfile(hull.x.copy(), volts)


def common_grid(*profiles: VoltageProfile) -> np.ndarray:
    """Return all steps of some profiles, ascending: between two of them every profile is constant."""
    return np.unique(np.concatenate([profile.x for profile in profiles]))


def voltage_distance_mv(one: VoltageProfile, other: VoltageProfile) -> float:
    """Return the integral of |V_one - V_other| over x from 0 to 1, in mV; exact for staircases."""
    grid = common_grid(one, other)
    middle = (grid[1:] + grid[:-1]) / 2
    return float(1000 * np.diff(grid) @ np.abs(one.at(middle) - other.at(middle)))
