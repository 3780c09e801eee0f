"""The dynamics stage: make or continue one trajectory of a study."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from workflow_lib.core.errors import BusyError, UserError
from workflow_lib.core.io import atomic_path, write_json
from workflow_lib.core.progress import say
from workflow_lib.frames.structure import MOMENTS, read_structure
from workflow_lib.lattice.redox import LABELS
from workflow_lib.models.outside import load_predictor
from workflow_lib.models.trained import TrainedModel
from workflow_lib.results_reading import seal
from workflow_lib.simulation.dynamics.checks import block_mean
from workflow_lib.simulation.dynamics.run import OutOfTimeError, run_dynamics, weights_identity
from workflow_lib.simulation.dynamics.trajectory import START, Trajectory
from workflow_lib.simulation.start import relaxed_start
from workflow_lib.stages.dynamics.questions import Given, check_questions, check_start
from workflow_lib.stages.dynamics.settings import Job

TRAJECTORY, FAULT = "trajectory", "fault.txt"


def run_trajectory(
    job: Job,
    *,
    seed: int,
    work: str | Path,
    out: str | Path,
    device: str = "cpu",
    max_wall_s: float | None = None,
    attempt: int = 1,
) -> dict[str, Any]:
    """Run the dynamics of ``job`` in ``work``; when it is complete, write ``summary.json`` to ``out``.

    ``work`` keeps relaxed start and trajectory, so that a killed job, or the next of a sequence, goes on.
    A model that is given charge states starts with those of the crystal's file, or without any with the
    neutral ones of lowest energy; ``reduced`` in the summary has the lower one by element.
    Returns the summary. Raises UserError before any step where the study asks what the trajectory cannot
    answer. Raises OutOfTimeError as ``run_dynamics`` does, and any other UserError at once again in the
    later jobs of the sequence, whose numbers are their ``attempt``.
    """
    with _lasting(Path(work) / FAULT, attempt):
        return _make(job, seed, Path(work), Path(out), device, max_wall_s)


@contextmanager
def _lasting(path: Path, attempt: int) -> Iterator[None]:
    """Keep a fault that running again does not mend in ``path``; raise it from there in later attempts."""
    if attempt > 1 and path.is_file():
        raise UserError(f"{path.read_text().strip()} (an earlier job of this sequence ended so)")
    path.unlink(missing_ok=True)
    try:
        yield
    except (OutOfTimeError, BusyError):
        raise
    except UserError as error:
        with atomic_path(path) as temporary:
            temporary.write_text(f"{error}\n")
        raise


def _make(
    job: Job, seed: int, work: Path, out: Path, device: str, max_wall_s: float | None
) -> dict[str, Any]:
    study, started = job.study, time.monotonic()
    model = load_predictor(study.potential, device)
    atoms = _atoms(job, seed, labelled=model.charge_labelled)
    rule = model.rule if isinstance(model, TrainedModel) else None
    reduced = None if rule is None else {rule.element: rule.low}
    # Before days of steps, not after.
    check_questions(job, atoms, Given(reduced, "magmoms" in model.predicts))
    model.origin.require_trained()
    start = relaxed_start(
        model,
        atoms,
        study.start,
        identity=weights_identity(model),
        path=work / "start.extxyz",
        title=job.id,
        begun=(work / TRAJECTORY / START).is_file(),
    )
    check_start(job, start)
    trajectory = run_dynamics(
        model,
        [start] * study.replicas,
        study.run,
        temperatures=[job.temperature] * study.replicas,
        folder=work / TRAJECTORY,
        seed=seed,
        # Loading, charge states and the start are of the job's time, too.
        max_wall_s=None if max_wall_s is None else max_wall_s - (time.monotonic() - started),
        title=job.id,
    )
    summary = summarise(job, trajectory, start.info)
    summary["reduced"] = reduced or {}
    write_json(out / "summary.json", summary)
    seal(out, "dynamics", source=out.name)
    return summary


def _atoms(job: Job, seed: int, *, labelled: bool) -> Atoms:
    """Return the crystal of a trajectory before it is relaxed, for a ``labelled`` model with given states.

    Those are the charge states or moments in the crystal's file. Where atoms are taken out they are no
    longer neutral, and an order is searched for: a line on stderr says so.
    """
    crystal = job.system.crystal
    rng = np.random.default_rng(seed)
    given = read_structure(crystal.file) if labelled and crystal.file is not None else None
    if given is None or not any(given.has(name) for name in (LABELS, MOMENTS)):
        return crystal.build(rng)
    if crystal.remove is None and not crystal.primitive:
        return crystal.build(rng, given)
    say(
        f"{job.id}: charge states or moments in {crystal.file} belong to all of its atoms and are not "
        "used; the neutral states of lowest energy are searched for"
    )
    atoms = crystal.build(rng)
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)


def summarise(job: Job, trajectory: Trajectory, start: dict[str, Any]) -> dict[str, Any]:
    """Return what a trajectory is and whether its ensemble is what was asked for."""
    run = job.study.run
    first = run.first_frame
    energies, temperatures = trajectory.read("energy")[first:], trajectory.read("temperature")[first:]
    means = [block_mean(temperatures[:, system]) for system in range(temperatures.shape[1])]
    atoms = trajectory.starts[0]
    counts = trajectory.counts
    return {
        "source": job.id,
        "study": job.study.name,
        "system": job.system.name,
        "potential": job.study.potential,
        "temperature_k": job.temperature,
        "ensemble": run.ensemble,
        "formula": str(atoms.symbols.formula.format("hill")),
        "atoms": len(atoms),
        "cell_a": np.array(atoms.cell.lengths()),
        "angles": np.array(atoms.cell.angles()),
        "replicas": job.study.replicas,
        "time_step_fs": run.time_step_fs,
        "production_ps": (len(energies) - 1) * run.frame_ps,
        "discarded_ps": first * run.frame_ps,
        "frames": len(energies),
        "mean_temperature_k": [mean.value for mean in means],
        "temperature_error_k": [mean.error for mean in means],
        "mean_energy_ev_atom": float(energies.mean()) / len(atoms),
        "exchanges_tried": counts["tried"],
        "exchanges_accepted": counts["accepted"],
        "start_steps": start.get("steps"),
        "start_fmax_ev_a": start.get("fmax"),
        "start_converged": start.get("converged"),
        "trajectory": str(trajectory.folder),
    }
