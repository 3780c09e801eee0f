"""What a trajectory must satisfy: pure functions that return a fault in words, or None."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

BLOCKS = 10
"""Blocks in which correlated values are averaged for a standard error."""
SEARCHED = 1.0
"""A: atoms nearer than this are looked at when fused ones are searched for."""
DRIFTING = 0.5
"""ps; several of the slowest vibrations."""
JUDGED = 5.0
"""Relaxation times of the thermostat that a block needs before means are judged."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean of correlated values, its standard error from block averages, and their spread."""

    value: float
    error: float
    spread: float


def block_mean(values: np.ndarray) -> Mean:
    """Return the mean of a series, its error from block averages and its standard deviation.

    Flyvbjerg and Petersen, J. Chem. Phys. 91, 461 (1989), at one size of block. The error is infinite
    for fewer than two values a block.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2 * BLOCKS:
        return Mean(float(values.mean()), math.inf, float(values.std()))
    used = values[len(values) % BLOCKS :]
    means = used.reshape(BLOCKS, -1).mean(axis=1)
    return Mean(float(values.mean()), float(means.std(ddof=1) / math.sqrt(BLOCKS)), float(values.std()))


def drift(times_ps: np.ndarray, energies: np.ndarray, n_atoms: int) -> float:
    """Return the slope of the total energy [n_frames] eV against time, meV per atom and ps."""
    return float(np.polyfit(times_ps, np.asarray(energies, dtype=float), 1)[0]) * 1000 / n_atoms


def drift_fault(times_ps: np.ndarray, energies: np.ndarray, n_atoms: int, limit: float) -> str | None:
    """Return what is wrong with the energy conservation of an NVE run; ``limit`` in meV per atom and ps.

    Runs shorter than :data:`DRIFTING`, in which the total energy only oscillates, are not judged.
    """
    if len(times_ps) < 3 or times_ps[-1] - times_ps[0] < DRIFTING:
        return None
    found = drift(times_ps, energies, n_atoms)
    if abs(found) <= limit:
        return None
    return (
        f"the total energy drifts by {found:.3g} meV per atom and ps ({limit:g} are allowed); take a "
        "shorter time step, or a potential whose forces are the gradient of its energy"
    )


def temperature_fault(
    temperatures: np.ndarray,
    target: float,
    freedom: int,
    *,
    frame_ps: float,
    relaxation_ps: float,
    tolerance: float,
    spread: float,
) -> str | None:
    """Return what is wrong with the temperatures [n_frames] K of a thermostatted run after its ramp.

    The canonical ensemble has the mean ``target`` and the spread target sqrt(2 / freedom). Runs too
    short for :data:`BLOCKS` blocks of :data:`JUDGED` relaxation times are not judged.
    """
    if len(temperatures) * frame_ps < BLOCKS * JUDGED * relaxation_ps or len(temperatures) < 2 * BLOCKS:
        return None
    mean = block_mean(temperatures)
    if abs(mean.value - target) > tolerance * target + 4 * mean.error:
        return (
            f"the mean temperature is {mean.value:.0f} +- {mean.error:.1f} K where {target:g} K is asked "
            "for; equilibrate longer, or take a shorter time step or thermostat time"
        )
    expected = target * math.sqrt(2 / freedom)

    def fits(found: float) -> bool:
        return expected / spread <= found <= expected * spread

    if not fits(mean.spread):
        later = float(np.std(temperatures[len(temperatures) // 2 :]))
        if fits(later):
            return (
                f"the temperature spreads by {mean.spread:.1f} K, and by {later:.1f} K in the second half "
                f"alone ({expected:.1f} K in equilibrium): the first part is not in equilibrium; raise "
                "equilibration_ps, the steps made are used again"
            )
        return (
            f"the temperature spreads by {mean.spread:.1f} K where {freedom} degrees of freedom at "
            f"{target:g} K spread by {expected:.1f} K; take a shorter time step or another thermostat time"
        )
    return None


def frame_fault(
    positions: np.ndarray,
    cell: np.ndarray,
    energy: float,
    temperature: float,
    *,
    hottest: float,
    min_distance: float,
) -> str | None:
    """Return why a frame is no physical state: not finite, far too hot, or with fused atoms."""
    if not (np.isfinite(positions).all() and math.isfinite(energy) and math.isfinite(temperature)):
        return "positions or energies are not finite; take a shorter time step"
    if temperature > hottest:
        return f"the temperature rose to {temperature:.0f} K; take a shorter time step, or relax the start"
    from matscipy.neighbours import neighbour_list

    # The search divides the cell into boxes of the cut-off's size: far too many for a very small one.
    first, second, distance = neighbour_list(
        "ijd", positions=positions, cell=cell, pbc=np.array([True] * 3), cutoff=max(min_distance, SEARCHED)
    )
    if len(distance) and distance.min() < min_distance:
        nearest = int(distance.argmin())
        return (
            f"atoms {first[nearest]} and {second[nearest]} are fused ({distance[nearest]:.2f} A apart); "
            "the potential has left its domain; take a shorter time step, a lower temperature or another "
            "model"
        )
    return None
