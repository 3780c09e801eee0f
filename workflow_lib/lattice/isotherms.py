"""Isotherms x(mu) of semigrand sampling: phase boundaries by jumps and by free energies, voltage.

``x`` is the filled fraction of the mobile sites, ``mu`` the chemical potential of an ion in eV, free
energies are in eV per mobile site. Grand free energy: phi = min_x [f(x) - mu x], d phi / d mu = -x.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from workflow_lib.lattice.entropy import BOLTZMANN

STEEP = 0.05
"""In x per :data:`STEP`: the CHGNet study's rule for the end of a solid solution."""
STEP = 0.01
"""eV"""
DILUTE = 0.02
"""Largest distance in x from an end member at which an isotherm may begin to be integrated."""

NOISE = 4.0
"""Standard errors of a difference of free energies beyond which it is more than noise. The hull chooses
the lowest points and asks for the highest between them: of linear free energies with noise at 25
compositions 27 % have a difference of 3 somewhere, 1 % one of 4."""
LEAST = 1e-5
"""eV a mobile site; a smaller difference of free energies counts as none."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Two phases in equilibrium: their compositions, and the chemical potential (eV) at which."""

    x_low: float
    x_high: float
    mu: float


def jumps(mu: np.ndarray, x: np.ndarray) -> list[Gap]:
    """Return the gaps of an isotherm ``x`` [n] over ascending ``mu`` [n] (eV) by the jump rule.

    A step counts as a gap if x rises by :data:`STEEP` or more per :data:`STEP`; neighbouring steps that
    do are one gap.
    """
    return [
        Gap(float(x[first]), float(x[last]), float((mu[first] + mu[last]) / 2))
        for first, last in _edges(mu, x)
    ]


def _edges(mu: np.ndarray, x: np.ndarray) -> list[tuple[int, int]]:
    """Return the places of the points at which each gap of the jump rule begins and ends."""
    steps = np.diff(np.asarray(mu, dtype=float))
    if (steps <= 0).any():
        raise ValueError("mu must ascend")
    steep = np.diff(np.asarray(x, dtype=float)) >= STEEP * steps / STEP
    changes = np.flatnonzero(np.diff(np.concatenate([[0], steep.astype(int), [0]])))
    return [(first, last) for first, last in changes.reshape(-1, 2).tolist()]


