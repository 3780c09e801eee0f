"""The figure of a charge-inference study, in the form of Fig. 3 of the CHGNet paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workflow_lib.core.io import save_figure
from workflow_lib.core.plotting import OKABE_ITO, style

COLOURS = {"before": OKABE_ITO[0], "after": OKABE_ITO[1]}
WORDS = {"before": "as removed", "after": "relaxed"}
BIN = 0.05
"""muB."""


def draw(atoms: pd.DataFrame, summary: dict[str, Any], stem: Path) -> None:
    """Draw the moments before and after relaxation, and the features behind them in two components."""
    style()
    import matplotlib.pyplot as plt

    known = int(atoms["pc1"].notna().all())
    figure, axes = plt.subplots(1, 1 + known, figsize=(3.6 * (1 + known), 3.1), squeeze=False)
    _moments(axes[0][0], atoms, summary)
    if known:
        _components(figure, axes[0][1], atoms, summary)
    element = summary["element"]
    figure.suptitle(
        f"{summary['label']}: {summary['removals']} removals of {summary['sites']} {element}, "
        f"{summary['potential']}{not_relaxed(summary)}",
        fontsize=9,
    )
    save_figure(figure, stem)


def not_relaxed(summary: dict[str, Any]) -> str:
    """Return a line below the title that says which relaxations ran out of steps, or nothing."""
    left = summary["removals"] - summary["converged"]
    parts = [] if summary["host_converged"] else ["host"]
    parts += [f"{left} of {summary['removals']} removals"] if left else []
    return f"\nnot relaxed: {', '.join(parts)}" if parts else ""


def _moments(ax: Any, atoms: pd.DataFrame, summary: dict[str, Any]) -> None:
    moments = atoms["moment_mub"]
    edges = np.arange(np.floor(moments.min() / BIN) - 1, np.ceil(moments.max() / BIN) + 2) * BIN
    for stage, group in atoms.groupby("stage", sort=False):
        ax.hist(
            group["moment_mub"],
            bins=edges,
            color=COLOURS[str(stage)],
            alpha=0.65,
            label=WORDS[str(stage)],
        )
    larger, neutral = summary["larger"], summary["neutral_larger"]
    smaller = summary["sites"] - neutral
    counts = ", ".join(map(str, larger))
    first, second = summary["states"]
    ax.set_xlabel(f"magnetic moment of {summary['element']} ($\\mu_B$)")
    ax.set_ylabel("atoms")
    ax.set_title(f"{second} found: {counts}\nneutral: {neutral} {second}, {smaller} {first}", fontsize=8)
    ax.set_ylim(top=1.2 * ax.get_ylim()[1])  # room for the legend above the bars
    ax.legend(ncols=2, loc="upper center")


def _components(figure: Any, ax: Any, atoms: pd.DataFrame, summary: dict[str, Any]) -> None:
    """Draw features before and after; colour is the moment, which the projection does not use."""
    limits = (atoms["moment_mub"].min(), atoms["moment_mub"].max())
    points = None
    for stage, marker in (("before", "o"), ("after", "^")):
        group = atoms[atoms["stage"] == stage]
        points = ax.scatter(
            group["pc1"],
            group["pc2"],
            c=group["moment_mub"],
            marker=marker,
            s=18,
            vmin=limits[0],
            vmax=limits[1],
            cmap="viridis",
            label=WORDS[stage],
            linewidths=0,
        )
    shares = summary["explained_variance"]
    ax.set_xlabel(f"PC 1 ({100 * shares[0]:.0f} %)")
    ax.set_ylabel(f"PC 2 ({100 * shares[1]:.0f} %)")
    silhouette = summary["silhouette_features"]["mean"]
    if silhouette is not None:
        ax.set_title(
            f"features of the moment head\nsilhouette after relaxation {silhouette:.2f}", fontsize=8
        )
    ax.legend()
    figure.colorbar(points, ax=ax, label="moment ($\\mu_B$)")
