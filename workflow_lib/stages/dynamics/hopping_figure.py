"""Electrons and ions in time, their residence times, and the correlation of their hops."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workflow_lib.core.io import save_figure
from workflow_lib.core.plotting import OKABE_ITO, style
from workflow_lib.simulation.analysis.hopping import ion_hops
from workflow_lib.stages.dynamics.settings import Hopping, Study

if TYPE_CHECKING:
    from workflow_lib.stages.dynamics.hopping import Track

ELECTRON, ION = OKABE_ITO[0], OKABE_ITO[1]


def draw(
    study: Study,
    asked: Hopping,
    table: pd.DataFrame,
    tracks: Mapping[tuple[str, float, int], Track],
    note: str,
    stem: Path,
) -> None:
    """Draw the first replica of the hottest trajectory in time; residence times and correlations of all.

    ``note`` goes below the title.
    """
    style()
    import matplotlib.pyplot as plt

    shown = max(tracks, key=lambda key: (key[1], -key[2]))
    track = tracks[shown]
    figure, axes = plt.subplots(2, 2, figsize=(7.6, 5.2), gridspec_kw={"width_ratios": [1.5, 1]})
    _electrons(axes[0][0], asked, track)
    _ions(axes[1][0], asked, track)
    _residence(axes[0][1], asked, table)
    _correlation(axes[1][1], asked, table)
    system = next(item for item in study.systems if item.name == shown[0])
    figure.suptitle(
        f"{system.label or system.name}, {Path(study.potential).name}; left: {shown[1]:.4g} K, "
        f"{track.times_ps[-1]:.3g} ps{note}",
        fontsize=9,
    )
    save_figure(figure, stem)


def _electrons(ax: Any, asked: Hopping, track: Track) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.ticker import MaxNLocator

    ax.set_xlabel("time (ps)")
    ax.set_ylabel(f"{asked.element} atom")
    ax.grid(visible=False)
    if track.reduced is None:
        ax.set_yticks([])
        ax.text(0.5, 0.5, f"this model says nothing of\nthe charge states of {asked.element}", ha="center")
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1)
        ax.set_xticks([])
        ax.set_xlabel("")
        return
    atoms = track.reduced.shape[1]
    # A frame is drawn until the next one, where a hop between the two is marked.
    end = float(track.times_ps[-1] + track.times_ps[1])
    extent = (0, end, -0.5, atoms - 0.5)
    picture = track.reduced.T[::-1]
    ax.imshow(
        picture,
        extent=extent,
        aspect="auto",
        interpolation="nearest",
        cmap=ListedColormap(["white", ELECTRON]),
        vmin=0,
        vmax=1,
    )
    step, atom = np.nonzero(ion_hops(track.sites, track.near))
    ax.plot(track.times_ps[1:][step], atom, "|", color=ION, markersize=7, markeredgewidth=1)
    ax.set_xlim(0, float(track.times_ps[-1]))
    ax.yaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.set_title(f"blue: reduced; bars: a hop of {asked.mobile} nearby", fontsize=8)


def _ions(ax: Any, asked: Hopping, track: Track) -> None:
    for ion in range(track.sites.shape[1]):
        ax.step(
            track.times_ps,
            track.sites[:, ion],
            where="post",
            color=OKABE_ITO[ion % len(OKABE_ITO)],
            linewidth=1.2,
        )
    ax.set_xlim(0, float(track.times_ps[-1]))
    ax.set_ylim(-0.5, len(track.near) - 0.5)
    ax.set_xlabel("time (ps)")
    ax.set_ylabel(f"site of each {asked.mobile}")


def _residence(ax: Any, asked: Hopping, table: pd.DataFrame) -> None:
    exchanged = pd.to_numeric(table["exchanges_tried"]).gt(0).any()
    kinds = (
        ("electron", f"electrons{' (of attempts, no physical time)' if exchanged else ''}", ELECTRON, "o"),
        ("ion", f"{asked.mobile} ions", ION, "s"),
    )
    for place, (name, label, colour, marker) in enumerate(kinds):
        own = table[table[f"{name}_stay_low_ps"].notna()]
        shift = (place - 0.5) * 8  # K, so that intervals at one temperature stand side by side
        for row in own.to_dict("records"):
            x, mean = row["temperature_k"] + shift, row[f"{name}_stay_ps"]
            low, high = row[f"{name}_stay_low_ps"], row[f"{name}_stay_high_ps"]
            if np.isfinite(high):
                ax.plot([x, x], [low, high], color=colour, linewidth=1.2)
                ax.plot(x, mean, marker, color=colour, markersize=4)
            else:
                ax.plot(x, low, "^", color=colour, markerfacecolor="none", markersize=5)
        if len(own):
            ax.plot([], [], marker, color=colour, label=label)
    ax.plot([], [], "^", color="0.4", markerfacecolor="none", label="no hop seen: lower limit")
    ax.set_yscale("log")
    ax.set_xticks(sorted(set(table["temperature_k"].round())))
    ax.set_xlim(table["temperature_k"].min() - 50, table["temperature_k"].max() + 50)
    ax.set_xlabel("temperature (K)")
    ax.set_ylabel("mean residence time (ps)")
    _legend_above(ax)


def _correlation(ax: Any, asked: Hopping, table: pd.DataFrame) -> None:
    own = table[table["correlation"].notna()]
    ax.axhline(0, color="0.7", linewidth=0.8)
    ax.set_xlabel("temperature (K)")
    ax.set_ylabel("correlation of hops")
    if own.empty:
        ax.set_title("no correlation: " + "; ".join(table["reason"].unique()), fontsize=8)
        ax.set_xticks([])
        ax.set_yticks([])
        return
    ax.set_xticks(sorted(set(own["temperature_k"].round())))
    for place, (x, low, high) in enumerate(
        zip(own["temperature_k"], own["correlation_low"], own["correlation_high"], strict=True)
    ):
        label = "95 % of what chance gives" if place == 0 else None
        ax.plot([x, x], [low, high], color="0.7", linewidth=4, solid_capstyle="butt", label=label)
    ax.plot(own["temperature_k"], own["correlation"], "D", color="black", markersize=4, label="seen")
    ax.set_ylabel(f"correlation of hops in {asked.window_ps:g} ps")
    _legend_above(ax)


def _legend_above(ax: Any) -> None:
    ax.legend(fontsize=6, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), columnspacing=0.8)