def single_phase(mu: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return which points [n] of an isotherm are of one phase: not between two steep steps.

    These are the coloured dots of the CHGNet study's Fig. 5.
    """
    steep = np.diff(np.asarray(x, float)) >= STEEP * np.diff(np.asarray(mu, float)) / STEP
    before, after = np.concatenate([[False], steep]), np.concatenate([steep, [False]])
    return ~(before & after)


def integrate_isotherm(
    mu: np.ndarray, x: np.ndarray, *, end_energy: float, temperature: float, from_full: bool, species: float
) -> np.ndarray:
    """Return the grand free energy [n] (eV a mobile site) along an isotherm that begins at an end member.

    ``mu`` [n] ascends; ``end_energy`` is the free energy of the end member in eV a mobile site (of one of
    mixed valence its charges have entropy). From the empty host (or, ``from_full``, the full one) the part
    of the integral beyond the grid is that of a dilute solution, kT times the distance from the end member
    times ``species``, the number of species that are dilute for each ion (ion and electron: 2).
    Raises ValueError if the isotherm does not begin there.
    """
    mu, x = np.asarray(mu, dtype=float), np.asarray(x, dtype=float)
    kt = BOLTZMANN * temperature
    rest = 1 - x[-1] if from_full else x[0]
    if rest > DILUTE:
        raise ValueError(
            f"the isotherm begins at x = {x[-1] if from_full else x[0]:.3f}, not at the end member"
        )
    area = np.concatenate([[0.0], np.cumsum((x[1:] + x[:-1]) / 2 * np.diff(mu))])
    if from_full:
        end = end_energy - mu[-1] - species * kt * rest
        return end + area[-1] - area
    return end_energy - species * kt * rest - area


def crossing(mu: np.ndarray, low: np.ndarray, high: np.ndarray) -> float | None:
    """Return the ``mu`` (eV) at which two branches of grand free energy cross; None if they do not.

    ``low`` [n] is stable below it, ``high`` [n] above. Linear between grid points.
    """
    gap = np.asarray(high, dtype=float) - np.asarray(low, dtype=float)
    changes = np.flatnonzero((gap[:-1] > 0) & (gap[1:] <= 0))
    if not len(changes):
        return None
    k = int(changes[0])
    return float(mu[k] + (mu[k + 1] - mu[k]) * gap[k] / (gap[k] - gap[k + 1]))


def equilibrium(
    mu: np.ndarray,
    x_up: np.ndarray,
    x_down: np.ndarray,
    *,
    energies: tuple[float, float],
    temperature: float,
    species: tuple[float, float],
) -> tuple[Gap, float] | None:
    """Return where the branch from the empty and that from the full host are in equilibrium.

    With it the grand free energy of both there, eV a mobile site.

    ``energies`` (free energies, eV a mobile site) and ``species`` are those of :func:`integrate_isotherm`
    for the empty and for the full host.
    Each branch counts up to its first jump, beyond which it is of another phase, and is continued through
    that jump by its x and dx/dmu before it: without hysteresis both scans jump on the same step, and the
    branches cross inside. None where one phase leads to the other without a jump, or where the branches
    do not cross before they have jumped: there is a
    third phase between them, which no path from an end member reaches reversibly. Where hysteresis lets
    both branches pass by a third phase, they are in equilibrium with each other, though it may lie lower:
    compare its free energy with the one returned. A gap narrower than
    :data:`STEEP` is none either: in small cells a steep solid solution looks like one.
    """
    rises, falls = _edges(mu, x_up), _edges(mu, x_down)
    if not rises or not falls:
        return None
    low_end, high_begin = rises[0][0], falls[-1][1]
    low = integrate_isotherm(
        *(mu, x_up), end_energy=energies[0], temperature=temperature, from_full=False, species=species[0]
    )
    high = integrate_isotherm(
        *(mu, x_down), end_energy=energies[1], temperature=temperature, from_full=True, species=species[1]
    )
    x_low, low = _continued(mu, x_up, low, low_end, low_end - 1)
    x_high, high = _continued(mu, x_down, high, high_begin, high_begin + 1)
    part = slice(falls[-1][0], rises[0][1] + 1)
    found = crossing(mu[part], low[part], high[part])
    if found is None:
        return None
    gap = Gap(float(np.interp(found, mu, x_low)), float(np.interp(found, mu, x_high)), found)
    if gap.x_high - gap.x_low < STEEP:
        return None
    return gap, float(np.interp(found, mu[part], low[part]))


def _continued(
    mu: np.ndarray, x: np.ndarray, phi: np.ndarray, last: int, before: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return x and grand free energy [n] of a branch, continued beyond its point ``last``.

    x goes on with its slope between ``before``, the neighbouring point of the branch if there is one, and
    ``last``.
    """
    on_grid = 0 <= before < len(mu)
    slope = (x[last] - x[before]) / (mu[last] - mu[before]) if on_grid else 0.0
    way = mu - mu[last]
    beyond = np.arange(len(mu)) > last if before < last else np.arange(len(mu)) < last
    further = x[last] + slope * way
    grand = phi[last] - x[last] * way - slope * way**2 / 2
    return np.where(beyond, further, x), np.where(beyond, grand, phi)


def common_tangents(x: np.ndarray, free_energy: np.ndarray, errors: np.ndarray) -> list[Gap]:
    """Return the common tangents of a free energy [n] (eV a mobile site) on a grid ``x`` [n], ascending.

    A tangent is an edge of the lower convex hull below a grid point in between by more than noise:
    :data:`NOISE` standard errors of that difference of three points, of which ``errors`` [n] (eV) are
    the own. Two tangents are one unless the point in which they meet, or a vertex of the hull between
    them, lies as clearly below the line between their far ends. Compositions are those of the grid; the
    true ones lie up to one grid step inside.
    """
    x, f = np.asarray(x, dtype=float), np.asarray(free_energy, dtype=float)
    hull: list[int] = []
    for k in range(len(x)):
        while len(hull) > 1 and _above(x, f, hull[-2], hull[-1], k) >= 0:
            hull.pop()
        hull.append(k)
    ends: list[tuple[int, int]] = []
    for a, b in pairwise(hull):
        if not any(_above(x, f, a, k, b) > _noise(x, errors, a, k, b) for k in range(a + 1, b)):
            continue
        if ends:
            far, met = ends[-1]
            between = [vertex for vertex in hull if met <= vertex <= a]
            if not any(-_above(x, f, far, v, b) > _noise(x, errors, far, v, b) for v in between):
                ends[-1] = (far, b)
                continue
        ends.append((a, b))
    return [Gap(float(x[a]), float(x[b]), float((f[b] - f[a]) / (x[b] - x[a]))) for a, b in ends]


def _noise(x: np.ndarray, errors: np.ndarray, a: int, b: int, c: int) -> float:
    """Return the height of point b over the line from a to c (either sign) that may be noise."""
    part = (x[b] - x[a]) / (x[c] - x[a])
    error = np.sqrt(errors[b] ** 2 + ((1 - part) * errors[a]) ** 2 + (part * errors[c]) ** 2)
    return float(max(LEAST, NOISE * error))


def _above(x: np.ndarray, f: np.ndarray, a: int, b: int, c: int) -> float:
    """Return how far point b lies above the line from a to c (positive: it is no vertex)."""
    return float(f[b] - f[a] - (f[c] - f[a]) * (x[b] - x[a]) / (x[c] - x[a]))


def voltage(mu: np.ndarray, *, metal_energy: float, charge: int) -> np.ndarray:
    """Return V against the metal at chemical potentials ``mu`` (eV an ion): -(mu - E_metal) / z."""
    return -(np.asarray(mu, dtype=float) - metal_energy) / charge


def hysteresis(mu: np.ndarray, x_up: np.ndarray, x_down: np.ndarray) -> float:
    """Return the area between the two scans (eV a mobile site): the mean difference of mu at equal x."""
    difference = np.asarray(x_down, dtype=float) - np.asarray(x_up, dtype=float)
    return float(np.trapezoid(difference, np.asarray(mu, dtype=float)))
