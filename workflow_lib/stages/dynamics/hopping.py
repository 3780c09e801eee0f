"""Electrons and ions along the trajectories of a study: where they are, how long they stay, their hops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase.geometry import get_distances

from workflow_lib.core.elements import atomic_number
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import write_csv
from workflow_lib.models.trained import LABELS
from workflow_lib.simulation.analysis.hopping import correlation, ion_hops, residence, sites_of
from workflow_lib.simulation.dynamics.trajectory import Trajectory
from workflow_lib.stages.dynamics import hopping_figure
from workflow_lib.stages.dynamics.rows import row_of
from workflow_lib.stages.dynamics.settings import Hopping, Job, Study

OF_ELECTRONS = (
    "electron_stay_ps",
    "electron_stay_low_ps",
    "electron_stay_high_ps",
    "near_reduced",
    "near_oxidised",
    "correlation",
    "correlation_low",
    "correlation_high",
    "p_value",
)
"""Columns without a value where nothing says which redox atoms are reduced."""


@dataclass(frozen=True, slots=True)
class Track:
    """One replica in time.

    ``times_ps`` [frames]; ``reduced`` [frames, redox atoms], None where nothing says which are; ``sites``
    [frames, ions] of the full crystal; ``near`` [sites, redox atoms].
    """

    times_ps: np.ndarray
    reduced: np.ndarray | None
    sites: np.ndarray
    near: np.ndarray


def read_hopping(
    study: Study,
    asked: Hopping,
    trajectories: dict[str, Trajectory],
    summaries: dict[str, dict[str, Any]],
    out: Path,
) -> dict[str, Any]:
    """Write ``hopping.csv``, ``occupation.csv`` and the figure of a study; return the rows of the first.

    ``trajectories`` and ``summaries`` are by the id of the job.
    """
    rows, tables, tracks = [], [], {}
    for job in study.jobs():
        trajectory = trajectories[job.id]
        for replica in range(len(trajectory.starts)):
            name = row_of(job, trajectory, replica)
            track = _track(study, asked, job, trajectory, summaries[job.id], replica)
            tracks[job.system.name, name["temperature_k"], replica] = track
            rows.append(name | _row(study, asked, track, trajectory.counts))
            tables.append(_occupation(track).assign(**name))
    table = pd.DataFrame(rows)
    write_csv(table, out / "hopping.csv")
    write_csv(pd.concat(tables, ignore_index=True), out / "occupation.csv")
    hopping_figure.draw(study, asked, table, tracks, out / "hopping")
    return {"hopping": table.to_dict("records")}


def _track(
    study: Study,
    asked: Hopping,
    job: Job,
    trajectory: Trajectory,
    summary: Mapping[str, Any],
    replica: int,
) -> Track:
    first = study.run.first_frame
    atoms = trajectory.starts[replica]
    redox, mobile = (atoms.numbers == atomic_number(name) for name in (asked.element, asked.mobile))
    for found, name in ((redox, asked.element), (mobile, asked.mobile)):
        if not found.any():
            raise UserError(f"{job.id}: {atoms.symbols} holds no {name}, whose hops are asked for")
    crystal = job.system.crystal
    full = crystal.unit() * crystal.repeat
    places = full.get_scaled_positions()[full.numbers == atomic_number(asked.mobile)]
    # From the start on, wherever production begins: only there is it known that nothing has drifted.
    positions, cells = trajectory.positions(replica), trajectory.cells(replica)
    sites = sites_of(positions[:, mobile], cells, places, positions[:, ~mobile], asked.reach)[first:]
    _, distance = get_distances(
        places @ atoms.cell[:], atoms.positions[redox], cell=atoms.cell, pbc=atoms.pbc
    )
    times = trajectory.times_ps[first:] - trajectory.times_ps[first]
    reduced = _reduced(study, asked, job, trajectory, summary, replica, redox)
    return Track(times, reduced, sites, distance <= asked.near)


def _reduced(
    study: Study,
    asked: Hopping,
    job: Job,
    trajectory: Trajectory,
    summary: Mapping[str, Any],
    replica: int,
    redox: np.ndarray,
) -> np.ndarray | None:
    """Return which redox atoms are reduced [frames, atoms]; None for a model that says nothing of it."""
    first = study.run.first_frame
    labels = trajectory.per_atom(LABELS, replica)
    if labels is not None:
        if asked.reduced_below is not None:
            raise UserError(
                f"{job.id}: reduced_below is for models that are given no charge states; "
                f"{study.potential} is given them, leave it out"
            )
        own = labels[:, redox]
        return own[first:] == _low(summary, asked.element, own, job)
    if asked.reduced_below is None:
        return None
    moments = trajectory.per_atom("magmoms", replica)
    if moments is None:
        raise UserError(f"{job.id}: {study.potential} predicts no moments; leave reduced_below out")
    return np.abs(moments[first:, redox]) < asked.reduced_below


def _low(summary: Mapping[str, Any], element: str, states: np.ndarray, job: Job) -> int:
    """Return the charge state (e) of a reduced atom, by the rule of the model that made the trajectory."""
    if "reduced" in summary:
        if element not in summary["reduced"]:
            known = ", ".join(summary["reduced"])
            raise UserError(f"{job.id}: its charge states are those of {known}; ask for their hops")
        return int(summary["reduced"][element])
    # A summary of an earlier version does not say it; between two states it is clear.
    if states.min() == states.max():
        raise UserError(
            f"{job.id}: all {element} are {states.min()}+, and its summary does not say whether that is "
            "the reduced state; run `workflow-lib dynamics` again, the steps made are kept"
        )
    return int(states.min())


def _row(study: Study, asked: Hopping, track: Track, counts: dict[str, int]) -> dict[str, Any]:
    """Return residence times, neighbours and correlation of one replica."""
    frame = study.run.frame_ps
    moved = track.sites[1:] != track.sites[:-1]
    ions = residence(moved.size, int(moved.sum()), frame)
    row: dict[str, Any] = {
        "ions": moved.shape[1],
        "ion_hops": ions.hops,
        "ion_stay_ps": ions.mean_ps,
        "ion_stay_low_ps": ions.low_ps,
        "ion_stay_high_ps": ions.high_ps,
    }
    row |= {"exchanges_tried": counts["tried"], "exchanges_accepted": counts["accepted"]}
    if track.reduced is None:
        return row | {"electrons": 0, "electron_hops": 0} | dict.fromkeys(OF_ELECTRONS, math.nan)
    reduced = track.reduced
    left = reduced[:-1] & ~reduced[1:]
    electrons = residence(int(reduced[:-1].sum()), int(left.sum()), frame)
    around = track.near[track.sites].sum(axis=1)  # [frames, redox atoms]
    window = max(1, round(asked.window_ps / frame))
    together = correlation(reduced[1:] != reduced[:-1], ion_hops(track.sites, track.near), window)
    return row | {
        "electrons": round(float(reduced.sum(axis=1).mean())),
        "electron_hops": electrons.hops,
        "electron_stay_ps": electrons.mean_ps,
        "electron_stay_low_ps": electrons.low_ps,
        "electron_stay_high_ps": electrons.high_ps,
        "near_reduced": around[reduced].mean() if reduced.any() else math.nan,
        "near_oxidised": around[~reduced].mean() if not reduced.all() else math.nan,
        "correlation": together.value,
        "correlation_low": together.low,
        "correlation_high": together.high,
        "p_value": together.p_value,
    }


def _occupation(track: Track) -> pd.DataFrame:
    """Return one row a frame: the site of every ion, and whether each redox atom is reduced."""
    columns = {"time_ps": track.times_ps}
    columns |= {f"ion_{i}": track.sites[:, i] for i in range(track.sites.shape[1])}
    if track.reduced is not None:
        columns |= {f"reduced_{i}": track.reduced[:, i].astype(int) for i in range(track.reduced.shape[1])}
    return pd.DataFrame(columns)
