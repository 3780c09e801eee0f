"""Figures of the dataset summary; each is drawn only from a table of ``summary.py``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workflow_lib.core.io import save_figure
from workflow_lib.core.plotting import COLOUR_FE2, COLOUR_FE3, OKABE_ITO, legend_entries, plain_label, style
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.stages.dataset.assign import CATEGORIES
from workflow_lib.stages.dataset.sites import NOT_USED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_ROWS = 16  # compositions that fit in one figure; the others are counted together
_OTHER = "others"
_MOBILE = re.compile(r"(?:Li|Na|K|Mg|Ca|Zn)(?P<amount>\d+(?:\.\d+)?)?(?=[A-Z])")
_COLOUR_NOT_USED = "#999999"


def _shown(compositions: pd.Series, weights: pd.Series) -> list[str]:
    """Return the compositions that fit in a figure, the most frequent ones, by framework and then by x."""
    ranked = weights.groupby(compositions).sum().sort_values(ascending=False, kind="stable")
    shown = sorted(ranked.index[:_MAX_ROWS], key=_place)
    return [*shown, _OTHER] if len(ranked) > _MAX_ROWS else shown


def _place(composition: str) -> tuple[str, float, str]:
    """Return what orders compositions: the framework, and how much of the mobile ion is in it."""
    found = _MOBILE.match(composition)
    amount = float(found["amount"] or 1) if found else 0.0
    return composition[found.end() :] if found else composition, amount, composition


def _rows(compositions: pd.Series, shown: list[str]) -> np.ndarray:
    """Return the row number of each composition in a figure."""
    place = {name: index for index, name in enumerate(shown)}
    return np.array([place.get(name, len(shown) - 1) for name in compositions])


def _formula(text: str) -> str:
    """Return the composition with its numbers as subscripts."""
    return re.sub(r"([\d.]+)", r"$_{\1}$", text)


def _kind_colours(kinds: pd.Series) -> dict[str, str]:
    # Starts with green and orange: blue and vermilion mean Fe2+ and Fe3+ in all figures.
    colours = [c for c in OKABE_ITO if c not in (COLOUR_FE2, COLOUR_FE3)][::-1]
    colours = [OKABE_ITO[2], OKABE_ITO[1], *(c for c in colours if c not in OKABE_ITO[1:3])]
    return {kind: colours[i % len(colours)] for i, kind in enumerate(sorted(kinds.unique()))}


def draw_composition(table: pd.DataFrame, stem: Path) -> None:
    """Draw the frames per composition, stacked by kind; the number of states is at the end of the bar."""
    import matplotlib.pyplot as plt

    style()
    shown = _shown(table["composition"], table["frames"])
    row = _rows(table["composition"], shown)
    figure, axes = plt.subplots(figsize=(6.4, 1.3 + 0.32 * len(shown)))
    left = np.zeros(len(shown))
    for kind, colour in _kind_colours(table["kind"]).items():
        mine = (table["kind"] == kind).to_numpy()
        width = np.bincount(row[mine], table["frames"].to_numpy()[mine], minlength=len(shown))
        axes.barh(range(len(shown)), width, left=left, color=colour, label=plain_label(kind), height=0.7)
        left += width
    states = table.drop_duplicates("composition")
    total = np.bincount(
        _rows(states["composition"], shown),
        states["states_of_composition"].to_numpy(),
        minlength=len(shown),
    )
    for index, count in enumerate(total.astype(int)):
        axes.annotate(
            f"{count} state{'s' if count != 1 else ''}",
            (left[index], index),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(shown)), [_formula(name) for name in shown])
    axes.invert_yaxis()
    axes.set_axisbelow(True)
    axes.set_xlim(0, left.max() * 1.18)
    axes.set_xlabel("frames")
    axes.set_ylabel("composition")
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=4, title=None)
    save_figure(figure, stem)


def draw_redox(
    histogram: pd.DataFrame,
    rule: RedoxRule,
    energy_reference: str,
    agreement: Mapping[str, Any],
    stem: Path,
) -> None:
    """Draw moments and Bader charges of the redox sites, coloured by assigned state.

    The shaded windows are those of the redox rule at this level of theory. Triangles mark bins that
    contain sites whose charge is closer to the mean (dashed) of the other state; ``agreement`` is
    the summary of ``sites.SiteHistograms``.
    """
    import matplotlib.pyplot as plt

    style()
    names = [f"{rule.element}{state.oxidation}+" for state in rule.states]
    colours = {names[0]: COLOUR_FE2, names[1]: COLOUR_FE3, NOT_USED: _COLOUR_NOT_USED}
    hatches = {names[0]: None, names[1]: "////", NOT_USED: "...."}
    figure, panels = plt.subplots(1, 2, figsize=(7.6, 3.6))
    quantities = (
        ("moment_mub", f"magnetic moment of {rule.element} (μB)"),
        ("charge_e", f"Bader charge of {rule.element} (e)"),
    )
    for axes, (quantity, label) in zip(panels, quantities, strict=True):
        mine = histogram[histogram["quantity"] == quantity]
        axes.set_xlabel(label)
        axes.set_ylabel(f"{rule.element} sites per bin")
        if mine.empty:
            axes.text(0.5, 0.5, "no such labels", ha="center", va="center", transform=axes.transAxes)
            continue
        _stack(axes, mine, colours, hatches)
        _mark(axes, mine)
        axes.set_axisbelow(True)
        if quantity == "charge_e":
            if total := agreement["sites_with_both"]:
                count = sum(agreement["charge_nearer_to_other_state"].values())
                axes.set_title(f"charge nearer to the other state (triangles):\n{count} of {total} sites")
            for name, mean in agreement["mean_charge_e"].items():
                if np.isfinite(mean):
                    axes.axvline(mean, color=colours[name], ls="--", lw=1, label=f"mean of {name}")
        if quantity == "moment_mub":
            for state, colour in zip(rule.states, (COLOUR_FE2, COLOUR_FE3), strict=True):
                if (window := state.magmom.get(energy_reference)) is not None:
                    axes.axvspan(
                        *window,
                        color=colour,
                        alpha=0.12,
                        lw=0,
                        label=f"{rule.element}{state.oxidation}+ window",
                    )
    entries = legend_entries(panels)
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=4)
    save_figure(figure, stem)


def _mark(axes: Axes, mine: pd.DataFrame) -> None:
    """Draw triangles over the bins with sites whose charge indicates the other state."""
    bins = mine.groupby(["low", "high"])[["sites", "disagreeing"]].sum()
    bins = bins[bins["disagreeing"] > 0].reset_index()
    if bins.empty:
        return
    axes.plot(
        (bins["low"] + bins["high"]) / 2,
        bins["sites"] + 0.03 * axes.get_ylim()[1],
        "kv",
        ms=4,
        mec="white",
        mew=0.4,
        ls="none",
        clip_on=False,
    )


def _stack(axes: Axes, mine: pd.DataFrame, colours: dict, hatches: dict) -> None:
    edges = np.unique(mine[["low", "high"]].to_numpy())
    bottom = np.zeros(len(edges) - 1)
    for state, colour in colours.items():
        heights = mine[mine["state"] == state].sort_values("low")["sites"].to_numpy()
        if not heights.any():
            continue
        axes.bar(
            edges[:-1],
            heights,
            width=np.diff(edges),
            bottom=bottom,
            align="edge",
            color=colour,
            edgecolor="white",
            lw=0.3,
            hatch=hatches[state],
            label=state,
        )
        bottom += heights
    axes.set_ylim(0, 1.06 * bottom.max())


def draw_charge_states(table: pd.DataFrame, stem: Path) -> None:
    """Draw what became of the charge states of the materials with most frames set aside, in percent.

    ``table`` is sorted by frames set aside; the number of labelled frames, out of all, is at the end of
    each bar.
    """
    import matplotlib.pyplot as plt

    style()
    shown = table.head(_MAX_ROWS)
    aside = -shown[list(CATEGORIES)].sum(axis=1)
    order = sorted(shown.index, key=lambda index: (aside[index], _place(shown["material"][index])))
    shown = shown.loc[order]
    figure, axes = plt.subplots(figsize=(6.4, 1.7 + 0.32 * len(shown)))
    left = np.zeros(len(shown))
    for name, colour, hatch in _fates():
        width = (100 * shown[name] / shown["frames"]).to_numpy()
        if not width.any():
            continue
        axes.barh(
            range(len(shown)), width, left=left, color=colour, hatch=hatch, edgecolor="white", lw=0.3,
            height=0.7, label=name,
        )  # fmt: skip
        left += width
    for index, (count, frames) in enumerate(zip(shown["labelled"], shown["frames"], strict=True)):
        axes.annotate(
            f"{count} of {frames}",
            (100, index),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(shown)), [_formula(name) for name in shown["material"]])
    axes.invert_yaxis()
    axes.set_axisbelow(True)
    axes.set_xlim(0, 122)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("frames (%; at the end of each bar: labelled, of all)")
    more = f", {len(shown)} of {len(table)}" if len(table) > len(shown) else ""
    axes.set_ylabel(f"composition{more}")
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=3)
    save_figure(figure, stem)


def _fates() -> list[tuple[str, str, str | None]]:
    """Return column, colour and hatch; reasons unrelated to charge states are grey or hatched."""
    colours = dict(zip(CATEGORIES, [c for c in OKABE_ITO if c != OKABE_ITO[2]], strict=False))
    rest = [name for name in CATEGORIES if name not in colours]
    fates: list[tuple[str, str, str | None]] = [("labelled", OKABE_ITO[2], None)]
    fates += [("other chemistry", "#DDDDDD", None)]
    fates += [(name, colour, None) for name, colour in colours.items()]
    hatches = ("////", "....", "xxxx", "\\\\\\\\", "++++", "oooo")
    return fates + [(name, _COLOUR_NOT_USED, hatches[i % 6]) for i, name in enumerate(rest)]


def draw_energy(table: pd.DataFrame, stem: Path) -> None:
    """Draw the energy of each frame above the lowest of its state, by composition and kind."""
    import matplotlib.pyplot as plt

    style()
    shown = _shown(table["composition"], pd.Series(1, index=table.index))
    row = _rows(table["composition"], shown)
    kinds = _kind_colours(table["kind"])
    figure, axes = plt.subplots(figsize=(6.4, 1.4 + 0.38 * len(shown)))
    for index, (kind, colour) in enumerate(kinds.items()):
        mine = (table["kind"] == kind).to_numpy()
        lane = (index - (len(kinds) - 1) / 2) * 0.7 / len(kinds)
        # Spread within the lane by rank, not at random, so that the figure is reproducible.
        spread = ((np.arange(mine.sum()) * 0.618034) % 1 - 0.5) * 0.5 / len(kinds)
        axes.plot(
            table["above_lowest_mev_atom"].to_numpy()[mine],
            row[mine] + lane + spread,
            "osD^vP"[index % 6],
            color=colour,
            ms=3.5,
            mec="none",
            alpha=0.75,
            label=plain_label(kind),
            rasterized=len(table) > 5000,
        )
    axes.set_yticks(range(len(shown)), [_formula(name) for name in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xscale("symlog", linthresh=1.0, linscale=0.5)
    axes.set_xlim(left=-0.15)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("energy above the lowest frame of the same state (meV/atom)")
    axes.set_ylabel("composition")
    figure.legend(loc="outside upper center", ncols=4)
    save_figure(figure, stem)


def draw_coverage(table: pd.DataFrame, stem: Path) -> None:
    """Draw the fraction of frames that carry each label."""
    import matplotlib.pyplot as plt

    style()
    figure, axes = plt.subplots(figsize=(6.4, 0.9 + 0.28 * len(table)))
    names = [label.replace("_", " ") for label in table["label"]]
    axes.barh(names, table["share"] * 100, color=OKABE_ITO[2], height=0.7)
    for index, (count, share) in enumerate(zip(table["frames"], table["share"], strict=True)):
        axes.annotate(
            f"{count}",
            (share * 100, index),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.invert_yaxis()
    axes.set_axisbelow(True)
    axes.set_xlim(0, 110)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("frames with this label (%; the number of frames at the end of each bar)")
    axes.grid(axis="y", visible=False)
    save_figure(figure, stem)
