"""How far a model's hull and voltage are from DFT's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from workflow_lib.lattice.arrangement import StateKey


def lowest(table: pd.DataFrame) -> pd.Series:
    """Return the lowest formation energy of each composition, indexed by x rounded to 9 digits."""
    return table["formation_mev_fu"].groupby(table["x"].round(9)).min()


def _gaps(model: pd.DataFrame, reference: pd.DataFrame, energy: str) -> pd.Series:
    """Return the model's lowest ``energy`` minus DFT's at each composition, in order of x (9 digits).

    Only where the model has an energy of the state that DFT finds lowest: a model that has lost it
    (diverged or moved) has the minimum of other states, and would be better for every low energy lost.
    """
    own, best = (
        table.assign(x=table["x"].astype(float).round(9))
        .sort_values(energy, kind="stable")
        .drop_duplicates("x")
        .set_index("x")
        for table in (model, reference)
    )
    best = best[best["state_key"].isin(model["state_key"])]
    return (own[energy] - best[energy]).dropna().sort_index()


def hull_error(model: pd.DataFrame, reference: pd.DataFrame) -> tuple[float | None, int]:
    """Return the mean difference of lowest formation energies in meV per formula unit and the number of x.

    Both tables hold ``x``, ``state_key`` and ``formation_mev_fu``, each relative to its own end members.
    Only compositions between the end members count, because at the ends both are zero by definition, and
    only those at which the model has an energy of DFT's lowest state. The mean is None if there is no
    such composition.
    """
    gap = _gaps(model, reference, "formation_mev_fu").abs()
    inside = gap[(gap.index > 0) & (gap.index < 1)]
    return (float(inside.mean()) if len(inside) else None), len(inside)


def step_voltage_error(model: pd.DataFrame, reference: pd.DataFrame, charge: int) -> float | None:
    """Return the mean error of the voltage steps between neighbouring compositions, in mV.

    A step is the voltage between the lowest states of two neighbouring compositions at which the model has
    an energy of DFT's lowest state, on the hull or not: V = -[E(x2) - E(x1) - (x2 - x1) E(metal)] /
    [z (x2 - x1)] with E per mobile site and z = ``charge``, the formal charge of the ion, below zero for an
    anion. The metal drops out of the difference. Unlike the average voltage, whose error is that of the end
    members alone, this one depends on every composition. None with fewer than two of them.
    """
    own, known = (
        table.assign(ev_site=table["energy_ev"].astype(float) / table["sites"].astype(float))
        for table in (model, reference)
    )
    gap = _gaps(own, known, "ev_site")
    if len(gap) < 2:
        return None
    x = gap.index.to_numpy(dtype=float)
    return float(1000 * np.abs(np.diff(gap.to_numpy()) / np.diff(x)).mean() / abs(charge))


def known_energies(reference: pd.DataFrame, smallest: Mapping[str, str]) -> pd.Series:
    """Return DFT's lowest formation energies by key, of states and of ions alone.

    An arrangement that names no charge order, of a charge-blind model, is held against the lowest order
    that DFT knows on its ions. ``smallest``: the key of the smallest cell of each state and arrangement of
    ions (see ``lattice.orientation``): DFT may know in another cell what a search found.
    """
    energies, keys = reference["formation_mev_fu"], reference["state_key"]
    ions = keys.map(lambda key: smallest[StateKey.parse(key).ion_key])
    known = pd.concat([energies.groupby(own).min() for own in (keys.map(smallest), ions)])
    return known[~known.index.duplicated()]


def found_error(
    found: pd.DataFrame, reference: pd.DataFrame, smallest: Mapping[str, str]
) -> tuple[float | None, int]:
    """Return the mean absolute error of arrangements that a search found and DFT knows, and their number.

    Of formation energies in meV per formula unit, each relative to its own end members (Fig. 1 of
    arXiv:2603.26471). The end members do not count. What DFT knows of an arrangement, and ``smallest``:
    see :func:`known_energies`. None without any.
    """
    inside = found[found["x"].between(0, 1, inclusive="neither") & found["formation_mev_fu"].notna()]
    own = inside.groupby(inside["state_key"].map(smallest))["formation_mev_fu"].min()
    gap = (own - known_energies(reference, smallest).reindex(own.index)).dropna().abs()
    return (float(gap.mean()) if len(gap) else None), len(gap)


def spread(values: pd.Series) -> tuple[float, float, int]:
    """Return mean, sample standard deviation (NaN for one value) and number of the finite values."""
    known = values.dropna().astype(float)
    deviation = float(known.std(ddof=1)) if len(known) > 1 else float("nan")
    return (float(known.mean()) if len(known) else float("nan")), deviation, len(known)


def summarise(scores: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return mean and spread of score columns over the folds and seeds of each (model, variant).

    Hull and voltage steps: of the trainings that have an energy of DFT's lowest state at every composition,
    because a mean over fewer may be smaller for having lost one; ``*_count`` says how many these are.
    """
    whole = scores["compositions"] == scores["compositions_dft"]
    means = ["hull_mae_mev_fu", "step_voltage_mae_mv"]
    scores = scores.assign(**{name: scores[name].where(whole) for name in means})
    rows = []
    names = ["model", "family", "variant"]
    for key, group in scores.groupby(names, sort=True, dropna=False):
        row: dict[str, object] = dict(zip(names, key, strict=True))
        for column in columns:
            row[f"{column}_mean"], row[f"{column}_std"], row[f"{column}_count"] = spread(group[column])
        rows.append(row)
    return pd.DataFrame(rows)
