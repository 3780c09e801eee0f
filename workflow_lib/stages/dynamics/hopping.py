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
from workflow_lib.core.io import write_csv
from workflow_lib.lattice.redox import LABELS
from workflow_lib.results_schema import status_of
from workflow_lib.simulation.analysis.hopping import correlation, ion_hops, residence
from workflow_lib.simulation.dynamics.trajectory import Trajectory
from workflow_lib.stages.dynamics import hopping_figure
from workflow_lib.stages.dynamics.questions import ion_sites, places
from workflow_lib.stages.dynamics.rows import row_of, start_note
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


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica of a trajectory, and what is asked of it."""

    job: Job
    asked: Hopping
    trajectory: Trajectory
    summary: Mapping[str, Any]
    number: int

    @property
    def first(self) -> int:
        """Frame at which production begins."""
        return self.job.study.run.first_frame


def read_hopping(
    study: Study,
    asked: Hopping,
    trajectories: Mapping[str, Trajectory],
    summaries: Mapping[str, Mapping[str, Any]],
    out: Path,
) -> dict[str, Any]:
    """Write ``hopping.csv``, ``occupation.csv`` and the figure of a study; return the rows of the first.

    ``trajectories``, which can answer (``check_questions``), and ``summaries`` are by the id of the job.
    Raises UserError where ions do not start on the sites of their crystal.
    """
    rows, tables, tracks = [], [], {}
    for job in study.jobs():
        trajectory = trajectories[job.id]
        for number in range(len(trajectory.starts)):
            name = row_of(job, trajectory, number)
            replica = Replica(job, asked, trajectory, summaries[job.id], number)
            track = _track(replica)
            tracks[job.system.name, name["temperature_k"], number] = track
            rows.append(
                name
                | {"start_status": status_of(replica.summary["start_converged"])}
                | _row(replica, track)
            )
            tables.append(_occupation(track).assign(**name))
    table = pd.DataFrame(rows)
    write_csv(table, out / "hopping.csv")
    write_csv(pd.concat(tables, ignore_index=True), out / "occupation.csv")
    hopping_figure.draw(study, asked, table, tracks, start_note(study, summaries), out / "hopping")
    return {"hopping": table.to_dict("records")}


def _track(replica: Replica) -> Track:
    job, asked, trajectory = replica.job, replica.asked, replica.trajectory
    atoms = trajectory.starts[replica.number]
    redox = atoms.numbers == atomic_number(asked.element)
    # From the start on, wherever production begins: only there is it known that nothing has drifted.
    positions, cells = trajectory.positions(replica.number), trajectory.cells(replica.number)
    sites = ion_sites(job, asked, atoms, positions, cells)
    _, distance = get_distances(
        places(job, asked, atoms) @ atoms.cell[:], atoms.positions[redox], cell=atoms.cell, pbc=atoms.pbc
    )
    first = replica.first
    times = trajectory.times_ps[first:] - trajectory.times_ps[first]
    return Track(times, _reduced(replica, redox), sites[first:], distance <= asked.near)


def _reduced(replica: Replica, redox: np.ndarray) -> np.ndarray | None:
    """Return which redox atoms are reduced [frames, atoms]; None for a model that says nothing of it."""
    asked, trajectory = replica.asked, replica.trajectory
    labels = trajectory.per_atom(LABELS, replica.number)
    if labels is not None:
        own = labels[:, redox]
        return own[replica.first :] == int(replica.summary["reduced"][asked.element])
    moments = trajectory.per_atom("magmoms", replica.number)
    if asked.border is None or moments is None:
        return None
    sizes, border = np.abs(moments[replica.first :, redox]), getattr(asked, asked.border)
    return sizes < border if asked.border == "reduced_below" else sizes > border


def _row(replica: Replica, track: Track) -> dict[str, Any]:
    """Return residence times, neighbours and correlation of one replica."""
    frame, counts = replica.job.study.run.frame_ps, replica.trajectory.counts
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
        row |= {"electrons": 0, "electron_hops": 0} | dict.fromkeys(OF_ELECTRONS, math.nan)
        return row | {"reason": "nothing says which atoms are reduced"}
    reduced = track.reduced
    left = reduced[:-1] & ~reduced[1:]
    electrons = residence(int(reduced[:-1].sum()), int(left.sum()), frame)
    around = track.near[track.sites].sum(axis=1)  # [frames, redox atoms]
    hops = ion_hops(track.sites, track.near)
    together = correlation(reduced[1:] != reduced[:-1], hops, replica.asked.window_frames(frame))
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
        "reason": together.reason,
    }


def _occupation(track: Track) -> pd.DataFrame:
    """Return one row a frame: the site of every ion, and whether each redox atom is reduced."""
    columns = {"time_ps": track.times_ps}
    columns |= {f"ion_{i}": track.sites[:, i] for i in range(track.sites.shape[1])}
    if track.reduced is not None:
        columns |= {f"reduced_{i}": track.reduced[:, i].astype(int) for i in range(track.reduced.shape[1])}
    return pd.DataFrame(columns)
