"""Figures of the thermodynamics stage; the CSV beside each holds the data drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workflow_lib.core.io import save_figure, write_csv
from workflow_lib.core.plotting import (
    COLOUR_ANY,
    COLOUR_DFT,
    LEAST_ENERGY,
    SEARCH_METHODS,
    style,
    window_of,
    x_label,
)
from workflow_lib.lattice.arrangement import mobile_of
from workflow_lib.models.identity import CONTROLS, look_of, model_colours, variants_in
from workflow_lib.results_schema import DFT, HEADLINE, REFERENCE, SEARCH
from workflow_lib.stages.thermodynamics.panels import (
    caption,
    legend,
    legend_name,
    model_panels,
    note_hidden,
    say,
    say_same,
    several,
    without_ends,
)
from workflow_lib.stages.thermodynamics.scores import known_energies, lowest
from workflow_lib.stages.thermodynamics.voltage_figure import draw_voltage

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METHODS = {name: SEARCH_METHODS[name][0] for name in ("ga", "random", "screened")}
ENERGY_LABEL = "formation energy\n(meV per formula unit)"
DODGE = 0.014  # shift in x between variants, so that their points do not cover each other


def _band(panel: Axes, group: pd.DataFrame, colour: str, line: str, label: str, marker: str) -> None:
    """Draw the lowest energy at each x: mean over trained models, with a band of one standard deviation.

    A composition that one of them has lost is left out.
    """
    curves = pd.concat([lowest(own) for _, own in group.groupby("id")], axis=1).dropna()
    mean = curves.mean(axis=1)
    panel.plot(mean.index, mean, line, marker=marker, ms=4, color=colour, lw=1.3, label=label, zorder=3)
    if curves.shape[1] > 1:
        deviation = curves.std(axis=1, ddof=1)
        panel.fill_between(mean.index, mean - deviation, mean + deviation, color=colour, alpha=0.2, lw=0)


def draw_formation(
    formation: pd.DataFrame, hulls: pd.DataFrame, level: str, cells: str, stem: Path
) -> None:
    """Draw one panel per model: formation energies of the enumerated states, lowest of each x, hull."""
    dft = formation[(formation["protocol"] == REFERENCE) & formation["formation_mev_fu"].notna()]
    examined = formation[formation["protocol"] == HEADLINE]
    models = examined[examined["formation_mev_fu"].notna()]
    names = sorted(set(examined["model"])) or [DFT]
    variants, colours = variants_in(models["variant"]), model_colours(set(examined["model"]))
    anchor = dft["formation_mev_fu"].to_numpy()
    drawn = np.append(models["formation_mev_fu"].to_numpy(), anchor)
    window = window_of(drawn, anchor, LEAST_ENERGY)
    figure, panels = model_panels(len(names), height=2.6, label=ENERGY_LABEL)
    for panel, name in zip(panels, names, strict=True):
        panel.scatter(dft["x"], dft["formation_mev_fu"], s=16, facecolors="none", edgecolors=COLOUR_DFT)
        _band(panel, dft, COLOUR_DFT, "-", "DFT, lowest at each x", "")
        own_hull = hulls[(hulls["id"] == DFT) & (hulls["scope"] == "enumerated")]
        panel.plot(own_hull["x"], own_hull["formation_mev_fu"], ":", color=COLOUR_DFT, lw=1, label="hull")
        grid = np.linspace(0, 1, 101)
        bottoms = {"hull of DFT": np.interp(grid, own_hull["x"], own_hull["formation_mev_fu"])}
        for place, variant in enumerate(variants):
            group = models[(models["model"] == name) & (models["variant"] == variant)]
            if group.empty:
                continue
            colour = colours[name]
            shift = DODGE * (place + 1)
            for seen, strength in ((True, 0.35), (False, 0.9)):
                part = group[group["seen"].isin([True]) == seen]
                panel.scatter(
                    part["x"] + shift,
                    part["formation_mev_fu"],
                    s=11,
                    color=colour,
                    marker=look_of(variant).marker,
                    alpha=strength,
                    lw=0,
                )
            _band(
                panel, group, colour, look_of(variant).line, legend_name(variant), look_of(variant).marker
            )
            curves = []
            for identity in sorted(set(group["id"])):
                own = hulls[(hulls["id"] == identity) & (hulls["scope"] == "enumerated")]
                panel.plot(own["x"], own["formation_mev_fu"], ":", color=colour, lw=1)
                if len(own):
                    curves.append(np.interp(grid, own["x"], own["formation_mev_fu"]))
            # Only a hull that all trainings have can be said to be that of another.
            if curves and np.ptp(curves, axis=0).max() <= (window[1] - window[0]) / 100:
                bottoms[f"hull of {variant}"] = np.mean(curves, axis=0)
        panel.set(title=name, xlabel=x_label(mobile_of(formation["state_key"])))
        panel.set_ylim(window)
        say_same(panel, bottoms, top=True)
        own_energies = models.loc[models["model"] == name, "formation_mev_fu"].to_numpy()
        note_hidden(panel, own_energies, window)
        if name != DFT and not len(own_energies):
            say(panel, "no end members: no formation energies")
    fmax = pd.to_numeric(dft["fmax_ev_a"]).max()
    caption(
        figure,
        level,
        cells,
        f"largest force left in a DFT structure {fmax:.2f} eV/Å; points: all states (models shifted "
        "in x; pale: state seen in training), lines: lowest at each x, dotted: hull"
        + ("; bands: ± 1 s.d. over folds and seeds, where none has lost the x" if several(models) else "")
        + without_ends(examined),
    )
    legend(figure, panels, 4)
    save_figure(figure, stem)


def draw_found(
    formation: pd.DataFrame,
    hulls: pd.DataFrame,
    smallest: Mapping[str, str],
    level: str,
    cells: str,
    stem: Path,
) -> None:
    """Draw what each model's searches found, by composition, with the DFT energies that exist.

    Where DFT knows what a search found, in whatever cell (``smallest``, see ``scores.known_energies``), a
    line joins the two: of a charge-blind model to the lowest order on the same ions.
    """
    import matplotlib.pyplot as plt

    searched = formation[(formation["protocol"] == SEARCH) & formation["method"].isin(METHODS)]
    found = searched[searched["formation_mev_fu"].notna()]
    dft = formation[(formation["id"] == DFT) & formation["formation_mev_fu"].notna()]
    names, variants = sorted(set(searched["model"])) or [DFT], variants_in(searched["variant"]) or [""]
    shape = (len(variants), len(names))
    size = (max(2.5 * shape[1] + 0.6, 6.4), 2.4 * shape[0] + 1.2)
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, sharex=True, sharey=True)
    boxes = sorted(set(found["cell"]), key=lambda cell: (len(cell), cell))
    markers = dict(zip(boxes, "hp<>8H" * (1 + len(boxes) // 6), strict=False))
    colours = model_colours(set(searched["model"]))
    known = sorted(set(dft["cell"]), key=lambda cell: (len(cell), cell))
    answers = known_energies(dft, smallest)
    anchor = dft["formation_mev_fu"].to_numpy()
    # The hull lies below what the search found if states of the charge-order stage are lower.
    lines = hulls.loc[hulls["scope"] == "searched", "formation_mev_fu"]
    shown = np.concatenate([found["formation_mev_fu"], lines.dropna(), anchor])
    window = window_of(shown, anchor, LEAST_ENERGY)
    for (row, column), panel in np.ndenumerate(axes):
        variant, name = variants[row], names[column]
        group = found[(found["model"] == name) & (found["variant"] == variant)]
        if group.empty:
            say(panel, "no search")
        for (cell, method), part in group.groupby(["cell", "method"]):
            random, hollow = method == "random", method != "ga"
            panel.scatter(
                part["x"] + DODGE * list(METHODS).index(str(method)),
                part["formation_mev_fu"],
                s=13 if hollow else 16,
                marker=markers[cell],
                facecolors="none" if hollow else colours[name],
                edgecolors="0.45" if random else colours[name] if hollow else "none",
                alpha=0.75,
                lw=0.6,
                zorder=2 if hollow else 3,
                label=f"{cell} cell, {METHODS[str(method)]}",
            )
        panel.scatter(
            dft["x"] - DODGE,
            dft["formation_mev_fu"],
            s=34,
            marker="_",
            color=COLOUR_DFT,
            lw=1.2,
            zorder=4,
            label=f"DFT ({', '.join(known)} cell)",
        )
        for one in group[group["state_key"].map(smallest).isin(answers.index)].itertuples():
            joined = [one.formation_mev_fu, answers[smallest[one.state_key]]]
            panel.plot([one.x, one.x - DODGE], joined, "-", color=COLOUR_ANY, lw=0.8, zorder=1)
        for identity in [*sorted(set(group["id"])), DFT]:
            own = hulls[hulls["id"] == identity]
            # Where DFT knows no larger cell its hull is that of the states alone.
            searched = own[own["scope"] == "searched"]
            own = own if searched.empty else searched
            colour = COLOUR_DFT if identity == DFT else colours[name]
            panel.plot(own["x"], own["formation_mev_fu"], ":", color=colour, lw=1)
        panel.set_ylim(window)
        note_hidden(panel, group["formation_mev_fu"].to_numpy(), window)
        panel.set_title(f"{name}, {variant or 'no variant'}")
        if row == shape[0] - 1:
            panel.set_xlabel(x_label(mobile_of(formation["state_key"])))
        if column == 0:
            panel.set_ylabel(ENERGY_LABEL)
    pending = [cell for cell in boxes if cell not in known]
    note = (
        "dotted: convex hull of these and of the charge-ordered states of the small cell (from distorted "
        "starts, not drawn); DFT and random search shifted in x; thin lines join a model and DFT on one "
        "arrangement"
    )
    if pending:
        note = f"DFT for the {', '.join(pending)} cells is pending; {note}"
    caption(figure, level, cells, note)
    legend(figure, axes.flat, 3)
    save_figure(figure, stem)


def draw_all(
    formation: pd.DataFrame,
    hulls: pd.DataFrame,
    voltages: pd.DataFrame,
    smallest: Mapping[str, str],
    *,
    level: str,
    cells: str,
    out: Path,
) -> None:
    """Draw all figures of the stage; controls have their own, so that panels stay readable.

    ``cells`` says what the models relaxed.
    """
    style()
    formation = formation.astype({"x": float, "formation_mev_fu": float})
    for suffix, wanted in (("", False), ("_controls", True)):

        def chosen(table: pd.DataFrame, controls: bool = wanted) -> pd.DataFrame:
            return table[(table["id"] == DFT) | (table["variant"].isin(CONTROLS) == controls)]

        part = chosen(formation)
        if suffix and set(part["id"]) == {DFT}:
            continue
        draw_formation(part, chosen(hulls), level, cells, out / f"hull{suffix}")
        draw_voltage(part, chosen(voltages), level, cells, out / f"voltage{suffix}")
        if suffix:
            write_csv(part[part["protocol"] != "search"], out / f"hull{suffix}.csv")
            write_csv(chosen(voltages), out / f"voltage{suffix}.csv")
    draw_found(formation, hulls, smallest, level, cells, out / "found")
    shown = (formation["id"] == DFT) | formation["method"].isin(METHODS)
    write_csv(formation[shown], out / "found.csv")
