"""Mean squared displacements and Arrhenius plot, in the form of Fig. 6 of the CHGNet paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workflow_lib.core.io import save_figure
from workflow_lib.core.plotting import OKABE_ITO, style
from workflow_lib.simulation.analysis.diffusion import Arrhenius
from workflow_lib.stages.dynamics.settings import Study

MARKERS = "osD^v"


def draw(
    study: Study,
    curves: pd.DataFrame,
    table: pd.DataFrame,
    fits: dict[str, Arrhenius | None],
    note: str,
    stem: Path,
) -> None:
    """Draw the displacement of every trajectory, and diffusivities against inverse temperature.

    ``note`` goes below the title.
    """
    assert study.diffusion is not None
    style()
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3.3))
    _curves(left, study, curves)
    _arrhenius(right, study, table, fits)
    figure.suptitle(
        f"{study.diffusion.element} in {study.name}, {study.potential}, "
        f"{curves['time_ps'].max() * 2:.3g} ps{note}",
        fontsize=9,
    )
    save_figure(figure, stem)


def _colour(study: Study, system: str) -> str:
    return OKABE_ITO[[item.name for item in study.systems].index(system) % len(OKABE_ITO)]


def _curves(ax: Any, study: Study, curves: pd.DataFrame) -> None:
    lines = ("-", "--", "-.", ":")
    hot = sorted({job.temperature for job in study.jobs()}, reverse=True)
    for (system, asked), group in curves.groupby(["system", "asked_k"]):
        mean = group.groupby("time_ps")[["msd_a2", "msd_error_a2"]].mean()
        colour = _colour(study, str(system))
        line = lines[hot.index(float(str(asked))) % len(lines)]
        temperature = group["temperature_k"].mean()
        label = next(item.label or item.name for item in study.systems if item.name == system)
        ax.plot(mean.index, mean["msd_a2"], line, color=colour, label=f"{label}, {temperature:.4g} K")
        ax.fill_between(
            mean.index,
            mean["msd_a2"] - mean["msd_error_a2"],
            mean["msd_a2"] + mean["msd_error_a2"],
            color=colour,
            alpha=0.12,
            linewidth=0,
        )
    ax.set_xlabel("time (ps)")
    ax.set_ylabel("mean squared displacement ($\\mathrm{\\AA}^2$)")
    ax.set_ylim(bottom=0)
    ax.legend(fontsize=6)


def _arrhenius(ax: Any, study: Study, table: pd.DataFrame, fits: dict[str, Arrhenius | None]) -> None:
    notes = []
    drawn = False
    for place, system in enumerate(study.systems):
        own = table[(table["system"] == system.name) & table["diffusivity_cm2_s"].notna()]
        label, colour = system.label or system.name, _colour(study, system.name)
        fit = fits[system.name]
        if fit is not None:
            temperatures = np.linspace(own["temperature_k"].min(), own["temperature_k"].max(), 50)
            ax.plot(1000 / temperatures, fit.at(temperatures), color=colour, linewidth=1)
            label += f": {1000 * fit.energy:.0f} $\\pm$ {1000 * fit.energy_error:.0f} meV"
        if len(own):
            drawn = True
            ax.errorbar(
                1000 / own["temperature_k"],
                own["diffusivity_cm2_s"],
                yerr=own["diffusivity_error_cm2_s"],
                fmt=MARKERS[place % len(MARKERS)],
                color=colour,
                markersize=5,
                capsize=2,
                label=label,
            )
        without = table[(table["system"] == system.name) & table["diffusivity_cm2_s"].isna()]
        notes += [
            f"{system.label or system.name}, {row.temperature_k:.4g} K: {row.reason}"
            for row in without.itertuples()
        ]
    ax.set_xlabel("1000 / T (1/K)")
    ax.set_ylabel("self-diffusion (cm$^2$/s)")
    if drawn:
        ax.set_yscale("log")
        ax.legend(fontsize=7)
    if notes:
        ax.set_title("no value:\n" + "\n".join(notes), fontsize=6, loc="left")
