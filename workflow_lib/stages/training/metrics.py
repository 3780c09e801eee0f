"""Errors of a trained model on its three sets, with intervals, and the numbers behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workflow_lib.core.intervals import paired_interval
from workflow_lib.frames.frame import Frame

if TYPE_CHECKING:
    from workflow_lib.models.predictor import Prediction

PER_ATOM = ("magmoms", "charges")
REPORTED = {
    "energy": ("meV/atom", 1e3),
    "forces": ("meV/A", 1e3),
    "stress": ("meV/A^3", 1e3),
    "magmoms": ("muB", 1.0),
    "magmoms_redox": ("muB", 1.0),
    "charges": ("e", 1.0),
    "charges_redox": ("e", 1.0),
}
"""Unit and factor of each label in the metrics table; ``_redox`` means the redox sites only."""

SUMMED = ("set", "kind", "label", "state")
COLUMNS = (
    "frame_id",
    "state",
    "set",
    "kind",
    "label",
    "atom",
    "component",
    "redox",
    "dft_value",
    "model_value",
)


def parity_table(
    sets: Mapping[str, tuple[Sequence[Frame], Sequence[Prediction]]],
    redox_z: int,
    state_of: Callable[[Frame], str],
) -> pd.DataFrame:
    """Return one row per number that both DFT and the model give.

    Columns: frame_id, state (``state_of`` a frame, see ``Splits``), set, kind, label, atom (-1:
    whole cell), component (x, y, z, xx..., or empty), redox (whether the atom is a redox site),
    dft, model. Energies are in eV/atom, forces in eV/A, stress in eV/A^3, moments (magnitudes) in
    muB, charges in e. A stress has all nine components, so that its mean is that of the loss.
    """
    parts = [
        part
        for name, (frames, predictions) in sets.items()
        for frame, prediction in zip(frames, predictions, strict=True)
        for part in _rows(frame, prediction, name, redox_z, state_of(frame))
    ]
    table = pd.concat(parts, ignore_index=True)
    return table[list(COLUMNS)]


def _rows(
    frame: Frame, prediction: Prediction, name: str, redox_z: int, state: str
) -> Iterator[pd.DataFrame]:
    n, site = len(frame), np.asarray(frame.numbers) == redox_z

    def rows(
        label: str, dft: np.ndarray, model: np.ndarray, atom: np.ndarray, component: Sequence[str]
    ) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "frame_id": frame.frame_id,
                "state": state,
                "set": name,
                "kind": frame.kind,
                "label": label,
                "atom": atom,
                "component": component,
                "redox": np.where(atom >= 0, site[atom], False),
                "dft_value": np.ravel(dft).astype(float),
                "model_value": np.ravel(model).astype(float),
            }
        )

    whole, each = np.array([-1]), np.arange(n)
    energies = np.array([frame.energy]) / n, np.array([prediction.energy]) / n
    yield rows("energy", *energies, whole, [""])
    if frame.forces is not None:
        yield rows("forces", frame.forces, prediction.forces, np.repeat(each, 3), ["x", "y", "z"] * n)
    if frame.stress is not None and frame.stress_converged and prediction.stress is not None:
        names = [row + column for row in "xyz" for column in "xyz"]
        yield rows("stress", frame.stress, prediction.stress, np.repeat(whole, 9), names)
    for label in PER_ATOM:
        dft, model = getattr(frame, label), getattr(prediction, label)
        if dft is None or model is None:
            continue
        if label == "magmoms":  # magnitudes: see loss.residuals
            dft, model = np.abs(dft), np.abs(model)
        yield rows(label, dft, model, each, [""] * n)


def error_sums(parity: pd.DataFrame) -> pd.DataFrame:
    """Return sums of absolute and square errors, and their number, by set, kind, label and state.

    All that :func:`metrics_table` needs; those of two tables may be joined. ``<label>_redox`` counts
    the redox sites only. An error that is not a finite number makes its sums infinite.
    """
    redox = parity[parity["redox"] & parity["label"].isin(PER_ATOM)]
    redox = redox.assign(label=redox["label"] + "_redox")
    table = pd.concat([parity, redox], ignore_index=True)
    error = table["model_value"] - table["dft_value"]
    error = error.where(np.isfinite(error), np.inf)  # a sum passes over NaN as if it were no error
    table = table[[*SUMMED]].assign(absolute=error.abs(), square=error**2, count=1)
    return table.groupby([*SUMMED], sort=False, as_index=False).sum()


def metrics_table(sums: pd.DataFrame) -> pd.DataFrame:
    """Return MAE and RMSE by set, kind of frame and label, with 95 % intervals over states.

    ``sums``: rows of :func:`error_sums`, of one table or several joined. Columns: set, kind (``all``
    and each kind), label, metric, value, low, high, count, states, unit. The interval is that of Student
    for the means of the states, as neither the numbers of one frame nor the frames of one state are
    independent: see ``intervals.paired_interval``. With fewer than three states, or states that are all
    alike, there is no interval. Where an error is not finite, value and interval are NaN.
    """
    rows = []
    for name in sums["set"].unique():
        in_set = sums[sums["set"] == name]
        for kind in ("all", *sorted(in_set["kind"].unique())):
            of_kind = in_set if kind == "all" else in_set[in_set["kind"] == kind]
            for label, (unit, factor) in REPORTED.items():
                chosen = of_kind[of_kind["label"] == label]
                if chosen.empty:
                    continue
                for metric, value, low, high in _intervals(chosen):
                    rows.append(
                        {
                            **{"set": name, "kind": kind, "label": label, "metric": metric},
                            **{"value": factor * value, "low": factor * low, "high": factor * high},
                            **{"count": int(chosen["count"].sum()), "states": chosen["state"].nunique()},
                            "unit": unit,
                        }
                    )
    return pd.DataFrame(rows)


def _intervals(sums: pd.DataFrame) -> Iterator[tuple[str, float, float, float]]:
    """Yield MAE and RMSE with the bounds of their intervals, NaN where there are none."""
    states = sums.groupby("state", sort=True, as_index=False)[["absolute", "square", "count"]].sum()
    rows = states[["state"]].assign(weight=states["count"], fold=0, training=0)
    for metric, column, root in (("mae", "absolute", 1.0), ("rmse", "square", 0.5)):
        interval = paired_interval(rows.assign(difference=states[column] / states["count"]))
        # Of three states the lower end may lie below zero, where no error does.
        value, low, high = np.clip(np.array(interval[:3], dtype=float), 0, None) ** root
        yield metric, float(value), float(low), float(high)
