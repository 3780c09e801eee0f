"""Figures of the charge-order stage: one model against DFT, and all models of a run together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import save_figure
from workflow_lib.core.plotting import COLOUR_ANY, COLOUR_DFT, OKABE_ITO, SMALL, style
from workflow_lib.models.identity import EWALD, EWALD_FITTED, look_of, model_colours
from workflow_lib.results_reading import seal, write_table
from workflow_lib.results_schema import PROTOCOLS, WITHOUT_ENERGY
from workflow_lib.stages.charge_order.pooled import read_scores, scores_across_folds
from workflow_lib.stages.charge_order.reference import RELAXED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

PROTOCOL_TITLES = {
    "single-point": "(a) at the DFT geometries",
    "distorted": "(b) relaxed from distorted starts",
    "undistorted": "(c) relaxed from undistorted starts",
}
FAR = 0.5
"""eV/A; the figure marks a DFT end geometry with a larger force as far from relaxed."""
RING: dict[str, Any] = {
    "linestyle": "",
    "marker": "o",
    "markersize": 12,
    "color": "0.35",
    "markerfacecolor": "none",
    "markeredgewidth": 0.8,
}
MARKERS = "osD^vPX*"
PANELS = (
    ("states_spearman", "states_spearman_all", "Spearman of relative energies"),
    ("redox_spread_ratio_unseen", "redox_spread_ratio", "redox spread (model / DFT)"),
    ("redox_pairs_ordered_unseen", "redox_pairs_ordered", "order pairs ranked as DFT"),
    ("ground_states_share", "ground_states_share_all", "ground states found"),
)
"""Panels of the overview: unseen score, score over all states, label; DFT itself has 1 in each."""


def _line(**options: Any) -> Line2D:
    from matplotlib.lines import Line2D

    return Line2D([], [], **({"linestyle": ""} | options))


def looks_of(keys: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return a colour and a marker for each key; no two have both alike, up to the 64th."""
    # There are eight of each: after eight keys the markers shift against the colours.
    return {key: (OKABE_ITO[i % 8], MARKERS[(i + i // 8) % 8]) for i, key in enumerate(keys)}


def states_figure(
    states: pd.DataFrame,
    out: str | Path,
    *,
    title: str,
    cells: str,
    panel_titles: Mapping[str, str] = PROTOCOL_TITLES,
) -> None:
    """Draw a model's formation energies against DFT, one panel per protocol: ``states.{svg,png}``.

    The CSV beside the figure is the table itself, which the charge-order stage writes as
    ``states.csv``. Colour and marker show the arrangement of the mobile ions; filled: state unseen
    in training, hollow: seen. States that diverged or moved have no point; their number is stated. A ring
    marks states whose DFT relaxation ended above :data:`FAR`. ``cells``: fixed or relaxed.
    """
    import matplotlib.pyplot as plt

    style()
    protocols = [protocol for protocol in PROTOCOLS if (states["protocol"] == protocol).any()]
    inner = states[(states["x"] > 0) & (states["x"] < 1)]
    keys = list(dict.fromkeys(inner.sort_values(["x", "ion_key"])["ion_key"]))
    looks = looks_of(keys)
    width = max(4.6, 3.1 * len(protocols) + 1.6)
    figure, axes = plt.subplots(
        1, len(protocols), figsize=(width, 3.6), sharex=True, sharey=True, squeeze=False
    )
    for axis, protocol in zip(axes[0], protocols, strict=True):
        _formation_panel(axis, inner[inner["protocol"] == protocol], looks)
        axis.set_title(panel_titles[protocol], fontsize=10)
        axis.set_xlabel("DFT formation energy (meV/f.u.)")
    axes[0][0].set_ylabel("model formation energy (meV/f.u.)")
    x_of = dict(zip(inner["ion_key"], inner["x"], strict=True))
    handles = [
        _line(marker=marker, color=colour, label=f"{key.split(':', 1)[1]} (x = {x_of[key]:g})")
        for key, (colour, marker) in looks.items()
    ]
    handles += [
        _line(marker="o", color="0.3", label="unseen in training"),
        _line(marker="o", color="0.3", markerfacecolor="none", label="seen in training"),
    ]
    dft = states.drop_duplicates("state_key")["dft_fmax_ev_a"]
    if (dft > FAR).any():
        handles.append(_line(**RING | {"label": f"DFT fmax > {FAR:g} eV/Å"}))
    figure.legend(handles=handles, loc="outside right center", title="mobile ions on their sites")
    done = f"{int((dft <= RELAXED).sum())} of {len(dft)} DFT states relaxed to {RELAXED:g} eV/Å"
    figure.suptitle(f"{title}\nmodels relax with {cells} cells; {done}", fontsize=10)
    save_figure(figure, Path(out) / "states")


def _formation_panel(axis: Axes, table: pd.DataFrame, looks: dict[str, tuple[str, str]]) -> None:
    good = table.dropna(subset=["formation_mev_fu"])
    for (key, seen), group in good.groupby(["ion_key", "seen"]):
        colour, marker = looks[str(key)]
        axis.plot(
            group["dft_formation_mev_fu"],
            group["formation_mev_fu"],
            linestyle="",
            marker=marker,
            color=colour,
            markerfacecolor="none" if seen else colour,
            zorder=3,
        )
    far = good[good["dft_fmax_ev_a"] > FAR]
    axis.plot(far["dft_formation_mev_fu"], far["formation_mev_fu"], **RING)
    low = float(np.nanmin(table["dft_formation_mev_fu"]))
    high = float(np.nanmax(table["dft_formation_mev_fu"]))
    pad = 0.05 * (high - low or 1.0)
    ends = [low - pad, high + pad]
    axis.plot(ends, ends, color=COLOUR_DFT, linewidth=0.8, zorder=1)
    lost = table["status"][table["status"].isin(WITHOUT_ENERGY)].value_counts()
    lines = [f"{number} of {len(table)} {status}" for status, number in lost.items()]
    if len(table) - len(good) > lost.sum():  # energies, but no zero for them
        lines.append("an end member has no energy:\nno formation energies")
    if lines:
        axis.text(
            0.03,
            0.97,
            "\n".join(lines),
            transform=axis.transAxes,
            va="top",
            fontsize=SMALL,
        )


def charge_order_overview(charge_order_dirs: Sequence[str | Path], out: str | Path) -> pd.DataFrame:
    """Draw all models in ``overview.{svg,png,csv}``, write ``pooled.csv`` and return the table.

    The figure shows each model's scores in the headline protocol. Raises UserError if a folder has
    no scores.
    """
    out = Path(out)
    table = overview_table(charge_order_dirs)
    write_table("charge_order/overview", table, out)
    write_table("charge_order/pooled", scores_across_folds(charge_order_dirs), out)
    _overview_figure(table, out)
    seal(out, "charge-order-overview")
    return table


def overview_table(charge_order_dirs: Sequence[str | Path]) -> pd.DataFrame:
    """Return one row per charge-order result and protocol with its scores, ordered by model and variant."""
    rows = []
    for folder in charge_order_dirs:
        scores = read_scores(folder)
        for protocol, values in scores["protocols"].items():
            row = {
                name: scores[name] for name in ("id", "model", "family", "init", "variant", "fold", "seed")
            }
            row |= {"charge_labelled": scores["charge_labelled"], "protocol": protocol}
            row["headline"] = protocol == scores["headline_protocol"]
            row |= {k: v for k, v in values.items() if not isinstance(v, list | dict)}
            rows.append(row)
    if not rows:
        raise UserError("no model was given; name at least one folder of results/<run>/charge_order/")
    order = ["model", "variant", "fold", "seed", "protocol"]
    return pd.DataFrame(rows).sort_values(order, ignore_index=True)


def _overview_figure(table: pd.DataFrame, out: Path) -> None:
    import matplotlib.pyplot as plt

    style()
    shown = table[table["headline"]].copy()
    for suffix in ("", "_all"):  # as shares: how many count differs between models
        found = pd.to_numeric(shown[f"ground_states_found{suffix}"])
        shown[f"ground_states_share{suffix}"] = found / shown[f"ground_states_total{suffix}"].replace(
            0, np.nan
        )
    labels = list(dict.fromkeys(zip(shown["model"], shown["variant"], strict=True)))
    colours = model_colours(shown["model"])
    figure, axes = plt.subplots(
        1, len(PANELS), figsize=(12.5, 1.6 + 0.28 * len(labels)), sharey=True, squeeze=False
    )
    for axis, (unseen, overall, text) in zip(axes[0], PANELS, strict=True):
        for place, (name, variant) in enumerate(labels):
            if name == EWALD and overall == EWALD_FITTED:
                axis.text(1, place, " fitted", va="center", color="#767676")
                continue
            rows = shown[(shown["model"] == name) & (shown["variant"] == variant)]
            marker = look_of(variant).marker
            for column, face in ((overall, "none"), (unseen, colours[name])):
                values = pd.to_numeric(rows[column], errors="coerce").to_numpy(dtype=float)
                axis.plot(
                    values,
                    np.full(len(values), float(place)),
                    linestyle="",
                    marker=marker,
                    color=colours[name],
                    markerfacecolor=face,
                    clip_on=False,
                )
        axis.axvline(1, color=COLOUR_DFT, linewidth=0.8, zorder=1)
        axis.set_xlabel(text)
    axes[0][0].set_xlim(-1.05, 1.05)
    axes[0][0].axvline(0, color="0.6", linewidth=0.8, linestyle=":")
    axes[0][1].set_xlim(left=0)
    axes[0][2].set_xlim(0, 1.02)
    axes[0][2].axvline(0.5, color="0.6", linewidth=0.8, linestyle=":")
    _ground_state_axis(axes[0][3], shown)
    axes[0][0].set_yticks(range(len(labels)), [f"{name}, {variant}" for name, variant in labels])
    axes[0][0].set_ylim(len(labels) - 0.5, -0.5)
    handles = [
        _line(marker="H", color=COLOUR_ANY, label="filled: states unseen in training"),
        _line(marker="H", color=COLOUR_ANY, markerfacecolor="none", label="hollow: all states (some seen)"),
    ]
    handles += [
        _line(marker=look_of(variant).marker, color=COLOUR_ANY, label=look_of(variant).label)
        for variant in dict.fromkeys(shown["variant"])
    ]
    handles.append(_line(marker="|", color=COLOUR_DFT, markersize=11, label="as DFT"))
    handles.append(_line(marker="|", color="0.6", markersize=11, label="chance"))
    figure.legend(handles=handles, loc="outside upper center", ncols=5)
    save_figure(figure, out / "overview")


def _ground_state_axis(axis: Axes, shown: pd.DataFrame) -> None:
    total = shown["ground_states_total_all"]
    chance = float((shown["ground_states_chance_all"] / total.replace(0, np.nan)).mean())
    axis.set_xlim(-0.04, 1.04)
    if np.isfinite(chance):
        axis.axvline(chance, color="0.6", linewidth=0.8, linestyle=":")
    axis.set_xlabel(f"share of ground states found\n(hollow: of all {int(total.max())})")
