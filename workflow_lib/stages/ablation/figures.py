"""The figure of the ablations: errors without and with the change, beside published ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from workflow_lib.core.io import save_figure
from workflow_lib.core.plotting import OKABE_ITO, legend_entries, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDES = {"without": OKABE_ITO[0], "with": OKABE_ITO[1]}
WORDS = {"energy": "energy", "forces": "forces", "stress": "stress", "magmoms": "magnetic moments"}
UNITS = {"meV/atom": "meV/atom", "meV/A": "meV/\u00c5", "GPa": "GPa", "muB": "$\\mu_B$"}


def draw(table: pd.DataFrame, titles: Mapping[str, str], stem: Path) -> None:
    """Draw a column for each label: a pair of errors a study, and their difference with its interval."""
    style()
    import matplotlib.pyplot as plt

    labels = [label for label in WORDS if label in set(table["label"])]
    figure, axes = plt.subplots(
        *(2, len(labels)),
        figsize=(1.2 + 2.1 * len(labels), 4.6),
        height_ratios=(2, 1),
        sharex="col",
        squeeze=False,
    )
    for (above, below), label in zip(axes.T, labels, strict=True):
        rows = table[table["label"] == label].set_index("study")
        _errors(above, rows)
        _differences(below, rows)
        above.set_title(f"{WORDS[label]} ({UNITS[rows['unit'].iloc[0]]})", fontsize=9)
        below.set_xticks(range(len(rows)), [titles[study] for study in rows.index], rotation=20, ha="right")
        below.margins(x=0.1)
    axes[0][0].set_ylabel("mean absolute error,\nheld out")
    axes[1][0].set_ylabel("with minus without,\n95 % interval")
    known = legend_entries(axes.flat)
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=len(known), fontsize=9)
    save_figure(figure, stem)


def _errors(ax: Axes, rows: pd.DataFrame) -> None:
    for place, study in enumerate(rows.index):
        row = rows.loc[study]
        for shift, (side, colour) in zip((-0.2, 0.2), SIDES.items(), strict=True):
            if pd.notna(row[f"error_{side}"]):
                ax.bar(place + shift, row[f"error_{side}"], 0.36, color=colour, label=f"{side} the change")
            if pd.notna(row[f"published_{side}"]):
                ax.scatter(
                    place + shift,
                    row[f"published_{side}"],
                    marker="D",
                    color="black",
                    s=18,
                    zorder=3,
                    label="published, of other data",
                )
    ax.set_ylim(bottom=0)


def _differences(ax: Axes, rows: pd.DataFrame) -> None:
    ax.axhline(0, color="0.6", lw=0.8)
    for place, study in enumerate(rows.index):
        row = rows.loc[study]
        ax.plot(place, row["difference"], "o", color="black", ms=4)
        if pd.notna(row["low"]):
            ax.plot([place, place], [row["low"], row["high"]], color="black", lw=1)
