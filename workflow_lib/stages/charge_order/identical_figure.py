"""Figure of the charge orders on identical atoms, one panel per model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from workflow_lib.core.io import save_figure
from workflow_lib.core.plotting import COLOUR_DFT, SMALL, panel_shape, style
from workflow_lib.models.identity import look_of, model_colours, variants_in

MOST_COLUMNS = 4
TRAINS = ("train", "validation")


def identical_figure(orders: pd.DataFrame, scores: pd.DataFrame, out: Path) -> None:
    """Draw the energies of the orders about their mean, model against DFT: ``identical.{svg,png}``.

    ``orders`` and ``scores`` are as ``run_identical`` writes them. Hollow: a state that also
    trains, filled: one that does not; the diagonal is DFT, the horizontal line is the result of a
    charge-blind model.
    """
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    style()
    names = list(dict.fromkeys(orders["model"]))
    colours = model_colours(names)
    rows, columns = panel_shape(len(names), MOST_COLUMNS)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(2.6 * columns + 0.6, 2.5 * rows + 0.9),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    low, high = orders["dft_mev_fu"].min(), orders["dft_mev_fu"].max()
    pad = 0.08 * (high - low or 1.0)
    for axis, name in zip(axes.flat, names, strict=False):
        axis.plot(
            [low - pad, high + pad], [low - pad, high + pad], color=COLOUR_DFT, linewidth=0.8, zorder=1
        )
        axis.axhline(0, color="0.6", linewidth=0.8, linestyle=":", zorder=1)
        chosen = orders[orders["model"] == name].dropna(subset=["model_mev_fu"])
        for (variant, role), group in chosen.groupby(["variant", "role"]):
            axis.plot(
                group["dft_mev_fu"],
                group["model_mev_fu"],
                linestyle="",
                marker=look_of(str(variant)).marker,
                color=colours[name],
                markerfacecolor="none" if role in TRAINS else colours[name],
                zorder=3,
            )
        axis.tick_params(labelbottom=True)  # the panel below may be empty
        axis.set_title(f"{name}\n{_summary(scores[scores['model'] == name])}", fontsize=SMALL)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    figure.supxlabel("DFT energy relative to the mean on the same atoms (meV/f.u.)")
    figure.supylabel(
        "model's energy relative to the mean on the same atoms (meV/f.u.)\nabove: mean error of the pairs",
        fontsize="small",
    )
    handles = [
        Line2D([], [], linestyle="", marker=look.marker, color="0.3", label=f"{variant} ({look.label})")
        for variant, look in ((name, look_of(name)) for name in variants_in(orders["variant"]))
    ]
    handles += [
        Line2D(
            [], [], linestyle="", marker="o", color="0.3", markerfacecolor="none", label="state also trains"
        ),
        Line2D([], [], color=COLOUR_DFT, linewidth=0.8, label="as DFT"),
        Line2D([], [], color="0.6", linewidth=0.8, linestyle=":", label="blind"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    save_figure(figure, out / "identical")


def _summary(scores: pd.DataFrame) -> str:
    """Return the mean absolute error of pairs by variant, over folds and seeds."""
    means = scores.groupby("variant", sort=False)["mae_mev_fu"].mean()
    entries = [f"{name} {value:.0f}" for name, value in means.items() if np.isfinite(value)]
    return "\n".join(", ".join(entries[k : k + 2]) for k in range(0, len(entries), 2))
