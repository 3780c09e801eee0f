"""How far a model's hull and voltage are from DFT's."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd


class HullError(NamedTuple):
    """Mean distance between lowest formation energies, meV per formula unit.

    ``mae`` over all shared compositions, end members (zero by definition) among them; ``interior``
    without them (None where there are no others); ``compositions`` counts the shared ones.
    """

    mae: float
    interior: float | None
    compositions: int


def lowest(table: pd.DataFrame) -> pd.Series:
    """Lowest formation energy of each composition, indexed by x rounded to 9 digits."""
    return table["formation_mev_fu"].groupby(table["x"].round(9)).min()


def hull_error(model: pd.DataFrame, reference: pd.DataFrame) -> HullError:
    """Mean over x of |min E_f(model) - min E_f(DFT)|, at compositions that both have.

    Both tables hold ``x`` and ``formation_mev_fu``; each is relative to its own end members.
    """
    gap = (lowest(model) - lowest(reference)).dropna().abs()
    inside = gap[(gap.index > 0) & (gap.index < 1)]
    return HullError(float(gap.mean()), float(inside.mean()) if len(inside) else None, len(gap))


def spread(values: pd.Series) -> tuple[float, float, int]:
    """Mean, sample standard deviation (NaN for one value) and number of finite values."""
    known = values.dropna().astype(float)
    deviation = float(known.std(ddof=1)) if len(known) > 1 else float("nan")
    return (float(known.mean()) if len(known) else float("nan")), deviation, len(known)


def summarise(scores: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Mean and spread of score columns over the folds and seeds of each (model, variant)."""
    rows = []
    for (model, variant), group in scores.groupby(["model", "variant"], sort=True, dropna=False):
        row: dict[str, object] = {"model": model, "variant": variant}
        for column in columns:
            row[f"{column}_mean"], row[f"{column}_std"], row[f"{column}_count"] = spread(group[column])
        rows.append(row)
    return pd.DataFrame(rows)
