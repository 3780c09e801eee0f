"""The figure of the ablations: errors without and with the change, beside published ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from workflow_lib.core.io import save_figure
from workflow_lib.core.plotting import OKABE_ITO, legend_entries, style

WITHOUT, WITH = OKABE_ITO[0], OKABE_ITO[1]
WORDS = {"energy": "energy", "forces": "forces", "stress": "stress", "magmoms": "magnetic moments"}
UNITS = {"meV/atom": "meV/atom", "meV/A": "meV/\u00c5", "GPa": "GPa", "muB": "$\\mu_B$"}


def draw(table: pd.DataFrame, titles: Mapping[str, str], stem: Path) -> None:
    """Draw one panel a label and in it one pair of bars a study, with the interval of the difference."""
    style()
    import matplotlib.pyplot as plt

    labels = [label for label in WORDS if label in set(table["label"])]
    figure, axes = plt.subplots(1, len(labels), figsize=(1.2 + 2.1 * len(labels), 3.4), squeeze=False)
    for ax, label in zip(axes[0], labels, strict=True):
        _panel(ax, table[table["label"] == label].set_index("study"), titles)
        unit = table.loc[table["label"] == label, "unit"].iloc[0]
        ax.set_title(f"{WORDS[label]} ({UNITS[unit]})", fontsize=9)
    axes[0][0].set_ylabel("mean absolute error, held out")
    known = legend_entries(axes[0])
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=len(known), fontsize=9)
    save_figure(figure, stem)


def _panel(ax: Any, rows: pd.DataFrame, titles: Mapping[str, str]) -> None:
    for place, study in enumerate(rows.index):
        row = rows.loc[study]
        for shift, side, colour in ((-0.2, "without", WITHOUT), (0.2, "with", WITH)):
            if pd.notna(row[f"error_{side}"]):
                ax.bar(place + shift, row[f"error_{side}"], 0.36, color=colour, label=side)
            if pd.notna(row[f"published_{side}"]):
                mark = {"marker": "D", "color": "black", "s": 18, "zorder": 3}
                ax.scatter(place + shift, row[f"published_{side}"], label="published", **mark)
        if pd.notna(row["low"]):
            # Around the error with the change: where it would lie at the ends of the difference's interval.
            low, high = (row["error_without"] + row[end] for end in ("low", "high"))
            middle, half = (low + high) / 2, (high - low) / 2
            ax.errorbar(place + 0.2, middle, half, color="black", capsize=3, lw=1, fmt="none")
    ax.set_xticks(range(len(rows)), [titles[study] for study in rows.index], rotation=20, ha="right")
    ax.set_ylim(bottom=0)
    ax.margins(x=0.1)
