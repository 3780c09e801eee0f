"""What the figures of this stage share: panels of models, legends, captions, what is said in a panel."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workflow_lib.core.plotting import (
    COLOUR_ANY,
    SMALL,
    panel_shape,
    same_curves,
)
from workflow_lib.models.identity import look_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_OF_ENTRY = 2.4  # inches that an entry of a legend takes


def legend_name(variant: str) -> str:
    """Return the name and meaning of a variant, for legends."""
    return f"{variant} ({look_of(variant).label})" if variant else "no variant"


def model_panels(count: int, *, height: float, label: str) -> tuple[Figure, list[Axes]]:
    """Make panels for ``count`` models with one energy scale, three in a row; remove unused ones."""
    import matplotlib.pyplot as plt

    rows, columns = panel_shape(count, 3)
    size = (max(3.3 * columns, 5.2), height * rows + 1.2)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharey=True)
    for panel in axes[:, 0]:
        panel.set_ylabel(label)
    panels = list(axes.flat)
    for panel in panels[count:]:
        panel.remove()
    return figure, panels[:count]


def caption(figure: Figure, level: str, cells: str, extra: str) -> None:
    """Write under the figure what cells the models relaxed, the level of DFT and ``extra``."""
    text = f"models: {cells}; DFT: {level}; {extra}"
    width = int(13 * figure.get_figwidth())  # characters of this size that fit the figure
    figure.supxlabel(fill(text, width), fontsize=SMALL, color="0.25")


def say(panel: Axes, text: str) -> None:
    """Write a text in the upper left corner of a panel."""
    panel.text(0.03, 0.93, text, transform=panel.transAxes, fontsize=SMALL, color="0.35")


def note_hidden(panel: Axes, values: np.ndarray, window: tuple[float, float]) -> None:
    """Write how many values lie outside what the axis shows."""
    hidden = int(np.count_nonzero((values < window[0]) | (values > window[1])))
    if hidden:
        panel.text(
            0.98,
            0.97,
            f"{hidden} beyond the axis",
            transform=panel.transAxes,
            ha="right",
            va="top",
            fontsize=SMALL,
            color="0.3",
        )


def legend(figure: Figure, panels: Iterable[Axes], columns: int) -> None:
    """Draw one legend for all panels; what stands for several models is grey."""
    from copy import copy

    unique: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            if label in unique and _colour(unique[label]) != _colour(handle):
                unique[label] = copy(handle)
                unique[label].set_color(COLOUR_ANY)
            unique.setdefault(label, handle)
    columns = min(columns, max(1, int(figure.get_figwidth() / WIDTH_OF_ENTRY)))
    figure.legend(unique.values(), unique.keys(), loc="outside upper center", ncols=columns)


def _colour(handle: Any) -> str:
    """Return the colour of a line or of the marks of a scatter as text."""
    from matplotlib.colors import to_hex

    if hasattr(handle, "get_color"):
        return to_hex(handle.get_color())
    return to_hex([*handle.get_facecolor(), *handle.get_edgecolor()][0])


def say_same(panel: Axes, curves: dict[str, np.ndarray], *, top: bool) -> None:
    """Write which curves lie on each other, to a hundredth of the height of the panel."""
    low, high = panel.get_ylim()
    if said := same_curves(curves, high - low):
        at: dict[str, Any] = {"y": 0.97, "va": "top"} if top else {"y": 0.03}
        panel.text(
            x=0.03,
            s=fill(said, 21 if top else 34),
            transform=panel.transAxes,
            fontsize=SMALL,
            color="0.25",
            **at,
        )


def without_ends(examined: pd.DataFrame) -> str:
    """Say how many trainings of each model have no end member, and so no part in the figure; "" if none.

    ``examined``: the rows of ``formation.csv`` of the enumerated states.
    """
    has = examined["formation_mev_fu"].notna().groupby(examined["id"]).any()
    owners = examined.drop_duplicates("id").set_index("id")
    told = []
    for (name, variant), own in owners.groupby(["model", "variant"], sort=False):
        lost = int((~has[own.index]).sum())
        if lost:
            told.append(f"{lost} of {len(own)} trainings of {name} {variant}")
    return f"; without an end member and not drawn: {', '.join(told)}" if told else ""


def several(table: pd.DataFrame) -> bool:
    """Return whether any model has several trainings, so that there are means and bands."""
    return bool(table.drop_duplicates("id").duplicated(["model", "variant"]).any())
