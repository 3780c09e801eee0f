"""What is read from the trajectories of a study: moments and diffraction in time, diffusion, or hops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workflow_lib.core.elements import atomic_number
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import write_csv, write_json
from workflow_lib.core.places import evenly
from workflow_lib.lattice.redox import LABELS
from workflow_lib.results_reading import clear, read_document, seal
from workflow_lib.results_schema import status_of
from workflow_lib.simulation.analysis.charges import classified, moment_histogram
from workflow_lib.simulation.analysis.coordination import averaged, coordination
from workflow_lib.simulation.analysis.diffraction import lines, peak
from workflow_lib.simulation.analysis.diffusion import arrhenius, diffusivity, mean_square
from workflow_lib.simulation.dynamics.trajectory import Trajectory
from workflow_lib.stages.dynamics import diffusion_figure, moment_figure
from workflow_lib.stages.dynamics.hopping import read_hopping
from workflow_lib.stages.dynamics.questions import Given, check_questions
from workflow_lib.stages.dynamics.rows import row_of, start_note
from workflow_lib.stages.dynamics.settings import TWO_THETA, Diffraction, Diffusion, Job, MomentStudy, Study

Trajectories = Mapping[str, Trajectory]
Summaries = Mapping[str, Mapping[str, Any]]
"""Of all trajectories of a study, by the id of the job."""
COMMAND = "dynamics-study"
FRAMES_AN_INTERVAL = 10
"""Frames of an interval whose coordination is counted; more differ little."""
HISTOGRAM_BIN = 0.05
"""muB."""
PEAK_POINTS = 60
"""Averaged structures along a trajectory whose peaks are followed."""


def run_study(study: Study, folders: Sequence[Path], out: str | Path) -> dict[str, Any]:
    """Write tables, figure and ``study.json`` of a study to ``out``; return what ``study.json`` holds.

    ``folders`` are those of its trajectories. Raises UserError for one that is missing or not complete, and
    as ``check_questions`` does.
    """
    out = Path(out)
    given = {folder.name: folder for folder in folders}
    missing = [job.id for job in study.jobs() if job.id not in given]
    if missing:
        raise UserError(f"{study.name}: the trajectories {', '.join(missing)} are missing; run them first")
    summaries = {
        job.id: read_document(
            given[job.id] / "summary.json", "dynamics", ("trajectory", "start_converged", "reduced")
        )
        for job in study.jobs()
    }
    trajectories = {name: Trajectory(summary["trajectory"]) for name, summary in summaries.items()}
    for job in study.jobs():
        trajectory, summary = trajectories[job.id], summaries[job.id]
        _require_same(job, trajectory, summary)
        reduced = summary["reduced"] if LABELS in trajectory.names else None
        check_questions(job, trajectory.starts[0], Given(reduced, "magmoms" in trajectory.names))
    result: dict[str, Any] = {
        "source": study.name,
        "trajectories": list(summaries.values()),
        "differs": study.differs,
    }
    clear(out, COMMAND)
    if study.moments is not None:
        result |= _moments(study, study.moments, trajectories, summaries, out)
    if study.diffusion is not None:
        result |= _diffusion(study, study.diffusion, trajectories, summaries, out)
    if study.hopping is not None:
        result |= read_hopping(study, study.hopping, trajectories, summaries, out)
    write_json(out / "study.json", result)
    seal(out, COMMAND, source=out.name)
    return result


def _require_same(job: Job, trajectory: Trajectory, summary: Mapping[str, Any]) -> None:
    """Raise UserError if a trajectory was made otherwise than the study says: its times would be wrong."""
    asked = job.study.run.computed | {"potential": job.study.potential, "temperature_k": job.temperature}
    made = trajectory.header["settings"] | {name: summary[name] for name in ("potential", "temperature_k")}
    for name, value in asked.items():
        if name in made and made[name] != value:
            raise UserError(
                f"{job.id}: its trajectory was made with {name}: {made[name]}, the study says {value}; run "
                "the trajectory again, or put the setting back"
            )


# Moments and diffraction


def _moments(
    study: Study, asked: MomentStudy, trajectories: Trajectories, summaries: Summaries, out: Path
) -> dict[str, Any]:
    [job] = study.jobs()
    trajectory = trajectories[job.id]
    first = study.run.first_frame
    moments = trajectory.per_atom("magmoms")
    assert moments is not None
    atoms = trajectory.starts[0]
    redox = atoms.numbers == atomic_number(asked.element)
    own = moments[first:, redox].astype(float)
    times = trajectory.times_ps[first:] - trajectory.times_ps[first]
    series = _intervals(study, asked, trajectory, own, times)
    write_csv(series, out / "series.csv")
    edges = _edges(own)
    energies = trajectory.read("energy")[first:, 0]
    ligands = int((atoms.numbers == atomic_number(asked.ligand)).sum())
    patterns, peaks = pd.DataFrame(columns=["time_ps", "two_theta", "intensity"]), pd.DataFrame()
    if study.diffraction is not None:
        patterns, peaks = _diffraction(study, study.diffraction, trajectory)
        write_csv(patterns, out / "patterns.csv")
        write_csv(peaks, out / "peaks.csv")
    moment_figure.draw(
        study,
        series=series,
        times=times,
        energies=1000 * (energies - series["energy_ev"].iloc[0]) / ligands,
        histogram=moment_histogram(own, edges),
        edges=edges,
        patterns=patterns,
        peaks=peaks,
        note=start_note(study, summaries),
        stem=out / "moments",
    )
    ends = {"first": series.iloc[0], "last": series.iloc[-1]}
    return {name: row.to_dict() for name, row in ends.items()}


def _edges(moments: np.ndarray) -> np.ndarray:
    low, high = np.floor(moments.min() / HISTOGRAM_BIN), np.ceil(moments.max() / HISTOGRAM_BIN) + 1
    return np.arange(low, high + 1) * HISTOGRAM_BIN


def _intervals(
    study: Study, asked: MomentStudy, trajectory: Trajectory, moments: np.ndarray, times: np.ndarray
) -> pd.DataFrame:
    """Return one row an interval: mean energy, moments by coordination, and charge states by threshold."""
    first = study.run.first_frame
    atoms = trajectory.starts[0]
    positions, cells = trajectory.positions()[first:], trajectory.cells()[first:]
    energies = trajectory.read("energy")[first:, 0]
    temperatures = trajectory.read("temperature")[first:, 0]
    element, ligand = atomic_number(asked.element), atomic_number(asked.ligand)
    ligands = int((atoms.numbers == ligand).sum())
    rows, parts = [], _slices(times, asked.interval_ps)
    start = energies[parts[0]].mean()
    for frames in parts:
        chosen = frames[evenly(len(frames), FRAMES_AN_INTERVAL)]
        around = np.stack(
            [
                coordination(positions[i], cells[i], atoms.numbers, element, ligand, asked.cutoff)
                for i in chosen
            ]
        )
        seen = moments[chosen]
        octahedral, tetrahedral = around == asked.coordination, around < asked.coordination
        row: dict[str, Any] = {
            "time_ps": times[frames].mean(),
            "energy_ev": energies[frames].mean(),
            "energy_mev_ligand": 1000 * (energies[frames].mean() - start) / ligands,
            "temperature_k": temperatures[frames].mean(),
            "tetrahedral": tetrahedral.sum(axis=1).mean(),
            "octahedral": octahedral.sum(axis=1).mean(),
            "tetrahedral_moment_mub": seen[tetrahedral].mean() if tetrahedral.any() else np.nan,
            "octahedral_moment_mub": seen[octahedral].mean() if octahedral.any() else np.nan,
            "moment_mub": moments[frames].mean(),
        }
        classes = classified(moments[frames], asked.thresholds)
        for index, name in enumerate(asked.states):
            row[f"count_{name}"] = (classes == index).sum(axis=1).mean()
        rows.append(row)
    return pd.DataFrame(rows)


def _slices(times: np.ndarray, interval: float) -> list[np.ndarray]:
    """Return the frames of each interval (ps); a last one of less than half of it joins the one before."""
    place = np.minimum((times / interval + 1e-9).astype(int), max(0, int(times[-1] / interval - 0.5)))
    return [np.flatnonzero(place == number) for number in np.unique(place)]


def _diffraction(
    study: Study, asked: Diffraction, trajectory: Trajectory
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return lines of the patterns of averaged structures, and the strength of the peaks in time."""
    first = study.run.first_frame
    atoms = trajectory.starts[0]
    positions, cells = trajectory.positions()[first:], trajectory.cells()[first:]
    half = max(1, round(asked.average_ps / study.run.frame_ps / 2))
    last = len(positions) - 1

    def around(frame: int) -> tuple[float, np.ndarray, np.ndarray]:
        frames = slice(max(0, frame - half), min(last, frame + half) + 1)
        angles, strengths = lines(
            averaged(positions[frames], cells[frames], atoms), asked.radiation, TWO_THETA
        )
        return frame * study.run.frame_ps, angles, strengths

    patterns = []
    for frame in evenly(last + 1, asked.patterns):
        time, angles, strengths = around(frame)
        patterns.append(pd.DataFrame({"time_ps": time, "two_theta": angles, "intensity": strengths}))
    points = min(PEAK_POINTS, 1 + last // (2 * half))
    rows = []
    for frame in evenly(last + 1, points):
        time, angles, strengths = around(frame)
        row = {"time_ps": time}
        row |= {f"peak_{place:g}": peak(angles, strengths, place, asked.window) for place in asked.peaks}
        rows.append(row)
    return pd.concat(patterns, ignore_index=True), pd.DataFrame(rows)


# Diffusion


def _diffusion(
    study: Study, asked: Diffusion, trajectories: Trajectories, summaries: Summaries, out: Path
) -> dict[str, Any]:
    first = study.run.first_frame
    curves, rows = [], []
    for job in study.jobs():
        trajectory = trajectories[job.id]
        for replica, atoms in enumerate(trajectory.starts):
            found = mean_square(
                trajectory.positions(replica)[first:],
                trajectory.cells(replica)[first:],
                atoms,
                asked.element,
                study.run.frame_ps,
            )
            answer = diffusivity(found, asked.site_distance)
            name = row_of(job, trajectory, replica)
            curves.append(
                pd.DataFrame(
                    name
                    | {
                        "time_ps": found.times_ps,
                        "msd_a2": found.msd,
                        "msd_error_a2": found.error,
                        "framework_msd_a2": found.framework,
                    }
                )
            )
            rows.append(
                name
                | {
                    "start_status": status_of(summaries[job.id]["start_converged"]),
                    "ions": found.atoms,
                    "diffusivity_cm2_s": answer.value,
                    "diffusivity_error_cm2_s": answer.error,
                    "hops": answer.hops,
                    "exponent": answer.exponent,
                    "reason": answer.reason,
                }
            )
    table = pd.DataFrame(rows).astype({"diffusivity_cm2_s": float, "diffusivity_error_cm2_s": float})
    fits = {}
    lines_of: list[dict[str, Any]] = []
    for system in study.systems:
        good = table[(table["system"] == system.name) & table["diffusivity_cm2_s"].notna()]
        # Two replicas at one temperature are two points, but one temperature gives no slope.
        fit = None
        temperatures = len(set(good["asked_k"]))
        if temperatures > 1:
            fit = arrhenius(
                good["temperature_k"].to_numpy(),
                good["diffusivity_cm2_s"].to_numpy(),
                good["diffusivity_error_cm2_s"].to_numpy(),
            )
        fits[system.name] = fit
        lines_of.append(
            {
                "system": system.name,
                "temperatures": temperatures,
                "activation_mev": None if fit is None else 1000 * fit.energy,
                "activation_error_mev": None if fit is None else 1000 * fit.energy_error,
                "prefactor_cm2_s": None if fit is None else fit.prefactor,
                "paper": asked.paper_mev.get(system.name, ""),
            }
        )
    activation = pd.DataFrame(lines_of).astype(
        {"activation_mev": float, "activation_error_mev": float, "prefactor_cm2_s": float}
    )
    write_csv(pd.concat(curves, ignore_index=True), out / "msd.csv")
    write_csv(table, out / "diffusion.csv")
    write_csv(activation, out / "activation.csv")
    diffusion_figure.draw(
        study,
        pd.concat(curves, ignore_index=True),
        table,
        fits,
        start_note(study, summaries),
        out / "diffusion",
    )
    return {"diffusion": table.to_dict("records"), "activation": activation.to_dict("records")}
