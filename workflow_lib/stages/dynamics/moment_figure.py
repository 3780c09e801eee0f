"""Moments, energy and diffraction against time, in the form of Fig. 4 of the CHGNet paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workflow_lib.core.io import save_figure
from workflow_lib.core.plotting import OKABE_ITO, style
from workflow_lib.simulation.analysis.diffraction import broadened
from workflow_lib.stages.dynamics.settings import TWO_THETA, MomentStudy, Study

TIME_BINS = 200
"""Most columns of the map of moments."""


def draw(
    study: Study,
    *,
    series: pd.DataFrame,
    times: np.ndarray,
    energies: np.ndarray,
    histogram: np.ndarray,
    edges: np.ndarray,
    patterns: pd.DataFrame,
    peaks: pd.DataFrame,
    note: str,
    stem: Path,
) -> None:
    """Draw diffraction patterns, moments by coordination, energy with peaks, and the map of moments.

    ``times`` [frames] ps; ``energies`` [frames] meV per ligand; ``histogram`` [frames, bins]
    between ``edges`` muB; ``note`` goes below the title.
    """
    asked = study.moments
    assert asked is not None
    style()
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(7.4, 5.4))
    [job] = study.jobs()
    _patterns(axes[0][0], study, patterns)
    _coordination(axes[1][0], asked, series)
    _energy(axes[0][1], asked, series, times, energies, peaks)
    _map(figure, axes[1][1], asked, times, histogram, edges)
    figure.suptitle(
        f"{job.system.label or job.system.name}, {study.potential}, {study.run.ensemble} at "
        f"{job.temperature:g} K, {times[-1]:.3g} ps{note}",
        fontsize=9,
    )
    save_figure(figure, stem)


def _patterns(ax: Any, study: Study, patterns: pd.DataFrame) -> None:
    ax.set_xlabel("2$\\theta$ (degrees)")
    ax.set_yticks([])
    asked = study.diffraction
    if asked is None:
        ax.set_title("no diffraction asked for", fontsize=8)
        return
    grid = np.linspace(*TWO_THETA, 1500)
    curves = {
        float(str(time)): broadened(group["two_theta"].to_numpy(), group["intensity"].to_numpy(), grid)
        for time, group in patterns.groupby("time_ps")
    }
    height = max((curve.max() for curve in curves.values()), default=1.0)
    for place, (time, curve) in enumerate(curves.items()):
        ax.plot(grid, curve / height + 0.7 * place, color=OKABE_ITO[place % len(OKABE_ITO)], linewidth=0.9)
        ax.text(TWO_THETA[1], 0.7 * place + 0.05, f"{time:.3g} ps", ha="right", fontsize=7)
    for angle in asked.peaks:
        ax.axvline(angle, color="0.6", linestyle=":", linewidth=0.8)
    ax.set_ylabel("intensity")
    ax.set_title(f"X-ray diffraction of averaged structures ({_radiation(asked.radiation)})", fontsize=8)


def _radiation(name: str) -> str:
    """Return pymatgen's name of a radiation as it is written: CuKa1 is Cu K alpha_1."""
    line = {"a": "alpha", "b": "beta"}[name[3]]
    index = f"_{name[4:]}" if name[4:] else ""
    return f"{name[:2]} K$\\{line}{index}$"


def _coordination(ax: Any, asked: MomentStudy, series: pd.DataFrame) -> None:
    kinds = (
        ("octahedral", f"octahedral ({asked.coordination} {asked.ligand})", OKABE_ITO[0]),
        ("tetrahedral", f"fewer than {asked.coordination} {asked.ligand}", OKABE_ITO[5]),
    )
    for name, label, colour in kinds:
        count = series[name].mean()
        ax.plot(
            series["time_ps"],
            series[f"{name}_moment_mub"],
            "o-",
            markersize=3,
            color=colour,
            label=f"{label}, on average {count:.1f}",
        )
    for threshold in asked.thresholds:
        ax.axhline(threshold, color="0.6", linestyle=":", linewidth=0.8)
    ax.set_xlabel("time (ps)")
    ax.set_ylabel(f"mean moment of {asked.element} ($\\mu_B$)")
    ax.legend()


def _energy(
    ax: Any,
    asked: MomentStudy,
    series: pd.DataFrame,
    times: np.ndarray,
    energies: np.ndarray,
    peaks: pd.DataFrame,
) -> None:
    ax.plot(times, energies, color="0.8", linewidth=0.5)
    ax.plot(
        series["time_ps"],
        series["energy_mev_ligand"],
        color="black",
        linewidth=1.2,
        label="potential energy",
    )
    ax.set_xlabel("time (ps)")
    ax.set_ylabel(f"energy (meV per {asked.ligand})")
    twin = ax.twinx()
    twin.grid(visible=False)
    twin.spines["right"].set_visible(True)
    columns = [str(name) for name in peaks if str(name).startswith("peak_")]
    for place, name in enumerate(columns):
        angle = name.removeprefix("peak_")
        twin.plot(
            peaks["time_ps"],
            100 * peaks[name],
            "--",
            color=OKABE_ITO[place + 1],
            linewidth=1,
            label=f"peak at {angle}$^\\circ$",
        )
    if columns:
        twin.set_ylabel("share of all intensity (%)")
        handles = [line for axis in (ax, twin) for line in axis.get_legend_handles_labels()[0]]
        twin.legend(handles=handles, frameon=True, framealpha=1)  # above the lines of both axes


def _map(
    figure: Any, ax: Any, asked: MomentStudy, times: np.ndarray, histogram: np.ndarray, edges: np.ndarray
) -> None:
    columns = min(TIME_BINS, len(times))
    parts = np.array_split(histogram, columns)
    picture = np.stack([part.mean(axis=0) for part in parts], axis=1)
    mesh = ax.pcolormesh(np.linspace(0, times[-1], columns + 1), edges, picture, cmap="inferno")
    for threshold in asked.thresholds:
        ax.axhline(threshold, color="white", linestyle=":", linewidth=0.8)
    ax.set_xlabel("time (ps)")
    ax.set_ylabel(f"moment of {asked.element} ($\\mu_B$)")
    ax.grid(visible=False)
    figure.colorbar(mesh, ax=ax, label="atoms in a bin")
