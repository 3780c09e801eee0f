"""Figures of all systems: diagrams, entropy, isotherms; the CSV beside each holds the data drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workflow_lib.core.io import save_figure
from workflow_lib.core.plotting import OKABE_ITO, legend_entries, style, x_label
from workflow_lib.lattice.entropy import ideal_mixing, ideal_with_charges
from workflow_lib.lattice.host import Host
from workflow_lib.stages.phase_diagram.boundaries import CROSSING, TANGENT, grid_step
from workflow_lib.stages.phase_diagram.settings import DECORATED, PLAIN, Mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {DECORATED: "with electronic entropy", PLAIN: "without electronic entropy"}
ROOM = 300.0  # K


@dataclass(frozen=True, slots=True)
class System:
    """What is drawn of a system, by expansion: isotherms, free energies, boundaries; and its entropy."""

    label: str
    host: Host
    isotherms: dict[str, pd.DataFrame]
    free: dict[str, pd.DataFrame]
    boundaries: dict[str, pd.DataFrame]
    entropy: pd.DataFrame
    experiment: Sequence[Mark] = ()

    def with_entropy(self, table: pd.DataFrame) -> System:
        """Return the system with its entropy taken apart."""
        return replace(self, entropy=table)


def draw_diagram(systems: Sequence[System], stem: Path) -> None:
    """Draw temperature against composition, (a) with and (b) without charge states, a row a system.

    Dots: points of one phase of the isotherms, coloured by chemical potential, hollow where the common
    tangents say that two phases are lower; dashed lines from phase to phase: these; crosses: the
    equilibrium of the branches from the end members. What experiment has found stands in both panels of
    a system.
    """
    import matplotlib.pyplot as plt

    style()
    columns = [name for name in (DECORATED, PLAIN) if any(name in s.boundaries for s in systems)]
    size = (4.0 * len(columns) + 0.4, 2.8 * len(systems) + 0.7)
    figure, axes = plt.subplots(len(systems), len(columns), figsize=size, squeeze=False, sharex=True)
    for system, row in zip(systems, axes, strict=True):
        for place, (panel, name) in enumerate(zip(row, columns, strict=True)):
            title = f"({'ab'[columns.index(name)]}) {system.label},\n{TITLES[name]}"
            panel.set_title(title, fontsize=8.5)
            if name in system.boundaries:
                _diagram(
                    panel, system.isotherms[name], system.boundaries[name], grid_step(system.free[name])
                )
            else:
                panel.text(0.5, 0.5, "no charge states", transform=panel.transAxes, ha="center")
            _experiment(panel, system)
            panel.set(xlim=(-0.02, 1.02))
            if place == 0:
                panel.set_ylabel("temperature (K)")
    for system, row in zip(systems, axes, strict=True):
        for panel in row:
            panel.set_xlabel(x_label(system.host.mobile), fontsize=8)
    _legend(figure, ncols=2)
    save_figure(figure, stem)


def _legend(figure: Figure, *, ncols: int) -> None:
    """Put one legend for all panels below them, each label once."""
    entries = legend_entries(figure.axes)
    look: dict[str, Any] = {"loc": "outside lower center", "ncols": ncols, "fontsize": 7}
    # Long handles tell dashes from dots and dashes.
    figure.legend(entries.values(), entries.keys(), handlelength=4, **look)


def _experiment(panel: Axes, system: System) -> None:
    for mark, symbol in zip(system.experiment, cycle("*^sD"), strict=False):
        look: dict[str, Any] = {"marker": "|", "ms": 9, "ls": "-", "lw": 1.6}
        if len(mark.x) == 1:
            look = {"marker": symbol, "ms": 9 if symbol == "*" else 6, "ls": ""}
        there = [mark.temperature] * len(mark.x)
        label = f"experiment, {system.host.mobile}: {mark.label}"
        panel.plot(mark.x, there, color=OKABE_ITO[3], mec=OKABE_ITO[3], zorder=5, label=label, **look)


def _diagram(panel: Axes, isotherms: pd.DataFrame, boundaries: pd.DataFrame, step: float) -> None:
    tangents = boundaries[boundaries["rule"] == TANGENT]
    drawn = None
    colours = {"vmin": isotherms["mu_ev"].min(), "vmax": isotherms["mu_ev"].max(), "cmap": "viridis"}
    for temperature, own in isotherms[isotherms["single_phase"]].groupby("temperature_k"):
        gaps = tangents[np.isclose(tangents["temperature_k"], float(temperature))]  # type: ignore[arg-type]
        mu, x = own["mu_ev"].to_numpy(float), own["x"].to_numpy(float)
        inside = np.zeros(len(x), dtype=bool)
        for low, high in gaps[["x_low", "x_high"]].to_numpy(float):
            # The ends are known to a step of the grid: points this near to one belong to its phase.
            inside |= (x > low + step) & (x < high - step)
        there = np.full(len(x), temperature)
        # Tens of thousands of dots: as vectors they would make a page of the run megabytes larger.
        dots: dict[str, Any] = {"s": 9, "rasterized": True}
        look: dict[str, Any] = {"facecolors": "none", "edgecolors": "0.6", "lw": 0.6}
        panel.scatter(x[inside], there[inside], label="metastable, of one phase", **look, **dots)
        label = "one phase (coloured by chemical potential)"
        drawn = panel.scatter(
            x[~inside], there[~inside], c=mu[~inside], lw=0, label=label, **colours, **dots
        )
    if drawn is not None:
        panel.figure.colorbar(drawn, ax=panel, pad=0.02).set_label("chemical potential (eV)", fontsize=7)
    looks: tuple[tuple[str, dict[str, Any], str], ...] = (
        (
            TANGENT,
            {"color": "0.15", "ls": "--", "lw": 1.0, "marker": "|", "ms": 8},
            "two phases (common tangents)",
        ),
        (CROSSING, {"color": OKABE_ITO[5], "ls": "", "marker": "x", "ms": 5}, "branches in equilibrium"),
    )
    for rule, line, label in looks:
        ends = boundaries.loc[boundaries["rule"] == rule, ["x_low", "x_high", "temperature_k"]]
        for low, high, temperature in ends.to_numpy(float).tolist():
            panel.plot([low, high], [temperature] * 2, label=label, **line)


def draw_entropy(systems: Sequence[System], stem: Path) -> None:
    """Draw the entropy against x, and its parts where they were sampled, with the ideal limits."""
    import matplotlib.pyplot as plt

    style()
    figure, axes = plt.subplots(
        len(systems), 2, figsize=(7.4, 2.7 * len(systems) + 0.4), squeeze=False, sharey="row"
    )
    grid = np.linspace(0, 1, 101)
    for system, (left, right) in zip(systems, axes, strict=True):
        for name, lines in ((DECORATED, "-"), (PLAIN, ":")):
            if name not in system.free:
                continue
            temperatures = sorted(set(system.free[name]["temperature_k"]))
            for place, temperature in enumerate(temperatures[:: max(1, len(temperatures) // 3)]):
                own = system.free[name][system.free[name]["temperature_k"] == temperature]
                label = f"{temperature:g} K, {TITLES[name]}"
                left.plot(own["x"], own["entropy_k_site"], lines, color=OKABE_ITO[place], label=label)
        if DECORATED in system.free:
            ideal = ideal_with_charges(system.host, grid)
            left.plot(grid, ideal, color="0.6", lw=0.8, label="ideal, ions and charges")
        left.plot(grid, ideal_mixing(grid), color="0.6", lw=0.8, ls="--", label="ideal, ions")
        left.set(
            title=system.label, xlabel=x_label(system.host.mobile), ylabel="entropy (k per mobile site)"
        )
        _parts(right, system)
    _legend(figure, ncols=4)
    save_figure(figure, stem)


def _parts(panel: Axes, system: System) -> None:
    panel.set(title="S(A,e) = S'(A) + S'(e) + I(A,e)", xlabel="temperature (K)")
    if system.entropy.empty:
        panel.text(0.5, 0.5, "no charge states", transform=panel.transAxes, ha="center")
        return
    for place, (x, own) in enumerate(system.entropy.groupby("x")):
        for column, line, name in (
            ("total_k_site", "-", "S(A,e)"),
            ("ions_k_site", "--", "S'(A)"),
            ("charges_k_site", "-.", "S'(e)"),
            ("mutual_k_site", ":", "I(A,e)"),
        ):
            look: dict[str, Any] = {"marker": ".", "color": OKABE_ITO[(place + 4) % len(OKABE_ITO)]}
            label = f"{name}, x = {x:.2f}"
            panel.plot(own["temperature_k"], own[column], line, label=label, **look)


def draw_isotherms(systems: Sequence[System], stem: Path) -> None:
    """Draw both scans of every replica at the temperature nearest to 300 K, as V or mu, and C(T)."""
    import matplotlib.pyplot as plt

    style()
    figure, axes = plt.subplots(len(systems), 2, figsize=(7.4, 2.7 * len(systems) + 0.4), squeeze=False)
    for system, (left, right) in zip(systems, axes, strict=True):
        volts = all(table["voltage_v"].notna().all() for table in system.isotherms.values())
        for place, (name, table) in enumerate(system.isotherms.items()):
            temperatures = np.array(sorted(set(table["temperature_k"])))
            near = float(temperatures[np.abs(temperatures - ROOM).argmin()])
            for direction, line in (("up", "-"), ("down", "--")):
                own = table[(table["temperature_k"] == near) & (table["direction"] == direction)]
                column = "voltage_v" if volts else "mu_ev"
                label = f"{near:g} K, {TITLES[name]}, {'filling' if direction == 'up' else 'emptying'}"
                for _, replica in own.groupby("replica"):
                    look: dict[str, Any] = {"color": OKABE_ITO[place], "lw": 0.8, "label": label}
                    left.plot(replica["x"], replica[column], line, **look)
                    label = "_"  # one entry of the legend for all replicas
            free = system.free[name]
            for x in _three(free["x"].to_numpy(float)):
                own = free[free["x"] == x].sort_values("temperature_k")
                right.plot(
                    own["temperature_k"],
                    own["heat_capacity_k_site"],
                    "-" if name == DECORATED else ":",
                    label=f"x = {x:.2f}, {TITLES[name]}",
                )
        metal = f"voltage (V against {system.host.mobile} metal)"
        left.set(
            title=system.label,
            xlabel=x_label(system.host.mobile),
            ylabel=metal if volts else "chemical potential (eV)",
        )
        right.set(xlabel="temperature (K)", ylabel="C (k per mobile site)")
    _legend(figure, ncols=3)
    save_figure(figure, stem)


def _three(x: np.ndarray) -> list[float]:
    """Return the compositions nearest to 1/4, 1/2 and 3/4."""
    every = np.unique(x)
    return sorted({float(every[np.abs(every - value).argmin()]) for value in (0.25, 0.5, 0.75)})
