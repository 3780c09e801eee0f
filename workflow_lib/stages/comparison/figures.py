"""The comparison table as a figure: one panel per metric, one row per model and variant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workflow_lib.core.io import save_figure
from workflow_lib.core.plotting import style
from workflow_lib.models.identity import EWALD, look_of, model_colours

HELD_OUT = (
    "Energies, forces, Spearman and silhouette: held-out states; spread, hull and voltage: all states"
)


def _panels(couple: str, compared_x: float) -> tuple[tuple[str, str, float | None], ...]:
    """Return, for each panel, its column, its axis title, and the value of DFT itself (a dashed line)."""
    return (
        ("energy_mae_mev_atom", "energy MAE\n(meV/atom)", None),
        ("force_mae_mev_a", "force MAE\n(meV/Å)", None),
        ("states_spearman", f"Spearman, unseen\nstates at x = {compared_x:g}", 1.0),
        ("redox_spread_ratio", "redox spread\nmodel / DFT", 1.0),
        ("hull_mae_mev_fu", "hull MAE\n(meV/f.u.)", None),
        ("step_voltage_mae_mv", "voltage steps MAE\n(mV)", None),
        ("redox_silhouette", f"silhouette of\n{couple}", None),
    )


def _order(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return (model, variant) pairs in the order of the table, Ewald last."""
    pairs = list(dict.fromkeys(zip(table["model"], table["variant"], strict=True)))
    return [p for p in pairs if p[0] != EWALD] + [p for p in pairs if p[0] == EWALD]


def comparison_figure(
    table: pd.DataFrame, stem: Path, *, couple: str, compared_x: float, seen: bool = False
) -> None:
    """Draw ``<stem>.svg`` and ``.png``: a dot per trained model, a bar over folds and seeds.

    ``couple`` names the charge states, ``compared_x`` the composition whose states are ranked. ``seen``
    says whether models know states of their held-out frames from other frames.
    """
    style()
    import matplotlib.pyplot as plt

    pairs, shown = _order(table), _panels(couple, compared_x)
    colours = model_colours(model for model, _ in pairs)
    places = np.arange(len(pairs))[::-1]
    figure, axes = plt.subplots(
        1, len(shown), figsize=(12.5, 1.5 + 0.27 * len(pairs)), sharey=True, squeeze=False
    )
    for axis, (column, title, ideal) in zip(axes[0], shown, strict=True):
        for place, (model, variant) in zip(places, pairs, strict=True):
            rows = table[(table["model"] == model) & (table["variant"] == variant)]
            values = pd.to_numeric(rows[column]).dropna().to_numpy(dtype=float)
            _draw(axis, values, place, colour=colours[model], marker=look_of(variant).marker)
            if column == "redox_silhouette":
                untrained = pd.to_numeric(rows["redox_silhouette_untrained"]).dropna()
                if len(untrained):
                    axis.plot(untrained.mean(), place, marker="|", ms=9, color="#000000", mew=1.2)
        if ideal is not None:
            axis.axvline(ideal, color="#000000", lw=0.8, ls="--")
        axis.set_xlabel(title)
        axis.margins(x=0.12)
        if column.endswith(("_atom", "_a", "_fu", "_mv")):
            # Errors start at zero; leave room on the right so that the largest is not cut off.
            axis.set_xlim(0, 1.1 * np.fmax(pd.to_numeric(table[column]).max(), 1e-9))
    axes[0][0].set_yticks(places, [f"{model} · {variant}" for model, variant in pairs])
    axes[0][0].set_ylim(-0.7, len(pairs) - 0.3)
    several = bool(table.groupby(["model", "variant"]).size().max() > 1)
    seeds = pd.to_numeric(table["seed"]).nunique()
    spread = "" if seeds > 1 else " One seed: differences may be chance, see contrasts.csv."
    figure.suptitle(
        f"{'Held-out frames of states that also train' if seen else HELD_OUT}.\n"
        f"One mark for each trained model{', bars: mean over folds and seeds' if several else ''}. "
        f"Dashed: DFT. Tick in the last panel: untrained network.{spread}"
    )
    save_figure(figure, stem)


def _draw(axis: Any, values: np.ndarray, place: float, *, colour: str, marker: str) -> None:
    if not len(values):
        axis.text(0.03, place, "none", va="center", color="#767676", transform=axis.get_yaxis_transform())
        return
    axis.plot(values, np.full(len(values), place), ls="", marker=marker, color=colour, ms=5, alpha=0.75)
    if len(values) > 1:
        axis.plot([values.mean()] * 2, [place - 0.3, place + 0.3], color=colour, lw=1.5)
