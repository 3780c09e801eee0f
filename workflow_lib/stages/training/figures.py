"""Learning curve and parity plots, each with the numbers it shows as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workflow_lib.core.io import save_figure, write_csv
from workflow_lib.core.plotting import OKABE_ITO, SMALL, style
from workflow_lib.frames.splits import KNOWN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SET_STYLE: dict[str, tuple[str, str, str]] = {
    "train": ("training (seen)", OKABE_ITO[7], "."),
    "validation": ("validation", OKABE_ITO[4], "s"),
    "test": ("held out", OKABE_ITO[5], "o"),
    KNOWN: ("test, of states that train", OKABE_ITO[1], "^"),
}
"""Legend, colour and marker of each set."""

_CURVES = (
    ("loss", ("train_loss", "validation_loss")),
    ("validation energy MAE (meV/atom)", ("validation_energy_mae_mev_atom",)),
    ("validation force MAE (meV/Å)", ("validation_forces_mae_mev_a",)),
)
_PANELS = {
    "energy": ("energy, composition mean removed", "meV/atom", 1e3),
    "forces": ("force components", "eV/Å", 1.0),
    "stress": ("stress", "meV/Å³", 1e3),
    "magmoms": ("magnetic moments", "μB", 1.0),
    "charges": ("Bader charges", "e", 1.0),
}


def learning_figure(history: pd.DataFrame, kept_epoch: float, title: str, stem: Path) -> None:
    """Draw loss and validation errors by epoch, logarithmic, with the kept epoch marked.

    Writes ``<stem>.svg``, ``.png`` and ``.csv``.
    """
    import matplotlib.pyplot as plt

    style()
    drawn = set(history.columns[history.notna().any()])
    # Without epochs and validation there is no curve; the empty panel says which weights were kept.
    curves = [(label, columns) for label, columns in _CURVES if set(columns) & drawn] or [_CURVES[0]]
    figure, axes = plt.subplots(1, len(curves), figsize=(3.2 * len(curves), 3.1), squeeze=False)
    shown = {"epoch"}
    for axis, (label, columns) in zip(axes[0], curves, strict=True):
        for column in columns:
            if column not in drawn:
                continue
            name = "train" if column.startswith("train") else "validation"
            text, colour, _ = SET_STYLE[name]
            known = history[["epoch", column]].dropna()
            axis.plot(
                *(known["epoch"], known[column]),
                color=colour,
                label=text.replace(" (seen)", ""),
                marker=".",
                ms=3,
            )
            shown.add(column)
        axis.axvline(kept_epoch, color="black", lw=0.8, ls=":", label=f"kept: epoch {kept_epoch:g}")
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        values = history[[c for c in columns if c in drawn]].to_numpy(dtype=float)
        if 0 < np.nanmin(values, initial=np.inf) < np.inf:
            axis.set_yscale("log")
            _plain_ticks(axis)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(title)
    save_figure(figure, stem)
    write_csv(history[[c for c in history.columns if c in shown]], stem.with_suffix(".csv"))


def _plain_ticks(axis: Axes) -> None:
    """Show plain numbers on a logarithmic axis, whether it spans half a decade or five."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_ylim()
    steps: tuple[float, ...] = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    if high / low < 3:
        steps = tuple(np.arange(1.0, 10.0, 0.5).tolist())
    axis.yaxis.set_major_locator(LogLocator(subs=steps, numticks=8))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def parity_figure(
    parity: pd.DataFrame, metrics: pd.DataFrame, formulas: dict[str, str], title: str, stem: Path
) -> None:
    """Draw model against DFT, one panel per label, sets distinguished by colour and marker.

    Energies per atom are shown minus the mean DFT energy of the shown frames of the composition
    (``formulas``: reduced formula of each frame), which would otherwise spread them over electronvolts and
    hide the errors. Writes ``<stem>.svg``, ``.png`` and ``.csv``.
    """
    import matplotlib.pyplot as plt

    style()
    table = parity.drop(columns=["redox"])
    energy = table["label"] == "energy"
    composition = table.loc[energy, "frame_id"].map(formulas)
    mean = table.loc[energy, "dft_value"].groupby(composition).transform("mean")
    for column in ("dft_value", "model_value"):
        table.loc[energy, column] -= mean
    labels = [label for label in _PANELS if (table["label"] == label).any()]
    figure, axes = plt.subplots(1, len(labels), figsize=(3.1 * len(labels), 3.3), squeeze=False)
    for axis, label in zip(axes[0], labels, strict=True):
        _parity_panel(axis, table[table["label"] == label], metrics, label)
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, markerscale=2.5)
    figure.suptitle(title)
    save_figure(figure, stem)
    write_csv(table, stem.with_suffix(".csv"))


def _parity_panel(axis: Axes, rows: pd.DataFrame, metrics: pd.DataFrame, label: str) -> None:
    text, unit, factor = _PANELS[label]
    finite = rows[np.isfinite(rows["model_value"])]
    for name, (legend, colour, marker) in SET_STYLE.items():
        chosen = finite[finite["set"] == name]
        if name == KNOWN and chosen.empty:
            continue
        axis.plot(
            *(factor * chosen["dft_value"], factor * chosen["model_value"]),
            marker=marker,
            ls="",
            ms=2.5,
            mew=0,
            alpha=0.6,
            color=colour,
            label=legend,
            rasterized=len(chosen) > 500,
        )
    if len(finite):
        low = factor * finite[["dft_value", "model_value"]].to_numpy().min()
        high = factor * finite[["dft_value", "model_value"]].to_numpy().max()
        axis.axline((low, low), (high, high), color="black", lw=0.7, zorder=0)
    test = metrics.query("set == 'test' and kind == 'all' and metric == 'mae' and label == @label")
    note = "no held-out label"
    if len(test):
        error, low, high = test.iloc[0][["value", "low", "high"]]
        unit = test.iloc[0]["unit"]
        note = f"held-out MAE {error:.3g} {unit}"
        if np.isfinite(low):  # three states are the least for an interval
            note = f"held-out MAE {error:.3g}\n[{low:.3g}, {high:.3g}] {unit}"
        if np.isnan(error):
            note = "a held-out prediction\nis not finite"
    axis.text(0.03, 0.97, note, transform=axis.transAxes, va="top", fontsize=SMALL)
    axis.set(xlabel=f"DFT ({unit})", ylabel=f"model ({unit})")
    axis.set_title(text)
    axis.set_aspect("equal", adjustable="datalim")
