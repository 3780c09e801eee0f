"""How well embeddings separate the two charge states, in numbers, and their principal components.

All functions take ``features`` [n_atoms, d] (float) and ``states`` [n_atoms], the formal oxidation
states from DFT. Features are standardised (mean 0, standard deviation 1 over the atoms given);
those that vary by no more than rounding are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from workflow_lib.core.errors import UserError

ROUNDING = 1e-6
"""Variation below this fraction of a feature's size is float32 noise, which must not be blown up to
unit deviation."""


def informative(features: np.ndarray) -> np.ndarray:
    """Return the mask [d] of the features that vary by more than rounding."""
    return features.std(axis=0) > ROUNDING * np.abs(features).max(axis=0)


def _require_variation(values: np.ndarray) -> np.ndarray:
    keep = informative(values)
    if not keep.any():
        raise UserError("the node embeddings of all redox atoms are identical; nothing can be separated")
    return keep


def standardised(features: np.ndarray) -> np.ndarray:
    """Return the informative features at mean 0 and standard deviation 1; UserError if there is none."""
    values = np.asarray(features, dtype=float)
    return StandardScaler().fit_transform(values[:, _require_variation(values)])


def require_two_states(states: np.ndarray, where: str) -> None:
    """Raise UserError unless both charge states occur."""
    found = np.unique(states)
    if len(found) != 2:
        names = ", ".join(f"{state}+" for state in found) or "none"
        raise UserError(
            f"{where}: the redox atoms show {len(found)} of two charge states ({names}); their separation "
            "needs both: add frames of the other"
        )


def silhouette(features: np.ndarray, states: np.ndarray, *, most: int, seed: int, where: str) -> float:
    """Return the mean silhouette of the two charge states, -1 to 1 (Rousseeuw, 1987).

    Source: J. Comput. Appl. Math. 20, 53 (1987). If there are more than ``most`` atoms, a random
    sample of ``most`` drawn with ``seed`` represents them.
    """
    require_two_states(states, where)
    if len(states) > most:
        chosen = np.sort(np.random.default_rng(seed).choice(len(states), most, replace=False))
        features, states = features[chosen], states[chosen]
        require_two_states(states, where)
    return float(silhouette_score(standardised(features), states))


def out_of_fold(
    features: np.ndarray,
    states: np.ndarray,
    groups: np.ndarray,
    *,
    folds: int,
    penalty: float,
    where: str,
) -> np.ndarray:
    """Return the charge state [n_atoms] that a linear classifier predicts without knowing an atom's group.

    Logistic regression on standardised features with an L2 penalty (``penalty`` is scikit-learn's
    C), cross-validated over ``groups``: all atoms of one charge-ordered state are left out
    together, so that recognising a known state does not help. Raises UserError if there is only one
    charge state or one group, or if there are so few groups that a training part holds only one
    charge state.
    """
    require_two_states(states, where)
    names, indices = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise UserError(f"{where}: all atoms are of {names[0]}; cross-validation by state needs two states")
    values = np.asarray(features, dtype=float)
    values = values[:, _require_variation(values)]
    predicted = np.empty_like(states)
    for train, test in GroupKFold(n_splits=min(folds, len(names))).split(values, states, indices):
        require_two_states(states[train], f"{where}, without {', '.join(np.unique(groups[test]))}")
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=10000))
        predicted[test] = classifier.fit(values[train], states[train]).predict(values[test])
    return predicted


@dataclass(frozen=True, slots=True)
class Components:
    """Principal components of one model's standardised features.

    ``explained`` [k] is the fraction of the variance; axes beyond the dimension of the data are
    zero.
    """

    scaler: StandardScaler
    keep: np.ndarray
    axes: np.ndarray
    explained: np.ndarray

    def project(self, features: np.ndarray) -> np.ndarray:
        """Return the coordinates [n_atoms, k] of features of the same network."""
        values = self.scaler.transform(np.asarray(features, dtype=float)[:, self.keep])
        return values @ self.axes.T


def principal_components(features: np.ndarray, states: np.ndarray, *, count: int) -> Components:
    """Fit ``count`` components with fixed signs.

    The first component points from the lower to the higher charge state (by their means); each of
    the others has a positive largest loading.
    """
    values = np.asarray(features, dtype=float)
    keep = _require_variation(values)
    scaler = StandardScaler().fit(values[:, keep])
    standard = scaler.transform(values[:, keep])
    pca = PCA(n_components=min(count, *standard.shape), svd_solver="full").fit(standard)
    axes = np.zeros((count, standard.shape[1]))
    axes[: pca.n_components_] = pca.components_
    explained = np.zeros(count)
    explained[: pca.n_components_] = pca.explained_variance_ratio_
    largest = np.abs(axes).argmax(axis=1)
    sign = np.where(axes[np.arange(count), largest] < 0, -1.0, 1.0)
    first = standard @ axes[0]
    gap = first[states == states.max()].mean() - first[states == states.min()].mean()
    sign[0] = -1.0 if gap < 0 else 1.0
    return Components(scaler, keep, axes * sign[:, None], explained)


def separation(
    features: np.ndarray,
    states: np.ndarray,
    groups: np.ndarray,
    held_out: np.ndarray,
    *,
    folds: int,
    penalty: float,
    most: int,
    min_atoms: int,
    seed: int,
    where: str,
) -> dict[str, dict[str, Any] | None]:
    """Return silhouette and accuracy over ``all`` atoms and over those of ``held_out`` [n_atoms] states.

    The classifier is the same for both: every atom is judged by one that was fitted without its
    state, and accuracies are taken over the atoms in question. ``chance`` is the accuracy of always
    predicting the more common charge state. ``held_out`` is None if it has fewer than ``min_atoms``
    atoms of a charge state.
    """
    predicted = out_of_fold(features, states, groups, folds=folds, penalty=penalty, where=where)
    scores: dict[str, dict[str, Any] | None] = {}
    for name, chosen in (("all", np.ones(len(states), dtype=bool)), ("held_out", held_out)):
        own = states[chosen]
        counts = [int(np.count_nonzero(own == state)) for state in np.unique(states)]
        if name == "held_out" and min(counts) < min_atoms:
            scores[name] = None
            continue
        scores[name] = {
            "silhouette": silhouette(features[chosen], own, most=most, seed=seed, where=where),
            "accuracy": float(np.mean(predicted[chosen] == own)),
            "chance": max(counts) / len(own),
            "atoms": {str(s): n for s, n in zip(np.unique(states), counts, strict=True)},
            "states": len(np.unique(groups[chosen])),
        }
    return scores
