"""The periodic table of a dataset, drawn from ``element_table.py`` as Fig. 2 of the CHGNet paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.io import save_figure
from workflow_lib.core.plotting import SMALL, style
from workflow_lib.lattice.sanity import LAST_ELEMENT
from workflow_lib.stages.dataset.element_table import ALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, LogNorm

_PERIODS = (1, 3, 11, 19, 37, 55, 87)
"""Atomic number of the first element of each period."""
_LISTED = 8  # elements whose spreads there is room to write
_SPREADS = (
    ("energy_mad_mev_atom", "energy\nmeV/atom"),
    ("force_mad_mev_a", "force\nmeV/Å"),
    ("stress_mad_gpa", "stress\nGPa"),
    ("moment_mad_mub", "moment\nμB"),
)
_EMPTY = "#F2F2F2"


def place(z: int) -> tuple[float, int]:
    """Return an element's row and column, from 1; lanthanoids and actinoids have their own rows below."""
    period = sum(z >= first for first in _PERIODS)
    step = z - _PERIODS[period - 1]
    if period == 1:
        return 1, 1 if z == 1 else 18
    if step < 2:
        return period, step + 1
    if period <= 3:
        return period, step + 11
    if period <= 5:
        return period, step + 1
    if step <= 16:
        return period + 2.4, step + 1
    return period, step - 13


def draw_elements(table: pd.DataFrame, stem: Path) -> None:
    """Draw ``<stem>.svg`` and ``.png``: atoms of each element, those with moments, and the spreads."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    from matplotlib.colors import LogNorm

    style()
    elements = {int(row["z"]): row for _, row in table[table["element"] != ALL].iterrows()}
    top = 10.0 ** max(1, int(np.ceil(np.log10(max(row["atoms"] for row in elements.values())))))
    norm = LogNorm(1, top)
    # Cut at both ends: the lightest tones would look empty, the darkest would hide the symbols.
    warm, cold = (
        mpl.colors.LinearSegmentedColormap.from_list(name, mpl.colormaps[name](np.linspace(0.15, 0.75, 64)))
        for name in ("YlOrRd", "PuBu")
    )
    figure, axes = plt.subplots(figsize=(10.2, 6.3))
    figure.set_layout_engine("none")  # boxes are fixed; the layout engine would measure all texts
    axes.set_position((0.01, 0.01, 0.98, 0.98))
    axes.set_xlim(0.4, 18.6)
    axes.set_ylim(10.9, 0.3)  # room for the colour bars
    axes.set_aspect("equal")
    axes.axis("off")
    for z in range(1, LAST_ELEMENT + 1):
        _box(axes, z, elements.get(z), warm, cold, norm)
    _spreads(axes, table)
    for label, colours, left in (
        ("atoms (lower left)", warm, 0.12),
        ("atoms with a magnetic moment (upper right)", cold, 0.55),
    ):
        bar = figure.add_axes((left, 0.045, 0.33, 0.02))
        figure.colorbar(mpl.cm.ScalarMappable(norm, colours), cax=bar, orientation="horizontal")
        bar.set_xlabel(label)
        bar.xaxis.set_label_position("top")
        bar.grid(visible=False)
    save_figure(figure, stem)


def _box(axes: Axes, z: int, row: pd.Series | None, warm: Colormap, cold: Colormap, norm: LogNorm) -> None:
    """Draw one element: two triangles, its symbol, and the number of frames that hold it."""
    y, x = place(z)
    low, high, up, down = x - 0.46, x + 0.46, y - 0.46, y + 0.46
    for corners, column, colours in (
        (((low, up), (low, down), (high, down)), "atoms", warm),
        (((low, up), (high, up), (high, down)), "atoms_with_moment", cold),
    ):
        number = 0 if row is None else int(row[column])
        colour = colours(norm(number)) if number else _EMPTY
        axes.fill(*zip(*corners, strict=True), color=colour, linewidth=0)
    known = row is not None
    axes.text(
        x,
        y - (0.1 if known else 0.0),
        SYMBOLS[z],
        ha="center",
        va="center",
        fontsize=11 if known else SMALL,
        fontweight="bold" if known else "normal",
        color="#000000" if known else "#AAAAAA",
    )
    if row is not None:
        axes.text(x, y + 0.27, _short(int(row["frames"])), ha="center", va="center", fontsize=SMALL)


def _short(count: int) -> str:
    """Return a count in at most four characters: 271, 12k, 1.6M."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            value = count / size
            return f"{value:.1f}{letter}" if value < 9.95 else f"{value:.0f}{letter}"
    return str(count)


def _spreads(axes: Axes, table: pd.DataFrame) -> None:
    """Draw the mean absolute deviations of all frames and of the most common elements at the top."""
    ranked = table[table["element"] != ALL].sort_values("atoms", ascending=False, kind="stable")
    shown = pd.concat([table[table["element"] == ALL], ranked.head(_LISTED)])
    stress = int(table.loc[table["element"] == ALL, "stress_count"].iloc[0]) // 9
    good = int(table.loc[table["element"] == ALL, "stress_converged_frames"].iloc[0])
    title = "mean absolute deviation (small numbers in the boxes: frames"
    if len(ranked) > _LISTED:
        title += f"; {len(ranked) - _LISTED} elements more in the CSV"
    title += f"; stress converged in {good} of {stress})" if stress else ")"
    axes.text(3.0, 0.45, title, fontsize=SMALL, va="center")
    columns = np.array([5.2, 7.0, 8.8, 10.6])
    for x, (_, label) in zip(columns, _SPREADS, strict=True):
        axes.text(x, 0.92, label, fontsize=SMALL, ha="right", va="center", linespacing=0.95)
    for line, (_, row) in enumerate(shown.iterrows()):
        y = 1.36 + 0.26 * line
        axes.text(3.0, y, row["element"], fontsize=SMALL, va="center", fontweight="bold")
        for x, (column, _) in zip(columns, _SPREADS, strict=True):
            value = row[column]
            text = "none" if pd.isna(value) else f"{value:.3g}"
            axes.text(x, y, text, fontsize=SMALL, ha="right", va="center")
