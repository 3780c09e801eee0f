"""Studies of dynamics on a toy perovskite, and trajectories of walks and hops that are known."""

import math
from pathlib import Path

import numpy as np
from moment_calculator import CALCULATOR, perovskite

from workflow_lib.core.io import write_json
from workflow_lib.lattice.entropy import BOLTZMANN
from workflow_lib.results_reading import seal
from workflow_lib.simulation.dynamics.trajectory import START, Writer
from workflow_lib.stages.dynamics.settings import Study

RUN = {"ensemble": "nvt-langevin", "production_ps": 0.3, "equilibration_ps": 0.04, "record_fs": 4.0}
MOMENTS = {
    "element": "Fe",
    "ligand": "F",
    "cutoff": 2.6,
    "thresholds": (4.0,),
    "states": ("Fe2+", "Fe3+"),
    "interval_ps": 0.1,
}


def study(**changes: object) -> Study:
    values = {
        "name": "toy",
        "potential": CALCULATOR,
        "systems": ({"name": "half", "crystal": perovskite()},),
        "temperatures": (50.0,),
        "start": {"max_steps": 0},
        "run": RUN,
        "moments": MOMENTS,
        "diffraction": {"patterns": 2, "average_ps": 0.1, "radiation": "CoKa1"},
    }
    return Study.model_validate(values | changes)


def walks(
    asked: Study,
    folder: Path,
    energy_mev: dict[str, float],
    step: float = 0.15,
    hot: float = 1.0,
    relaxed: bool = True,
) -> list[Path]:
    """Trajectories of Na that hop with an activated rate in a framework at rest.

    Their temperature is ``hot`` times the one that is asked for.
    """
    made = []
    rng = np.random.default_rng(0)
    for job in asked.jobs():
        atoms = job.system.crystal.build(rng)
        mobile = atoms.numbers == 11
        frames = asked.run.frames + 1
        temperature = hot * job.temperature
        length = step * math.exp(-energy_mev[job.system.name] / 2000 / (BOLTZMANN * temperature))
        moves = np.zeros((frames, len(atoms), 3))
        moves[1:, mobile] = rng.normal(0, length, (frames - 1, int(mobile.sum()), 3))
        positions = (atoms.positions + moves.cumsum(axis=0)).astype(np.float32)
        place = folder / "work" / job.id
        header = {"time_step_fs": asked.run.time_step_fs, "settings": asked.run.model_dump(mode="json")}
        writer = Writer(place, {"model": "walk"}, header)
        atoms.write(place / START, format="extxyz")
        steps = asked.run.steps_per_frame
        content = [
            {
                "step": np.array(frame * steps),
                "energy": np.array([-1.0]),
                "temperature": np.array([temperature]),
                "positions": positions[frame],
            }
            for frame in range(frames)
        ]
        writer.write(content, {}, step=frames * steps, chunks=1, tried=0, accepted=0)
        out = folder / job.id
        summary = {"source": job.id, "trajectory": str(place), "start_converged": relaxed, "reduced": {}}
        summary |= {"potential": asked.potential, "temperature_k": job.temperature}
        write_json(out / "summary.json", summary)
        seal(out, "dynamics", source=job.id)
        made.append(out)
    return made


def diffusing(**changes: object) -> Study:
    values = {
        "systems": (
            {"name": "fast", "crystal": perovskite(remove=None)},
            {"name": "slow", "crystal": perovskite(remove=None)},
        ),
        "temperatures": (600.0, 900.0, 1200.0),
        "moments": None,
        "diffraction": None,
        "diffusion": {"element": "Na", "site_distance": 0.5, "paper_mev": {"fast": "100"}},
        "run": {"production_ps": 40.0, "record_fs": 100.0, "time_step_fs": 2.0},
    }
    return study(**(values | changes))


def hops(reduced_below: float | None = None, labels: bool = True) -> tuple[Study, dict]:
    """A study of 40 frames in which one Na hops back and forth, and two Fe near it exchange an electron."""
    asked = study(
        systems=({"name": "half", "crystal": perovskite(remove={"element": "Na", "fraction": 0.5})},),
        moments=None,
        diffraction=None,
        hopping={
            "element": "Fe",
            "mobile": "Na",
            "near": 3.7,
            "window_ps": 0.1,
            "reduced_below": reduced_below,
        },
        run={"production_ps": 4.0, "record_fs": 100.0, "time_step_fs": 2.0},
    )
    return asked, {"labels": labels, "moments": reduced_below is not None}


def hopping_trajectory(asked: Study, what: dict, folder: Path, drift: float = 0.0) -> list[Path]:
    """Frames 10 to 12 and 20 to 22 on another site; the electron goes and comes with the ion.

    All atoms drift by ``drift`` A a frame.
    """
    [job] = asked.jobs()
    atoms = job.system.crystal.build(np.random.default_rng(0))
    crystal = job.system.crystal
    full = crystal.full()
    sites = full.positions[full.numbers == 11]
    taken = atoms.positions[atoms.numbers == 11]
    free = next(site for site in sites if np.linalg.norm(taken - site, axis=1).min() > 1)
    ion = int(np.flatnonzero(atoms.numbers == 11)[0])
    iron = np.flatnonzero(atoms.numbers == 26)

    # The electron moves to the Fe nearest to the ion's new site, from one near its old one.
    def nearest(place: np.ndarray) -> int:
        from ase.geometry import get_distances

        _, distance = get_distances(place[None], atoms.positions[iron], cell=atoms.cell, pbc=True)
        return int(iron[distance[0].argmin()])

    away = {10, 11, 12, 20, 21, 22}
    steps, frames = asked.run.steps_per_frame, []
    for frame in range(asked.run.frames + 1):
        positions = atoms.positions.copy()
        here = nearest(atoms.positions[ion])
        if frame in away:
            positions[ion], here = free, nearest(free)
        positions += drift * frame
        states = np.where(atoms.numbers == 26, 3, 0)
        states[here] = 2
        if "states" in what:
            states[iron] = what["states"]
        content = {
            "step": np.array(frame * steps),
            "energy": np.array([-1.0]),
            "temperature": np.array([job.temperature]),
            "positions": positions.astype(np.float32),
        }
        if what["labels"]:
            content["oxidation_states"] = states.astype(np.int8)
        if what["moments"]:
            content["magmoms"] = what.get("up", 1) * np.where(states == 2, 3.7, 4.3).astype(np.float32)
        frames.append(content)
    atoms.set_cell(atoms.cell * atoms.cell.handedness)  # as the run writes it
    place = folder / "work" / job.id
    header = {"time_step_fs": asked.run.time_step_fs, "settings": asked.run.model_dump(mode="json")}
    writer = Writer(place, {"model": "hops"}, header)
    atoms.write(place / START, format="extxyz")
    writer.write(frames, {}, step=len(frames) * steps, chunks=1, tried=30, accepted=4)
    out = folder / job.id
    summary = {"source": job.id, "trajectory": str(place), "start_converged": True, "reduced": {"Fe": 2}}
    summary |= {"potential": asked.potential, "temperature_k": job.temperature}
    write_json(out / "summary.json", summary | what.get("says", {}))
    seal(out, "dynamics", source=job.id)
    return [out]
