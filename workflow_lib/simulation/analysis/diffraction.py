"""Simulated powder diffraction of structures, by pymatgen, and the strength of single peaks."""

from __future__ import annotations

import numpy as np
from ase import Atoms

WIDTH = 0.3
"""Standard deviation in degrees of the Gaussians that lines are drawn with."""


def lines(atoms: Atoms, radiation: str, within: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the lines of a powder pattern: 2 theta (degrees) and intensities, both [n].

    ``radiation`` as pymatgen names it; ``within``: range of 2 theta, degrees. Intensities are for one atom
    and on no other scale, so that patterns of one material compare.
    """
    from pymatgen.analysis.diffraction.xrd import XRDCalculator
    from pymatgen.io.ase import AseAtomsAdaptor

    structure = AseAtomsAdaptor.get_structure(atoms)
    pattern = XRDCalculator(wavelength=radiation).get_pattern(
        structure, scaled=False, two_theta_range=within
    )
    # A pattern's intensity grows with the square of the atoms in the cell.
    return np.asarray(pattern.x), np.asarray(pattern.y) / len(atoms) ** 2


def broadened(angles: np.ndarray, intensities: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return the pattern on a grid of 2 theta: a Gaussian of unit height times intensity for each line."""
    return (intensities[:, None] * np.exp(-(((grid - angles[:, None]) / WIDTH) ** 2) / 2)).sum(axis=0)


def peak(angles: np.ndarray, intensities: np.ndarray, place: float, window: float) -> float:
    """Return the summed intensity of the lines within ``window`` of ``place`` (degrees), over the total."""
    total = float(intensities.sum())
    return float(intensities[np.abs(angles - place) <= window].sum()) / total if total else 0.0
