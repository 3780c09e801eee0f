"""What begins each row of a study's tables: which replica of which trajectory, and how hot it was."""

from __future__ import annotations

from typing import Any

from workflow_lib.simulation.dynamics.trajectory import Trajectory
from workflow_lib.stages.dynamics.settings import Job


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
