"""A sparse linear fit of a few energies by many correlations, and what it is worth on held-out groups.

The lasso chooses which features count, least squares on these gives their coefficients, and
cross-validation by group chooses how many: whole groups (all charge orders on the same ions) are left
out together, because the energy of one order tells much about the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STRENGTHS = 30
"""Penalties tried, evenly spaced in their logarithm."""
WEAKEST = 1e-4
"""The smallest penalty, relative to the one that leaves no feature."""
FOLDS = 5
FLAT = 1e-8
"""Norm, relative to the largest, below which a feature does not vary in the data."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Coefficients [f] and what they are worth.

    ``rmse``: root mean square error on the data themselves; ``cross_validation``: on groups that were
    left out, at the chosen ``penalty``; ``held_out`` [n]: predictions of each row from fits that never
    saw its group, their choice of penalty included; all in the unit of the energies.
    """

    coefficients: np.ndarray
    penalty: float
    rmse: float
    cross_validation: float
    held_out: np.ndarray

    @property
    def held_out_features(self) -> int:
        """Number of features that count."""
        return int(np.count_nonzero(self.coefficients))


def sparse_fit(features: np.ndarray, energies: np.ndarray, groups: np.ndarray, always: np.ndarray) -> Fit:
    """Fit ``energies`` [n] by ``features`` [n, f]; ``always`` [f] marks those outside the penalty.

    ``groups`` [n] are kept together in cross-validation. The always-present features should span
    constant and composition. Raises ValueError for fewer than three groups.
    """
    if len(np.unique(groups)) < 3:
        raise ValueError("cross-validation needs three groups or more")
    data = _Data(np.asarray(features, float), np.asarray(energies, float), np.asarray(groups), always)
    penalty, error = data.choose(np.arange(len(energies)))
    coefficients = data.fit(np.arange(len(energies)), [penalty])[0]
    held_out = np.full(len(energies), np.nan)
    for train, test in data.folds(np.arange(len(energies))):
        if len(np.unique(data.groups[train])) < 3:
            inner = penalty
        else:
            inner, _ = data.choose(train)
        held_out[test] = data.features[test] @ data.fit(train, [inner])[0]
    rest = data.features @ coefficients - data.energies
    return Fit(coefficients, penalty, float(np.sqrt(np.mean(rest**2))), error, held_out)


class _Data:
    def __init__(
        self, features: np.ndarray, energies: np.ndarray, groups: np.ndarray, always: np.ndarray
    ) -> None:
        self.features, self.energies, self.groups = features, energies, groups
        self.always = np.flatnonzero(always)
        self.penalised = np.flatnonzero(~np.asarray(always, dtype=bool))
        self.ratios = np.geomspace(1.0, WEAKEST, STRENGTHS)

    def folds(self, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return rows that fit and rows that judge, whole groups together; the same at every call."""
        from sklearn.model_selection import GroupKFold

        split = GroupKFold(min(FOLDS, len(np.unique(self.groups[rows]))))
        return [(rows[a], rows[b]) for a, b in split.split(rows, groups=self.groups[rows])]

    def choose(self, rows: np.ndarray) -> tuple[float, float]:
        """Return the penalty (relative to the largest) with the least error on groups left out, and it."""
        squares = np.zeros(len(self.ratios))
        for train, test in self.folds(rows):
            found = self.fit(train, self.ratios)
            squares += ((self.features[test] @ found.T - self.energies[test, None]) ** 2).sum(axis=0)
        best = int(squares.argmin())  # the strongest of equal ones: the fewest features
        return float(self.ratios[best]), float(np.sqrt(squares[best] / len(rows)))

    def fit(self, rows: np.ndarray, ratios: np.ndarray | list[float]) -> np.ndarray:
        """Return coefficients [len(ratios), f] from some rows, one set for each relative penalty."""
        from sklearn.linear_model import lasso_path

        every, energies = self.features[rows], self.energies[rows]
        base = every[:, self.always]
        basis, sizes, _ = np.linalg.svd(base, full_matrices=False)
        basis = basis[:, sizes > FLAT * sizes[0]]
        rest = every[:, self.penalised] - basis @ (basis.T @ every[:, self.penalised])
        target = energies - basis @ (basis.T @ energies)
        norms = np.linalg.norm(rest, axis=0)
        scale = np.linalg.norm(every[:, self.penalised], axis=0)
        live = np.flatnonzero(norms > FLAT * np.maximum(scale, 1e-300))
        found = np.zeros((len(ratios), self.features.shape[1]))
        scaled = rest[:, live] / norms[live]
        largest = float(np.abs(scaled.T @ target).max(initial=0.0)) / len(rows)
        if len(live) and largest > 0:
            # sklearn wants descending penalties and gives them in that order.
            _, paths, _ = lasso_path(scaled, target, alphas=largest * np.asarray(ratios), max_iter=20000)
            supports = [live[np.abs(paths[:, k]) > 0] for k in range(len(ratios))]
        else:
            supports = [live[:0]] * len(ratios)
        for row, support in enumerate(supports):
            # No more features than leave a row to spare, the strongest penalty's choice first.
            if basis.shape[1] + len(support) >= len(rows):
                found[row] = found[row - 1] if row else 0
                if row:
                    continue
                support = support[:0]  # noqa: PLW2901
            columns = np.concatenate([self.always, self.penalised[support]])
            found[row, columns] = np.linalg.lstsq(every[:, columns], energies, rcond=None)[0]
        return found
