"""Hops of electrons and ions along a trajectory: how long each stays, and whether the two go together.

An electron is a redox site in its reduced state; it hops where the state of the site changes. An ion hops
where it reaches another site. Both are counted between recorded frames: what returns in between is not
seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from workflow_lib.core.errors import UserError

CONFIDENCE = 0.95
"""Of all intervals."""
FEWEST_WINDOWS = 3
"""Windows of time in which hops can go together or not."""


@dataclass(frozen=True, slots=True)
class Residence:
    """Mean time that a carrier stays where it is, with the limits of its interval, ps.

    ``stays`` steps between frames of one carrier each, ``hops`` of which ended elsewhere. Without hops
    there is a lower limit alone.
    """

    stays: int
    hops: int
    mean_ps: float | None
    low_ps: float
    high_ps: float


def residence(stays: int, hops: int, frame_ps: float) -> Residence:
    """Return the mean residence time of carriers that leave with one probability p a frame, frame_ps / p.

    The interval is that of p by Clopper and Pearson, Biometrika 26, 404 (1934): exact for a Markov chain,
    whose steps are independent. ``stays``, ``hops``: see :class:`Residence`.
    """
    from scipy.special import betaincinv

    if not stays:
        return Residence(0, 0, None, 0.0, math.inf)
    tail = (1 - CONFIDENCE) / 2
    low = betaincinv(hops, stays - hops + 1, tail) if hops else 0.0
    high = betaincinv(hops + 1, stays - hops, 1 - tail) if hops < stays else 1.0
    return Residence(
        stays,
        hops,
        frame_ps * stays / hops if hops else None,
        frame_ps / float(high),
        frame_ps / float(low) if low else math.inf,
    )


def sites_of(
    positions: np.ndarray, cells: np.ndarray, sites: np.ndarray, frame: np.ndarray, reach: float
) -> np.ndarray:
    """Return the site of each ion in every frame, [frames, ions].

    ``positions`` [frames, n, 3] A, unwrapped; ``cells`` [frames, 3, 3] A; ``sites`` [m, 3] fractional;
    ``frame`` [frames, n, 3] A the atoms at rest, whose drift is removed. The first frame must be the start
    of the trajectory, where nothing has drifted off the sites. An ion is at the nearest site at
    first, then at the last one that it came within ``reach`` (A) of: one that swings between two sites,
    or turns back half way, has not hopped. Raises UserError where an ion of the first frame is beyond
    reach of every site, or two are on one: then these are not the sites of the ions.
    """
    inverse = np.linalg.inv(cells)
    # In fractions of each frame's cell: atoms that follow a cell which grows have not drifted.
    centre = (frame.mean(axis=1)[:, None] @ inverse)[:, 0]
    drift = centre - centre[0]
    found = np.empty(positions.shape[:2], dtype=int)
    for number, (now, cell) in enumerate(zip(positions, cells, strict=True)):
        scaled = now @ inverse[number] - drift[number]
        between = scaled[:, None] - sites[None]
        distance = np.linalg.norm((between - np.round(between)) @ cell, axis=2)
        nearest = distance.argmin(axis=1)
        off = distance.min(axis=1)
        if number == 0:
            _check_start(nearest, off, reach)
        there = off <= reach
        found[number] = nearest if number == 0 else np.where(there, nearest, found[number - 1])
    return found


def _check_start(nearest: np.ndarray, off: np.ndarray, reach: float) -> None:
    """Raise UserError unless each ion is within ``reach`` (A) of a site of its own.

    ``nearest`` [ions] sites; ``off`` [ions] A from them.
    """
    right = "describe the crystal whose sites its ions are on"
    if (off > reach).any():
        ion = int(off.argmax())
        raise UserError(
            f"ion {ion} begins {off[ion]:.2f} A from the nearest site, beyond reach ({reach:g} A); "
            f"{right}, or raise reach"
        )
    ions = np.bincount(nearest)
    if ions.max() > 1:
        site = int(ions.argmax())
        both = ", ".join(map(str, np.flatnonzero(nearest == site)))
        raise UserError(f"ions {both} begin on one site, number {site}; {right}")


def ion_hops(found: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Return how many ions left or reached a site near each redox atom between two frames.

    ``found`` [frames, ions] sites; ``near`` [sites, redox atoms]. Returns [frames - 1, redox atoms].
    """
    moved = found[1:] != found[:-1]
    around = near[found[:-1]] | near[found[1:]]
    return (moved[:, :, None] & around).sum(axis=1)


@dataclass(frozen=True, slots=True)
class Correlation:
    """Correlation of two kinds of hops, from -1 to 1, and what chance alone gives.

    ``low``, ``high``: range that holds :data:`CONFIDENCE` of the correlations without a relation;
    ``p_value``: share of these, the observed one among them, that are as far from zero. None where there is
    a ``reason`` against one.
    """

    value: float | None
    low: float | None
    high: float | None
    p_value: float | None
    reason: str = ""


def correlation(first: np.ndarray, second: np.ndarray, window: int) -> Correlation:
    """Return how hops of two kinds go together near the same atoms within windows of frames.

    ``first``, ``second`` [steps, atoms]: hops. They are counted in windows; the mean of each atom is taken
    off, so that places where everything hops are no correlation in time. What chance gives: the second
    kind shifted in time by every number of windows, the last following the first, which leaves both series
    as they are and breaks only their relation.
    """
    windows = len(first) // window
    if windows < FEWEST_WINDOWS:
        return Correlation(None, None, None, None, f"{windows} windows of time are too few")
    counts = [
        np.asarray(item, dtype=float)[: windows * window].reshape(windows, window, -1).sum(axis=1)
        for item in (first, second)
    ]
    a, b = (item - item.mean(axis=0) for item in counts)
    size = math.sqrt(float((a**2).sum()) * float((b**2).sum()))
    if size < 1e-12:
        return Correlation(None, None, None, None, "electrons or ions do not hop")
    values = np.array([float((a * np.roll(b, shift, axis=0)).sum()) for shift in range(windows)]) / size
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values[1:], [tail, 1 - tail])
    as_far = np.abs(values) >= abs(values[0]) - 1e-12
    return Correlation(float(values[0]), float(low), float(high), float(as_far.mean()))
