"""Figures of the thermodynamics stage; the CSV beside each holds the data drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workflow_lib.core.io import save_figure, write_csv
from workflow_lib.core.plotting import (
    COLOUR_ANY,
    COLOUR_DFT,
    SEARCH_METHODS,
    SMALL,
    panel_shape,
    same_curves,
    style,
    window_of,
)
from workflow_lib.lattice.arrangement import StateKey
from workflow_lib.lattice.voltage import VoltageProfile, common_grid
from workflow_lib.models.identity import CONTROLS, OUTSIDE, VARIANTS, look_of, model_colours
from workflow_lib.results_schema import DFT, HEADLINE, REFERENCE, SEARCH
from workflow_lib.stages.thermodynamics.scores import lowest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHODS = {name: SEARCH_METHODS[name][0] for name in ("ga", "random", "screened")}
ENERGY_LABEL = "formation energy\n(meV per formula unit)"
LEAST_ENERGY = 100.0  # meV; ranges of y below these are not worth zooming into
LEAST_VOLTAGE = 0.2  # V
WIDTH_OF_ENTRY = 2.4  # inches that an entry of a legend takes
SEARCHED = {"-": "-."}  # line of a variant with what its search found; dotted for the others
DODGE = 0.014  # shift in x between variants, so that their points do not cover each other


def _variants(table: pd.DataFrame) -> list[str]:
    """Return the variants present, in the order of the configuration."""
    present = set(table["variant"]) - {None}
    return [name for name in (*VARIANTS, OUTSIDE.name, "") if name in present]


def _name(variant: str) -> str:
    """Return the name and meaning of a variant, for legends."""
    return f"{variant} ({look_of(variant).label})" if variant else "no variant"


def _grid(count: int, *, columns: int, height: float, label: str) -> tuple[Figure, list[Axes]]:
    """Make panels for ``count`` models with one energy scale; remove unused ones."""
    import matplotlib.pyplot as plt

    rows, columns = panel_shape(count, columns)
    size = (max(3.3 * columns, 5.2), height * rows + 1.2)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharey=True)
    for panel in axes[:, 0]:
        panel.set_ylabel(label)
    panels = list(axes.flat)
    for panel in panels[count:]:
        panel.remove()
    return figure, panels[:count]


def _caption(figure: Figure, level: str, cells: str, extra: str) -> None:
    text = f"models: {cells}; DFT: {level}; {extra}"
    width = int(13 * figure.get_figwidth())  # characters of this size that fit the figure
    figure.supxlabel(fill(text, width), fontsize=SMALL, color="0.25")


def _say(panel: Axes, text: str) -> None:
    panel.text(0.03, 0.93, text, transform=panel.transAxes, fontsize=SMALL, color="0.35")


def _note_hidden(panel: Axes, values: np.ndarray, window: tuple[float, float]) -> None:
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


def _legend(figure: Figure, panels: Iterable[Axes], columns: int) -> None:
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


def _say_same(panel: Axes, curves: dict[str, np.ndarray], *, top: bool) -> None:
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


def _several(table: pd.DataFrame) -> bool:
    """Return whether any model has several trainings, so that there are means and bands."""
    return bool(table.drop_duplicates("id").duplicated(["model", "variant"]).any())


def _x_label(formation: pd.DataFrame) -> str:
    return f"x (filled fraction of the {StateKey.parse(formation['state_key'].iloc[0]).mobile} sites)"


def _band(panel: Axes, group: pd.DataFrame, colour: str, line: str, label: str, marker: str) -> None:
    """Draw the lowest energy at each x: mean over trained models, with a band of one standard deviation."""
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
    variants, colours = _variants(models), model_colours(set(examined["model"]))
    anchor = dft["formation_mev_fu"].to_numpy()
    drawn = np.append(models["formation_mev_fu"].to_numpy(), anchor)
    window = window_of(drawn, anchor, LEAST_ENERGY)
    figure, panels = _grid(len(names), columns=3, height=2.6, label=ENERGY_LABEL)
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
            _band(panel, group, colour, look_of(variant).line, _name(variant), look_of(variant).marker)
            for identity in sorted(set(group["id"])):
                own = hulls[(hulls["id"] == identity) & (hulls["scope"] == "enumerated")]
                panel.plot(own["x"], own["formation_mev_fu"], ":", color=colour, lw=1)
                if len(own):
                    bottoms[f"hull of {variant}"] = np.interp(grid, own["x"], own["formation_mev_fu"])
        panel.set(title=name, xlabel=_x_label(formation))
        panel.set_ylim(window)
        _say_same(panel, bottoms, top=True)
        own_energies = models.loc[models["model"] == name, "formation_mev_fu"].to_numpy()
        _note_hidden(panel, own_energies, window)
        if name != DFT and not len(own_energies):
            _say(panel, "no end members: no formation energies")
    fmax = pd.to_numeric(dft["fmax_ev_a"]).max()
    _caption(
        figure,
        level,
        cells,
        f"largest force left in a DFT structure {fmax:.2f} eV/Å; points: all states (models shifted "
        "in x; pale: state seen in training), lines: lowest at each x, dotted: hull"
        + ("; bands: ± 1 s.d. over folds and seeds" if _several(models) else ""),
    )
    _legend(figure, panels, 4)
    save_figure(figure, stem)


def _profiles(voltages: pd.DataFrame) -> list[VoltageProfile]:
    return [
        VoltageProfile(
            np.append(own["x_low"].to_numpy(float), own["x_high"].to_numpy(float)[-1]),
            own["voltage_v"].to_numpy(float),
        )
        for _, own in voltages.groupby("id")
    ]


def _sampled(profiles: Sequence[VoltageProfile]) -> np.ndarray:
    """Return the mean voltage at many compositions."""
    x = (np.arange(240) + 0.5) / 240
    return np.mean([profile.at(x) for profile in profiles], axis=0)


def _staircase(
    panel: Axes,
    profiles: Sequence[VoltageProfile],
    colour: str,
    line: str,
    label: str,
    *,
    width: float = 1.4,
    band: bool = True,
) -> None:
    """Draw the mean voltage of some profiles, exact at every step, with a band of one s.d."""
    grid = common_grid(*profiles)
    middle = (grid[1:] + grid[:-1]) / 2
    values = np.array([profile.at(middle) for profile in profiles])
    mean = values.mean(axis=0)
    panel.plot(np.repeat(grid, 2)[1:-1], np.repeat(mean, 2), line, color=colour, lw=width, label=label)
    if len(values) > 1 and band:
        deviation = values.std(axis=0, ddof=1)
        panel.fill_between(
            np.repeat(grid, 2)[1:-1],
            np.repeat(mean - deviation, 2),
            np.repeat(mean + deviation, 2),
            color=colour,
            alpha=0.2,
            lw=0,
        )


def _no_voltage(mobile: str, level: str, stem: Path) -> None:
    """Write a figure that says why there are no voltages."""
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(5.2, 1.6))
    panel.set_axis_off()
    text = f"No voltages: the energy of {mobile} metal at {level} is not in thermodynamics.metals."
    panel.text(0.5, 0.5, fill(text, 60), ha="center", va="center")
    save_figure(figure, stem)


def draw_voltage(
    formation: pd.DataFrame, voltages: pd.DataFrame, level: str, cells: str, stem: Path
) -> None:
    """Draw one panel per model: voltage of DFT and of each variant, enumerated states and search."""
    models = voltages[voltages["id"] != DFT]
    names = sorted(set(formation.loc[formation["protocol"] == HEADLINE, "model"])) or [DFT]
    mobile = StateKey.parse(formation["state_key"].iloc[0]).mobile
    colours = model_colours(set(models["model"]))
    anchor = voltages.loc[voltages["id"] == DFT, "voltage_v"].to_numpy(float)
    if not len(anchor):
        _no_voltage(mobile, level, stem)
        return
    window = window_of(voltages["voltage_v"].to_numpy(float), anchor, LEAST_VOLTAGE)
    figure, panels = _grid(len(names), columns=3, height=2.4, label=f"voltage (V against {mobile} metal)")
    for panel, name in zip(panels, names, strict=True):
        curves = {}
        for scope, own in voltages[voltages["id"] == DFT].groupby("scope"):
            searched = scope == "searched"
            label, width = f"DFT{', with its larger cells' if searched else ''}", 0.8 if searched else 1.8
            _staircase(panel, _profiles(own), COLOUR_DFT, ":" if searched else "-", label, width=width)
            curves[label] = _sampled(_profiles(own))
        for variant in _variants(models):
            group = models[(models["model"] == name) & (models["variant"] == variant)]
            for scope, width in (("enumerated", 1.4), ("searched", 0.8)):
                part = group[group["scope"] == scope]
                if part.empty:
                    continue
                line = look_of(variant).line
                if scope == "searched":
                    line = SEARCHED.get(line, ":")
                label = f"{variant or 'no variant'}{', with its search' if scope == 'searched' else ''}"
                band = scope == "enumerated"
                _staircase(panel, _profiles(part), colours[name], line, label, width=width, band=band)
                curves[label] = _sampled(_profiles(part))
        panel.set(title=name, xlabel=_x_label(formation), xlim=(0, 1), ylim=window)
        _say_same(panel, curves, top=False)
        own_voltages = models.loc[models["model"] == name, "voltage_v"].to_numpy(float)
        _note_hidden(panel, own_voltages, window)
        if name != DFT and not len(own_voltages):
            _say(panel, "no voltage: no end members, or no metal at its level")
    bands = "; bands: ± 1 s.d. over folds and seeds" if _several(models) else ""
    _caption(figure, level, cells, f"{mobile} metal as thermodynamics.metals gives it{bands}")
    _legend(figure, panels, 3)
    save_figure(figure, stem)


def draw_found(formation: pd.DataFrame, hulls: pd.DataFrame, level: str, cells: str, stem: Path) -> None:
    """Draw what each model's searches found, by composition, with the DFT energies that exist.

    Where DFT knows what a search found, a line joins the two.
    """
    import matplotlib.pyplot as plt

    searched = formation[(formation["protocol"] == SEARCH) & formation["method"].isin(METHODS)]
    found = searched[searched["formation_mev_fu"].notna()]
    dft = formation[(formation["id"] == DFT) & formation["formation_mev_fu"].notna()]
    names, variants = sorted(set(searched["model"])) or [DFT], _variants(searched) or [""]
    shape = (len(variants), len(names))
    size = (max(2.5 * shape[1] + 0.6, 6.4), 2.4 * shape[0] + 1.2)
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False, sharex=True, sharey=True)
    boxes = sorted(set(found["cell"]), key=lambda cell: (len(cell), cell))
    markers = dict(zip(boxes, "hp<>8H" * (1 + len(boxes) // 6), strict=False))
    colours = model_colours(set(searched["model"]))
    known = sorted(set(dft["cell"]), key=lambda cell: (len(cell), cell))
    by_state = dft.groupby("state_key")["formation_mev_fu"].min()
    anchor = dft["formation_mev_fu"].to_numpy()
    # The hull lies below what the search found if states of the charge-order stage are lower.
    lines = hulls.loc[hulls["scope"] == "searched", "formation_mev_fu"]
    shown = np.concatenate([found["formation_mev_fu"], lines.dropna(), anchor])
    window = window_of(shown, anchor, LEAST_ENERGY)
    for (row, column), panel in np.ndenumerate(axes):
        variant, name = variants[row], names[column]
        group = found[(found["model"] == name) & (found["variant"] == variant)]
        if group.empty:
            _say(panel, "no search")
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
        for one in group[group["state_key"].isin(dft["state_key"])].itertuples():
            joined = [one.formation_mev_fu, by_state[one.state_key]]
            panel.plot([one.x, one.x - DODGE], joined, "-", color=COLOUR_ANY, lw=0.8, zorder=1)
        for identity in [*sorted(set(group["id"])), DFT]:
            own = hulls[(hulls["id"] == identity) & (hulls["scope"] == "searched")]
            colour = COLOUR_DFT if identity == DFT else colours[name]
            panel.plot(own["x"], own["formation_mev_fu"], ":", color=colour, lw=1)
        panel.set_ylim(window)
        _note_hidden(panel, group["formation_mev_fu"].to_numpy(), window)
        panel.set_title(f"{name}, {variant or 'no variant'}")
        if row == shape[0] - 1:
            panel.set_xlabel(_x_label(formation))
        if column == 0:
            panel.set_ylabel(ENERGY_LABEL)
    pending = [cell for cell in boxes if cell not in known]
    note = (
        "dotted: convex hull of these and of the charge-ordered states of the small cell (from distorted "
        "starts, not drawn); DFT and random search shifted in x"
    )
    if pending:
        note += f"; DFT for the {', '.join(pending)} cells is pending"
    _caption(figure, level, cells, note)
    _legend(figure, axes.flat, 3)
    save_figure(figure, stem)


def draw_all(
    formation: pd.DataFrame,
    hulls: pd.DataFrame,
    voltages: pd.DataFrame,
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
    draw_found(formation, hulls, level, cells, out / "found")
    shown = (formation["id"] == DFT) | formation["method"].isin(METHODS)
    write_csv(formation[shown], out / "found.csv")
