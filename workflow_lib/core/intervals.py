"""What a change does to errors: differences number by number, with their 95 % intervals.

Two models are held against the same DFT numbers, so their errors are compared one by one. The errors
within one structure's state resemble each other, as do those of one fold, whose trainings share their
training and test sets; the interval allows for both, and for the frames that training sets of different
folds share. Of fewer than three folds nothing can be said of
other training sets: the interval is then given those of the run, and says so. Of twenty differences that
are nothing but chance one has an interval without zero, so what a whole table decides is asked of its
rows together (:func:`decide`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

LEAST_TRAININGS = 3
"""Below this number of trainings an interval does not contain what chance does to a training."""
LEAST_CLUSTERS = 3
"""Fewer states, folds or trainings than this give no variance."""
CONFIDENCE = 0.95
ROUNDING = 1e-9
"""Differences that differ by less than this share of their mean have no spread."""
GIVEN = "given the training set"
"""In the reason of every row whose interval does not hold what other training sets would change."""


class Interval(NamedTuple):
    """A mean, its confidence interval and its two-sided p-value against zero.

    None: too few clusters, differences without any spread, which is copies of one answer, or, with a
    mean of NaN, a difference that is not finite.
    """

    mean: float
    low: float | None
    high: float | None
    p_value: float | None


def tested_to_trained(frames: Mapping[str, int]) -> float:
    """Return how many frames a training is tested on for each one that it learns from or is judged by.

    ``frames``: number of frames of the sets ``train``, ``validation`` and ``test``, as a card has it.
    """
    return frames["test"] / (frames["train"] + frames["validation"])


def paired_interval(differences: pd.DataFrame, ratio: float = 0.0) -> Interval:
    """Return the weighted mean of ``difference`` and its interval, clustered by state and by fold.

    Columns: ``difference``, ``weight``, ``state``, ``fold``, ``training``. The variance is that of
    Cameron, Gelbach and Miller (J. Bus. Econ. Stat. 29, 238, 2011): by state plus by fold minus by both,
    never below the larger of the two. Seeds of one fold are no independent trainings, so they count only
    where there are fewer than :data:`LEAST_CLUSTERS` folds: trainings then stand in the place of folds,
    and the interval is given the training sets. Of states or trainings fewer than
    :data:`LEAST_CLUSTERS` the part is missing. The quantile is Student's for the smaller number of
    clusters less one.

    ``ratio``: frames tested over frames trained on in a fold. The training sets of folds overlap, so that
    what varies between k folds is too small: their variance counts 1 + k times this ratio as much (Nadeau
    and Bengio, Mach. Learn. 52, 239, 2003).
    """
    from scipy.stats import t

    value, weight = (differences[name].to_numpy(float) for name in ("difference", "weight"))
    if not np.isfinite(value).all():  # sums by cluster would pass over it
        return Interval(float("nan"), None, None, None)
    share = weight / weight.sum()
    mean = float((share * value).sum())
    if mean and np.ptp(value) <= ROUNDING * abs(mean):
        # No chance was seen, which does not say that there is none.
        return Interval(mean, None, None, None)
    residual = pd.Series(share * (value - mean), index=differences.index)

    def variance(by: list[str]) -> float:
        sums = residual.groupby([differences[name] for name in by]).sum().to_numpy()
        return float((sums**2).sum() * len(sums) / (len(sums) - 1))

    chance = "fold" if differences["fold"].nunique() >= LEAST_CLUSTERS else "training"
    counts = {name: int(differences[name].nunique()) for name in ("state", chance)}
    clustered = [name for name, count in counts.items() if count >= LEAST_CLUSTERS]
    if not clustered:
        return Interval(mean, None, None, None)
    overlap = {"fold": 1 + counts.get("fold", 0) * ratio}
    parts = [overlap.get(name, 1.0) * variance([name]) for name in clustered]
    both = variance(clustered) if len(clustered) > 1 else 0.0
    freedom = min(counts[name] for name in clustered) - 1
    error = float(np.sqrt(max(sum(parts) - both, *parts)))
    half = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    p_value = 2 * float(t.sf(abs(mean) / error, freedom)) if error else float(mean == 0)
    return Interval(mean, mean - half, mean + half, p_value)


def contrast(matched: pd.DataFrame) -> dict[str, object]:
    """Return the mean errors without and with a change, their difference, its interval and its p-value.

    ``matched``: one row for each DFT number and training, with ``error_without``, ``error_with``,
    ``state``, ``fold``, ``training`` and ``tested_to_trained``. ``difference`` is with minus without, in
    the unit of the errors: below zero the change helps. What the rows of a table decide: :func:`decide`.
    Where an error is not finite its mean and the difference are NaN, and ``reason`` says so.
    """
    both = ["error_without", "error_with"]
    lost = [name for name in both if not np.isfinite(matched[name].to_numpy(float)).all()]
    matched = matched.assign(**dict.fromkeys(lost, np.nan))  # means would be those of the other numbers
    groups = matched.groupby(["state", "fold", "training"])
    units = groups[both].mean().assign(weight=groups.size()).reset_index()
    units = units.assign(difference=units["error_with"] - units["error_without"])
    interval = paired_interval(units, float(matched["tested_to_trained"].mean()))
    states = units["state"].nunique()
    reason = {"reason": "an error is not finite"} if lost else {}
    return {
        "trainings": units["training"].nunique(),
        "folds": units["fold"].nunique(),
        "states": states if states > 1 else None,
        "error_without": matched["error_without"].mean(),
        "error_with": matched["error_with"].mean(),
        "difference": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "p_value": interval.p_value,
        **reason,
    }


def decide(table: pd.DataFrame, family: list[str]) -> pd.DataFrame:
    """Return a table of contrasts with ``p_together``, ``decided`` and ``reason``.

    ``family``: columns; rows that agree in them answer one question together. ``p_together`` is the p-value
    after Holm (Scand. J. Stat. 6, 65, 1979) over the rows of a family that have :data:`LEAST_TRAININGS`
    trainings or more: all that is decided in a family is right with 95 % confidence. ``decided``:
    ``p_together`` is below 5 %; else ``reason`` says what is missing. With fewer than
    :data:`LEAST_CLUSTERS` folds ``reason`` says, decided or not, that the interval is given their training
    sets. A reason that a row has already is kept, and nothing is decided by that row.
    """
    table = table.assign(p_together=np.nan)
    if "reason" not in table:
        table = table.assign(reason=None)
    counted = (table["trainings"] >= LEAST_TRAININGS) & table["p_value"].notna() & table["reason"].isna()
    for _, rows in table[counted].groupby(family, sort=False):
        ordered = rows["p_value"].astype(float).sort_values()
        left = np.arange(len(ordered), 0, -1)
        together = np.minimum(1, np.maximum.accumulate(ordered.to_numpy() * left))
        table["p_together"] = table["p_together"].fillna(pd.Series(together, index=ordered.index))
    sizes = table[counted].groupby(family)["p_value"].transform("size").reindex(table.index)
    table["decided"] = table["p_together"] < 1 - CONFIDENCE
    reasons = [
        row["reason"] if isinstance(row["reason"], str) else _reason(row, size)
        for (_, row), size in zip(table.iterrows(), sizes, strict=True)
    ]
    return table.assign(reason=pd.Series(reasons, index=table.index, dtype=object))


def _reason(row: pd.Series, size: float) -> str | None:
    """Return why a row decides nothing, and that its interval is given the training sets, if it is."""
    trainings, folds = int(row["trainings"]), int(row["folds"])
    if trainings < LEAST_TRAININGS:
        return f"trained {trainings} time{'s' if trainings > 1 else ''}"
    parts = []
    if pd.isna(row["low"]):
        parts.append("the differences have no spread")
    elif row["low"] <= 0 <= row["high"]:
        parts.append("zero lies within the interval")
    elif not row["decided"]:
        parts.append(f"may be chance as one of {int(size)} differences")
    if folds < LEAST_CLUSTERS:
        parts.append(f"{GIVEN}{'s' if folds > 1 else ''} of {folds} fold{'s' if folds > 1 else ''}")
    return ", ".join(parts) or None
