"""What a change does to errors: differences number by number, with their 95 % intervals.

Two models are held against the same DFT numbers, so their errors are compared one by one. The errors
within one structure's state resemble each other, as do those of one fold, whose trainings share their
training and test sets; the interval allows for both. Of fewer than three folds nothing can be said of
other training sets: the interval is then given those of the run, and says so.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

LEAST_TRAININGS = 3
"""Below this number of trainings an interval does not contain what chance does to a training."""
LEAST_CLUSTERS = 3
"""Fewer states, folds or trainings than this give no variance."""
CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean with its confidence interval (None: too few clusters)."""

    mean: float
    low: float | None
    high: float | None


def paired_interval(differences: pd.DataFrame) -> Interval:
    """Return the weighted mean of ``difference`` and its interval, clustered by state and by fold.

    Columns: ``difference``, ``weight``, ``state``, ``fold``, ``training``. The variance is that of
    Cameron, Gelbach and Miller (J. Bus. Econ. Stat. 29, 238, 2011): by state plus by fold minus by both,
    never below the larger of the two. Seeds of one fold are no independent trainings, so they count only
    where there are fewer than :data:`LEAST_CLUSTERS` folds: trainings then stand in the place of folds,
    and the interval is given the training sets. Of states or trainings fewer than
    :data:`LEAST_CLUSTERS` the part is missing. The quantile is Student's for the smaller number of
    clusters less one.
    """
    from scipy.stats import t

    value, weight = (differences[name].to_numpy(float) for name in ("difference", "weight"))
    share = weight / weight.sum()
    mean = float((share * value).sum())
    residual = pd.Series(share * (value - mean), index=differences.index)

    def variance(by: list[str]) -> float:
        sums = residual.groupby([differences[name] for name in by]).sum().to_numpy()
        return float((sums**2).sum() * len(sums) / (len(sums) - 1))

    chance = "fold" if differences["fold"].nunique() >= LEAST_CLUSTERS else "training"
    counts = {name: int(differences[name].nunique()) for name in ("state", chance)}
    clustered = [name for name, count in counts.items() if count >= LEAST_CLUSTERS]
    if not clustered:
        return Interval(mean, None, None)
    parts = [variance([name]) for name in clustered]
    both = variance(clustered) if len(clustered) > 1 else 0.0
    freedom = min(counts[name] for name in clustered) - 1
    half = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * np.sqrt(max(sum(parts) - both, *parts))
    return Interval(mean, mean - half, mean + half)


def contrast(matched: pd.DataFrame) -> dict[str, object]:
    """Return the mean errors without and with a change, their difference, its interval and what it decides.

    ``matched``: one row for each DFT number and training, with ``error_without``, ``error_with``,
    ``state``, ``fold`` and ``training``. ``difference`` is with minus without, in the unit of the errors:
    below zero the change helps. ``decided``: the interval excludes zero, and there are
    :data:`LEAST_TRAININGS` trainings or more; else ``reason`` says what is missing. With fewer than
    :data:`LEAST_CLUSTERS` folds ``reason`` says, decided or not, that the interval is given their
    training sets.
    """
    groups = matched.groupby(["state", "fold", "training"])
    units = groups[["error_without", "error_with"]].mean().assign(weight=groups.size()).reset_index()
    units = units.assign(difference=units["error_with"] - units["error_without"])
    interval = paired_interval(units)
    trainings, folds, states = (units[name].nunique() for name in ("training", "fold", "state"))
    clear = interval.low is not None and interval.high is not None and interval.low * interval.high > 0
    decided = bool(clear and trainings >= LEAST_TRAININGS)
    if trainings < LEAST_TRAININGS:
        reason = f"trained {trainings} time{'s' if trainings > 1 else ''}"
    else:
        given = (
            f"given the training set{'s' if folds > 1 else ''} of {folds} fold{'s' if folds > 1 else ''}"
        )
        parts = ["" if clear else "zero lies within the interval", given if folds < LEAST_CLUSTERS else ""]
        reason = ", ".join(filter(None, parts))
    return {
        "trainings": trainings,
        "states": states if states > 1 else None,
        "error_without": matched["error_without"].mean(),
        "error_with": matched["error_with"].mean(),
        "difference": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "decided": decided,
        "reason": reason or None,
    }
