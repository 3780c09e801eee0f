"""Charge states from magnetic moments, for any redox element: by the widest gap or by windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

AMBIGUOUS = 0
"""State of an atom whose moment lies in no window."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """Charge states of redox atoms.

    ``states`` [n]: oxidation states, :data:`AMBIGUOUS` where a moment fits none; ``gap`` muB, between the
    nearest moments of the two groups.
    """

    states: np.ndarray
    gap: float


def by_gap(moments: np.ndarray, states: tuple[int, int]) -> Assignment:
    """Divide moments [n] (muB) at the widest gap between two consecutive ones.

    ``states`` are the oxidation states of the smaller and the larger moments. All atoms are in the first
    group's state where there are fewer than two of them or all moments are equal.
    """
    moments = np.asarray(moments, dtype=float)
    ordered = np.sort(moments)
    if len(ordered) < 2 or ordered[0] == ordered[-1]:
        return Assignment(np.full(len(moments), states[0]), 0.0)
    widths = np.diff(ordered)
    place = int(widths.argmax())
    boundary = float(ordered[place : place + 2].mean())
    return Assignment(np.where(moments < boundary, *states), float(widths[place]))


def by_window(
    moments: np.ndarray, states: tuple[int, int], windows: tuple[tuple[float, float], tuple[float, float]]
) -> Assignment:
    """Assign to each moment [n] the state in whose window (muB) it lies; AMBIGUOUS outside both."""
    moments = np.asarray(moments, dtype=float)
    found = np.full(len(moments), AMBIGUOUS)
    for state, (low, high) in zip(states, windows, strict=True):
        found[(moments >= low) & (moments <= high)] = state
    groups = [moments[found == state] for state in states]
    gap = float(groups[1].min() - groups[0].max()) if all(len(group) for group in groups) else 0.0
    return Assignment(found, gap)


def separation(features: np.ndarray, states: np.ndarray) -> float | None:
    """Return the silhouette of two groups of atoms, from -1 to 1; None unless both have two atoms.

    ``features`` [n] or [n, d]; ambiguous atoms are left out (Rousseeuw, J. Comput. Appl. Math. 20, 53
    (1987)).
    """
    from sklearn.metrics import silhouette_score

    kept = states != AMBIGUOUS
    features, states = np.asarray(features, dtype=float)[kept], np.asarray(states)[kept]
    _, counts = np.unique(states, return_counts=True)
    if len(counts) != 2 or counts.min() < 2:
        return None
    return float(silhouette_score(features.reshape(len(features), -1), states))


def moment_histogram(moments: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the number of atoms in each bin at each frame, [frames, bins]; moments [frames, n] muB.

    Moments beyond the outer edges count in the outer bins, so that none is lost.
    """
    clipped = np.clip(np.asarray(moments, dtype=float), edges[0], edges[-1])
    return np.stack([np.histogram(frame, bins=edges)[0] for frame in clipped])


def classified(moments: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Return the class of each moment: how many of the ascending thresholds (muB) it reaches."""
    return np.searchsorted(
        np.asarray(thresholds, dtype=float), np.asarray(moments, dtype=float), side="right"
    )
