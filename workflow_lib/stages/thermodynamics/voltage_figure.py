"""The figure of voltages: of DFT and of each model, exact at every step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workflow_lib.core.io import save_figure
from workflow_lib.core.plotting import (
    COLOUR_DFT,
    LEAST_VOLTAGE,
    window_of,
    x_label,
)
from workflow_lib.lattice.arrangement import StateKey, mobile_of
from workflow_lib.lattice.voltage import VoltageProfile, common_grid
from workflow_lib.models.identity import look_of, model_colours, variants_in
from workflow_lib.results_schema import DFT, HEADLINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

from workflow_lib.stages.thermodynamics.panels import (
    caption,
    legend,
    model_panels,
    note_hidden,
    say,
    say_same,
    several,
    without_ends,
)

SEARCHED = {"-": "-."}  # line of a variant with what its search found; dotted for the others


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
    examined = formation[formation["protocol"] == HEADLINE]
    names = sorted(set(examined["model"])) or [DFT]
    mobile = StateKey.parse(formation["state_key"].iloc[0]).mobile
    colours = model_colours(set(models["model"]))
    anchor = voltages.loc[voltages["id"] == DFT, "voltage_v"].to_numpy(float)
    if not len(anchor):
        _no_voltage(mobile, level, stem)
        return
    window = window_of(voltages["voltage_v"].to_numpy(float), anchor, LEAST_VOLTAGE)
    label = f"voltage (V against {mobile} metal)"
    figure, panels = model_panels(len(names), height=2.4, label=label)
    for panel, name in zip(panels, names, strict=True):
        curves = {}
        for scope, own in voltages[voltages["id"] == DFT].groupby("scope"):
            searched = scope == "searched"
            label, width = f"DFT{', with its larger cells' if searched else ''}", 0.8 if searched else 1.8
            _staircase(panel, _profiles(own), COLOUR_DFT, ":" if searched else "-", label, width=width)
            curves[label] = _sampled(_profiles(own))
        for variant in variants_in(models["variant"]):
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
        panel.set(title=name, xlabel=x_label(mobile_of(formation["state_key"])), xlim=(0, 1), ylim=window)
        say_same(panel, curves, top=False)
        own_voltages = models.loc[models["model"] == name, "voltage_v"].to_numpy(float)
        note_hidden(panel, own_voltages, window)
        if name != DFT and not len(own_voltages):
            say(panel, "no voltage: no end members, or no metal at its level")
    bands = "; bands: ± 1 s.d. over folds and seeds" if several(models) else ""
    bands += without_ends(examined)
    caption(figure, level, cells, f"{mobile} metal as thermodynamics.metals gives it{bands}")
    legend(figure, panels, 3)
    save_figure(figure, stem)
