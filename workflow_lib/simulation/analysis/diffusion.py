"""Displacements, mean squared displacement, self-diffusion and its temperature dependence.

Displacements are those of unwrapped atoms in the mean cell, without the drift of the framework; the slope
of their mean square over all time origins comes from pymatgen-analysis-diffusion. The error of a
diffusivity follows He, Zhu, Epstein and Mo, npj Comput. Mater. 4, 18 (2018): with
N_eff = max total MSD / a^2 effective hops over the site distance a, the relative standard deviation is
3.43 / sqrt(N_eff) + 0.04.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.entropy import BOLTZMANN
from workflow_lib.simulation.analysis.cells import in_mean_cell

WINDOW = (0.1, 0.5)
"""Part of the production time over which the MSD is fitted: past vibrations, before statistics run out."""
LINEAR = 0.25
"""Largest deviation of the exponent of MSD ~ t^exponent from 1 that counts as linear."""
FEWEST_HOPS = 14.0
"""Below it the relative error of He et al. exceeds 95 %: nothing is learned."""
FEWEST_FRAMES = 20
"""Frames of a mean squared displacement."""


@dataclass(frozen=True, slots=True)
class MeanSquare:
    """Mean squared displacement of one element.

    ``times_ps`` [n]; ``msd`` [n] A^2; ``error`` [n] A^2, the standard error over the ``atoms``, which are
    taken as independent; ``framework`` [n] A^2, that of all other atoms.
    """

    times_ps: np.ndarray
    msd: np.ndarray
    error: np.ndarray
    framework: np.ndarray
    atoms: int


@dataclass(frozen=True, slots=True)
class Diffusivity:
    """A self-diffusion coefficient in cm^2/s with its standard deviation, or why there is none.

    ``hops``: effective number of hops; ``exponent`` of MSD ~ t^exponent in the fitted window.
    """

    value: float | None
    error: float | None
    hops: float
    exponent: float | None
    reason: str


def check_diffusion(atoms: Atoms, element: str, frames: int) -> None:
    """Raise UserError for an element that the structure lacks, or for fewer than :data:`FEWEST_FRAMES`."""
    if element not in atoms.symbols:
        raise UserError(f"{atoms.symbols} holds no {element}, whose diffusion is asked for")
    if frames < FEWEST_FRAMES:
        raise UserError(
            f"{frames} frames are too few for a mean squared displacement ({FEWEST_FRAMES} are needed); "
            "run longer"
        )


def displacements(positions: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Return the displacements [frames, atoms, 3] from the first frame, without the drift of the frame.

    ``positions`` are unwrapped, A; ``frame`` [atoms] says which atoms define what is at rest.
    """
    moved = np.asarray(positions, dtype=float) - np.asarray(positions[0], dtype=float)
    return moved - moved[:, frame].mean(axis=1)[:, None]


def mean_square(
    positions: np.ndarray, cells: np.ndarray, atoms: Atoms, element: str, frame_ps: float
) -> MeanSquare:
    """Return the MSD of an element over all time origins from unwrapped positions [frames, atoms, 3] A.

    ``cells`` [frames, 3, 3] A: how atoms follow a cell that changes is no diffusion, so that displacements
    are counted in the mean cell. The drift of all other atoms (of all atoms where there are no others) is
    removed. Raises UserError as :func:`check_diffusion` does.
    """
    check_diffusion(atoms, element, len(positions))
    mobile = np.array([symbol == element for symbol in atoms.symbols])
    moved = displacements(in_mean_cell(positions, cells), mobile if mobile.all() else ~mobile)
    lags = np.unique(np.linspace(1, len(positions) // 2, 200).astype(int))
    squares = _over_origins(moved, lags)
    own = squares[:, mobile]
    count = int(mobile.sum())
    error = own.std(axis=1, ddof=1) / math.sqrt(count) if count > 1 else np.full(len(lags), math.inf)
    framework = squares[:, ~mobile].mean(axis=1) if (~mobile).any() else np.zeros(len(lags))
    return MeanSquare(lags * frame_ps, own.mean(axis=1), error, framework, count)


def _over_origins(moved: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Return the squared displacement of every atom at each lag, a mean over all origins, [lags, atoms]."""
    return np.stack([((moved[lag:] - moved[:-lag]) ** 2).sum(axis=2).mean(axis=0) for lag in lags])


def diffusivity(found: MeanSquare, site_distance: float) -> Diffusivity:
    """Return the self-diffusion coefficient from the slope of the MSD, D = slope / 6.

    ``site_distance`` A is the length of a hop. No value where fewer than :data:`FEWEST_HOPS` hops were
    seen, or where the MSD does not grow linearly within the window.
    """
    from pymatgen.analysis.diffusion.analyzer import get_diffusivity_from_msd

    hops = float(found.atoms * found.msd.max() / site_distance**2)
    last = 2 * float(found.times_ps[-1])
    inside = (found.times_ps >= WINDOW[0] * last) & (found.times_ps <= WINDOW[1] * last)
    if inside.sum() < 5:
        return Diffusivity(None, None, hops, None, "too few frames to fit a line")
    times, msd = found.times_ps[inside], found.msd[inside]
    exponent = float(np.polyfit(np.log(times), np.log(msd), 1)[0])
    if hops < FEWEST_HOPS:
        return Diffusivity(None, None, hops, exponent, f"{hops:.1f} effective hops are too few")
    if abs(exponent - 1) > LINEAR:
        return Diffusivity(None, None, hops, exponent, f"MSD grows as t^{exponent:.2f}, not linearly")
    value, _ = get_diffusivity_from_msd(msd, times * 1000)
    return Diffusivity(float(value), float(value) * relative_error(hops), hops, exponent, "")


def relative_error(hops: float) -> float:
    """Return the relative standard deviation of a diffusivity seen over so many hops (He et al. 2018)."""
    return 3.43 / math.sqrt(hops) + 0.04


@dataclass(frozen=True, slots=True)
class Arrhenius:
    """Activation energy and its standard error, eV; and the prefactor, cm^2/s."""

    energy: float
    energy_error: float
    prefactor: float

    def at(self, temperature: np.ndarray) -> np.ndarray:
        """Return the diffusivity at temperatures in K, cm^2/s."""
        return self.prefactor * np.exp(-self.energy / (BOLTZMANN * np.asarray(temperature, dtype=float)))


def arrhenius(temperatures: np.ndarray, values: np.ndarray, errors: np.ndarray) -> Arrhenius | None:
    """Fit D = D0 exp(-E / kT), weighted by the relative errors; None for fewer than two temperatures.

    The errors of the fit are propagated from those of the diffusivities, whatever the scatter.
    """
    if len(temperatures) < 2:
        return None
    inverse = 1 / np.asarray(temperatures, dtype=float)
    values, errors = np.asarray(values, dtype=float), np.asarray(errors, dtype=float)
    (slope, offset), covariance = np.polyfit(inverse, np.log(values), 1, w=values / errors, cov="unscaled")
    return Arrhenius(
        energy=float(-slope * BOLTZMANN),
        energy_error=float(math.sqrt(covariance[0, 0]) * BOLTZMANN),
        prefactor=float(np.exp(offset)),
    )
