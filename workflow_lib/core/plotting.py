"""One style for all figures: colour-blind safe (Okabe and Ito), readable when printed small."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D1F", "#5A5A5A")
COLOUR_DFT = "#000000"
COLOUR_FE2 = "#0072B2"
COLOUR_FE3 = "#D55E00"
SMALL = 9
"""Size of the smallest text in a figure, in points at its own size."""
COLOUR_ANY = "#5A5A5A"
"""Grey of marks in a legend that stand for all models: each family has its own colour."""
LEAST_ENERGY, LEAST_VOLTAGE = 100.0, 0.2
"""meV per formula unit and V; smaller ranges of an axis are not worth zooming into."""
SEARCH_METHODS = {
    "ga": ("genetic algorithm", "#1B1B1B", "h"),
    "random": ("random search", "#8C8C8C", "p"),
    "screened": ("screened by a cluster expansion", "#7A3E9D", "d"),
    "enumeration": ("enumeration", "#56B4E9", "+"),
}
"""Words, colour and marker of the ways to search; no colour of a family, no marker of a variant."""


def style() -> None:
    """Set matplotlib up for files, not screens; call this before the first figure of a job."""
    import matplotlib as mpl
    from matplotlib.rcsetup import cycler

    mpl.use("Agg")
    mpl.rcParams.update(
        {
            "axes.grid": True,
            "axes.prop_cycle": cycler(color=OKABE_ITO),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "figure.constrained_layout.use": True,
            "axes.titlesize": 10,
            "figure.labelsize": 10,
            "figure.titlesize": 10,
            "font.size": 10,
            "grid.alpha": 0.25,
            "legend.fontsize": SMALL,
            "xtick.labelsize": SMALL,
            "ytick.labelsize": SMALL,
            "legend.frameon": False,
            "svg.fonttype": "none",
            "svg.hashsalt": "workflow_lib",
        }
    )


def plain_label(text: str) -> str:
    """Return a name from data as a legend shows it unchanged: no mathematics, never hidden."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def x_label(mobile: str) -> str:
    """Return the label of the axis of compositions; ``mobile`` is the element of the mobile ion."""
    return f"x (filled fraction of the {mobile} sites)"


def legend_entries(panels: Iterable[Axes]) -> dict[str, Artist]:
    """Return the labels of some panels, each once, with the artist that shows it, for one legend of all."""
    entries: dict[str, Artist] = {}
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    return entries


def panel_shape(count: int, most_columns: int) -> tuple[int, int]:
    """Return rows and columns for ``count`` panels: as few rows as possible, filled evenly."""
    rows = -(-count // most_columns)
    return rows, -(-count // rows)


def same_curves(curves: Mapping[str, np.ndarray], height: float) -> str:
    """Return which curves, sampled at the same places, are the same to a hundredth of ``height``, or ""."""
    import numpy as np

    names, groups = list(curves), []
    while names:
        first, *rest = names
        same = [name for name in rest if np.max(np.abs(curves[name] - curves[first])) <= height / 100]
        if same:
            groups.append(" = ".join([first, *same]))
        names = [name for name in rest if name not in same]
    return "equal within 1 % of the axis: " + "; ".join(groups) if groups else ""


def window_of(values: np.ndarray, anchor: np.ndarray, least: float) -> tuple[float, float]:
    """Return limits of an axis that hold ``values``, but at most twice their range away from ``anchor``.

    ``least`` is the smallest range that counts. A failed model must not flatten the others.
    """
    import numpy as np

    span = max(float(np.ptp(anchor)), least)
    low = max(float(np.min(values)), float(np.min(anchor)) - 2 * span)
    high = min(float(np.max(values)), float(np.max(anchor)) + 2 * span)
    margin = max(0.06 * (high - low), 0.5 * (least - (high - low)))
    return low - margin, high + margin
