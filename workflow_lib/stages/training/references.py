"""Energies of the species, fitted to the training set so that the network learns differences.

Charge neutrality ties the counts of species together (each Na brings one Fe2+, the other Fe are
Fe3+), so that the energy of a surrogate cannot be distinguished from that of its element. The fit
is therefore over element energies, with a ridge penalty towards the values of the model, and over
deviations of surrogates from their element, which are zero as far as the data cannot determine
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from workflow_lib.models.contract import Species


def count_species(species: Sequence[np.ndarray], labels: Sequence[int]) -> np.ndarray:
    """Return how often each label occurs in each structure: [n_structures, n_labels]."""
    return np.array([[np.count_nonzero(item == z) for z in labels] for item in species], dtype=float)


def fit_references(
    counts: np.ndarray,
    energies: np.ndarray,
    species: Species,
    start: Mapping[int, float],
    ridge: float,
) -> dict[int, float]:
    """Return the energy of each label in eV.

    ``counts`` [n_frames, n_labels] in the order of ``species.labels``; ``energies`` [n_frames] eV:
    DFT minus the network's output without references. With element counts C, surrogate counts S and
    start values e0 it minimises |r - C b|^2/n + ridge |b - b0|^2 over element energies b; then,
    with X the part of S that is orthogonal to C (Frisch & Waugh, Econometrica 1, 387 (1933)), |r' -
    X d|^2/n + ridge |d - d0|^2 over the deviations d of the surrogates. If S is a combination of
    element counts, X vanishes and d stays at d0.
    """
    labels = species.labels
    elements = sorted({species.physical[z] for z in labels})
    surrogates = list(species.surrogates)
    own = np.array([[float(species.physical[z] == e) for e in elements] for z in labels])
    by_element = counts @ own
    by_surrogate = counts[:, [labels.index(z) for z in surrogates]]

    # An element without atoms of its own label (all its states are surrogates) starts at their mean.
    base = np.array(
        [
            start[e] if e in start else np.mean([start[z] for z in labels if species.physical[z] == e])
            for e in elements
        ]
    )
    deviation = np.array([start[z] - base[elements.index(species.physical[z])] for z in surrogates])

    residual = energies - by_element @ base - by_surrogate @ deviation
    shift = _ridge(by_element, residual, ridge)
    base, residual = base + shift, residual - by_element @ shift
    if surrogates:
        # Singular values below 1e-9 of the largest are exact dependences between integer counts.
        explained = np.linalg.lstsq(by_element, by_surrogate, rcond=1e-9)[0]
        own_part = by_surrogate - by_element @ explained
        own_part[:, np.abs(own_part).max(axis=0) < 1e-8] = 0.0
        more = _ridge(own_part, residual, ridge)
        deviation, base = deviation + more, base - explained @ more

    values = dict(zip(elements, base, strict=True))
    for z, difference in zip(surrogates, deviation, strict=True):
        values[z] = values[species.physical[z]] + difference
    return {z: float(values[z]) for z in labels}


def _ridge(design: np.ndarray, target: np.ndarray, ridge: float) -> np.ndarray:
    """Minimise |target - design x|^2/n + ridge |x|^2 by an augmented least-squares problem."""
    n, width = design.shape
    rows = np.concatenate([design, np.sqrt(n * ridge) * np.eye(width)])
    return np.linalg.lstsq(rows, np.concatenate([target, np.zeros(width)]), rcond=None)[0]
