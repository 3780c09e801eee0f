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
LEAST_GROUPS = 3
"""Groups that cross-validation needs."""
DECIMALS = 7
"""Of correlations, to which two arrangements count as one."""
FLAT = 1e-7
"""Share of a feature that others do not explain, below which it is left out."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Coefficients [f] and what they are worth.

    ``rmse``: root mean square error on the data themselves; ``cross_validation``: on groups that were
    left out, at the chosen ``penalty`` (relative to the largest); ``held_out`` [n]: predictions of each
    row from fits that never saw its group, not even to choose their penalty; nan for rows that every fit
    keeps, and for all where there are too few groups to choose a penalty without one. All in the unit of
    the energies.
    """

    coefficients: np.ndarray
    penalty: float
    rmse: float
    cross_validation: float
    held_out: np.ndarray

    @property
    def counting(self) -> int:
        """Number of features that count."""
        return int(np.count_nonzero(self.coefficients))


def sparse_fit(
    features: np.ndarray, energies: np.ndarray, groups: np.ndarray, *, always: np.ndarray, kept: np.ndarray
) -> Fit:
    """Fit ``energies`` [n] by ``features`` [n, f]; ``always`` [f] marks those outside the penalty.

    ``groups`` [n] are left out together; rows marked ``kept`` [n] never are (end members: a fit
    without them extrapolates). The features that are always there should span constant and composition.
    Where the data cannot tell features apart, the first of them counts. Raises ValueError for fewer
    than :data:`LEAST_GROUPS` groups that can be left out.
    """
    data = _Data(features, energies, groups, always, kept)
    rows = np.arange(len(energies))
    if data.groups_in(rows) < LEAST_GROUPS:
        raise ValueError(f"cross-validation needs {LEAST_GROUPS} groups or more")
    penalty, error = data.choose(rows)
    coefficients = data.fit(rows, np.array([penalty]))[0]
    held_out = np.full(len(rows), np.nan)
    for train, test in data.folds(rows):
        if data.groups_in(train) >= LEAST_GROUPS:
            inner = data.choose(train)[0]
            held_out[test] = data.features[test] @ data.fit(train, np.array([inner]))[0]
    rest = data.features @ coefficients - data.energies
    return Fit(coefficients, penalty, float(np.sqrt(np.mean(rest**2))), error, held_out)


def groups_of_ions(features: np.ndarray) -> np.ndarray:
    """Return a number [n] for each row, equal where ``features`` [n, f] of the ions alone are equal."""
    return np.unique(features.round(DECIMALS), axis=0, return_inverse=True)[1].ravel()


class _Data:
    def __init__(
        self,
        features: np.ndarray,
        energies: np.ndarray,
        groups: np.ndarray,
        always: np.ndarray,
        kept: np.ndarray,
    ) -> None:
        self.features, self.energies, self.groups, self.kept = features, energies, groups, kept
        self.always, self.penalised = np.flatnonzero(always), np.flatnonzero(~always)
        self.ratios = np.geomspace(1.0, WEAKEST, STRENGTHS)

    def groups_in(self, rows: np.ndarray) -> int:
        """Return the number of groups that can be left out."""
        return len(np.unique(self.groups[rows][~self.kept[rows]]))

    def folds(self, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return rows that fit and rows that judge, whole groups together; the same at every call."""
        from sklearn.model_selection import GroupKFold

        stay, free = rows[self.kept[rows]], rows[~self.kept[rows]]
        split = GroupKFold(min(FOLDS, self.groups_in(rows)))
        return [
            (np.concatenate([stay, free[a]]), free[b])
            for a, b in split.split(free, groups=self.groups[free])
        ]

    def choose(self, rows: np.ndarray) -> tuple[float, float]:
        """Return the penalty with the least error on groups left out, and that error."""
        squares, count = np.zeros(len(self.ratios)), 0
        for train, test in self.folds(rows):
            found = self.fit(train, self.ratios)
            squares += ((self.features[test] @ found.T - self.energies[test, None]) ** 2).sum(axis=0)
            count += len(test)
        best = int(squares.argmin())  # of equal ones the strongest: the fewest features
        return float(self.ratios[best]), float(np.sqrt(squares[best] / count))

    def fit(self, rows: np.ndarray, ratios: np.ndarray) -> np.ndarray:
        """Return coefficients [len(ratios), f] from some rows, for relative penalties in falling order."""
        every, energies = self.features[rows], self.energies[rows]
        base = every[:, self.always]
        basis, sizes, _ = np.linalg.svd(base, full_matrices=False)
        basis = basis[:, sizes > FLAT * sizes[0]]
        rest, live = _told_apart(every[:, self.penalised], basis)
        target = energies - basis @ (basis.T @ energies)
        found = np.zeros((len(ratios), self.features.shape[1]))
        for row, chosen in enumerate(_supports(rest, target, ratios)):
            support = self.penalised[live[chosen]]
            if row and basis.shape[1] + len(support) >= len(rows):
                found[row] = found[row - 1]  # as many features as data: no weaker penalty means anything
                continue
            columns = np.concatenate([self.always, support])
            found[row, columns] = np.linalg.lstsq(every[:, columns], energies, rcond=None)[0]
        return found


def _told_apart(columns: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns [n, k] outside an orthonormal ``basis``, of norm 1, and which they are [k].

    A column that the basis and those before it explain is left out.
    """
    span, rest, live = basis, [], []
    for place, column in enumerate(columns.T):
        outside = column - basis @ (basis.T @ column)
        new = column - span @ (span.T @ column)
        new -= span @ (span.T @ new)  # twice is enough for rounding
        if np.linalg.norm(new) <= FLAT * max(np.linalg.norm(column), 1e-300):
            continue
        span = np.column_stack([span, new / np.linalg.norm(new)])
        rest.append(outside / np.linalg.norm(outside))
        live.append(place)
    return np.array(rest).reshape(len(rest), len(columns)).T, np.array(live, dtype=np.int64)


def _supports(columns: np.ndarray, target: np.ndarray, ratios: np.ndarray) -> list[np.ndarray]:
    """Return the features of the lasso at each relative penalty: exact, from the path's corners."""
    from sklearn.linear_model import lars_path

    nothing = np.empty(0, dtype=np.int64)
    if not columns.shape[1] or np.abs(columns.T @ target).max() <= 1e-12 * np.linalg.norm(target):
        return [nothing] * len(ratios)
    corners, _, path = lars_path(columns, target, method="lasso")
    found = []
    for ratio in ratios:
        penalty = ratio * corners[0]
        # Between two corners every coefficient is linear in the penalty.
        values = [np.interp(-penalty, -corners, row) for row in path]
        found.append(np.flatnonzero(np.abs(values) > 0))
    return found
