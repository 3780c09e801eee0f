"""What each row of a study's tables says of its trajectory: which replica, how hot, from which start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workflow_lib.simulation.dynamics.trajectory import Trajectory
from workflow_lib.stages.dynamics.settings import Job, Study


def row_of(job: Job, trajectory: Trajectory, replica: int) -> dict[str, Any]:
    """Return system, ``temperature_k``, ``asked_k`` and replica.

    ``temperature_k`` is the thermostat's, or without one (NVE) the mean of production: velocities are drawn
    at ``asked_k``, of which a relaxed start turns about half into potential energy.
    """
    run = job.study.run
    temperature = job.temperature
    if run.ensemble == "nve":
        temperature = float(trajectory.read("temperature")[run.first_frame :, replica].mean())
    return {
        "system": job.system.name,
        "temperature_k": temperature,
        "asked_k": job.temperature,
        "replica": replica,
    }


def start_note(study: Study, summaries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a line below a figure's title that names trajectories whose start did not relax, or nothing.

    ``summaries`` are by the id of the job.
    """
    names = [
        f"{job.system.label or job.system.name}, {job.temperature:g} K"
        for job in study.jobs()
        if not summaries[job.id]["start_converged"]
    ]
    return f"\nstart not relaxed: {'; '.join(names)}" if names else ""
