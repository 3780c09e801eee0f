"""One style for all figures: colour-blind safe (Okabe and Ito), readable when printed small."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D1F", "#5A5A5A")
COLOUR_DFT = "#000000"
COLOUR_FE2 = "#0072B2"
COLOUR_FE3 = "#D55E00"


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
            "font.size": 9,
            "grid.alpha": 0.25,
            "legend.fontsize": 8,
            "legend.frameon": False,
            "svg.fonttype": "none",
            "svg.hashsalt": "workflow_lib",
        }
    )


def plain_label(text: str) -> str:
    """Return a name from data as a legend shows it unchanged: no mathematics, never hidden."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def panel_shape(count: int, most_columns: int) -> tuple[int, int]:
    """Return rows and columns for ``count`` panels: as few rows as possible, filled evenly."""
    rows = -(-count // most_columns)
    return rows, -(-count // rows)


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
