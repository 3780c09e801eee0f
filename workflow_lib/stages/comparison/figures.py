"""The comparison table as a figure: one panel per metric, one row per model and variant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workflow_lib.core.io import save_figure
from workflow_lib.core.plotting import style
from workflow_lib.models.identity import EWALD, EWALD_FITTED, look_of, model_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OVER_COMPOSITIONS = ("hull_mae_mev_fu", "step_voltage_mae_mv")
"""Means over compositions: of fewer than DFT has they are no part of a mean over trainings."""
HELD_OUT = "Energies, forces and Spearman: held-out states; spread, hull and voltage: all states"


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

    Hollow, and in no bar: a mean over fewer compositions than DFT has, as in ``contrasts.csv``.
    ``couple`` names the charge states, ``compared_x`` the composition whose states are ranked. ``seen``
    says whether models know states of their held-out frames from other frames.
    """
    style()
    import matplotlib.pyplot as plt

    pairs, shown = _order(table), _panels(couple, compared_x)
    # Whole numbers with missing ones compare to a missing answer.
    has, dft = (pd.to_numeric(table[name]).astype(float) for name in ("compositions", "compositions_dft"))
    short = has < dft
    colours = model_colours(model for model, _ in pairs)
    places = np.arange(len(pairs))[::-1]
    figure, axes = plt.subplots(
        1, len(shown), figsize=(12.5, 1.5 + 0.27 * len(pairs)), sharey=True, squeeze=False
    )
    for axis, (column, title, ideal) in zip(axes[0], shown, strict=True):
        for place, (model, variant) in zip(places, pairs, strict=True):
            if model == EWALD and column == EWALD_FITTED:
                _word(axis, place, "fitted")
                continue
            rows = table[(table["model"] == model) & (table["variant"] == variant)]
            values = pd.to_numeric(rows[column]).dropna()
            hollow = short[values.index].to_numpy() & (column in OVER_COMPOSITIONS)
            _draw(axis, values.to_numpy(float), hollow, place, colours[model], look_of(variant).marker)
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
    if table.loc[short, list(OVER_COMPOSITIONS)].notna().any(axis=None):
        spread += "\nHollow, in no bar: no energy of DFT's lowest state at a composition."
    figure.suptitle(
        f"{'Held-out frames of states that also train' if seen else HELD_OUT}"
        f"{silhouette_states(table)}.\n"
        f"One mark for each trained model{', bars: mean over folds and seeds' if several else ''}. "
        f"Dashed: DFT. Tick in the last panel: before training here (shipped weights, if pretrained)."
        f"{spread}"
    )
    save_figure(figure, stem)


def silhouette_states(table: pd.DataFrame) -> str:
    """Return of which states' atoms the silhouettes are, as the end of a sentence."""
    of = table.dropna(subset=["redox_silhouette"])
    all_states = of.loc[of["redox_states"] == "all", "model"].drop_duplicates().tolist()
    if of.empty or set(of["redox_states"]) == {"held_out"}:
        return "; silhouette: held-out states" if len(of) else ""
    if set(of["redox_states"]) == {"all"}:
        return "; silhouette: all states"
    return f"; silhouette: held-out states, but all of {', '.join(all_states)}"


def _word(axis: Axes, place: float, word: str) -> None:
    axis.text(0.03, place, word, va="center", color="#767676", transform=axis.get_yaxis_transform())


def _draw(
    axis: Axes, values: np.ndarray, hollow: np.ndarray, place: float, colour: str, marker: str
) -> None:
    if not len(values):
        _word(axis, place, "none")
        return
    for some, face in ((values[~hollow], colour), (values[hollow], "none")):
        axis.plot(some, [place] * len(some), ls="", marker=marker, color=colour, mfc=face, ms=5, alpha=0.75)
    if np.count_nonzero(~hollow) > 1:
        axis.plot([values[~hollow].mean()] * 2, [place - 0.3, place + 0.3], color=colour, lw=1.5)
