"""Molecular dynamics (workflow_lib.simulation.dynamics) against ASE's with the upstream calculator.

    python benchmarks/dynamics.py [--family chgnet] [--steps 40] [--structures 1] [--repeat 1 5 1]

NVE from the same structures with the same momenta of 300 K, steps of 1 fs, one frame in ten written to
disk on both sides: ours is ``run_dynamics`` whole (checks of frames, checkpoint, all structures side by
side), the peer ASE's VelocityVerlet and Trajectory on the calculator of each package, one structure after
another. By turns in one process on one thread; the first turn of each is not counted. Times are of the
processor. CHGNet has its shipped weights, the others are trained for a few epochs. Stops where the
potential energies of both sides differ after the last step. Ends with one line of JSON a family; table in
``results/benchmarks/dynamics.csv``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # The folder of a script comes first on the path and would hide packages of the same names.
    sys.path[0] = str(ROOT)

from benchmarks.cases import FAMILIES, PEERS, RESULTS, Case, make_case, make_data  # noqa: E402

if TYPE_CHECKING:
    from ase import Atoms

    from workflow_lib.models.trained import TrainedModel
    from workflow_lib.simulation.dynamics.settings import MolecularDynamics

EPOCHS = 4
"""Epochs that teach a network enough for dynamics to make sense."""
TEMPERATURE = 300.0
"""K, of the first momenta."""
PER_FRAME = 10
"""Steps between two frames on disk."""
SEED = 1
SAME_END = 0.1
"""meV/atom: single precision leaves a hundredth of it after some ten steps; dynamics are chaotic."""


@dataclass(slots=True, kw_only=True)
class Timings:
    """Processor seconds of every counted turn, and by how much the last potential energies differ.

    ``evaluations``: of forces in a turn, structures times steps + 1. ``difference``: largest, meV/atom.
    """

    ours: list[float]
    peer: list[float]
    atoms: list[int]
    evaluations: int
    difference: float


def measure(
    case: Case, folder: Path, *, turns: int, structures: int, steps: int, repeat: Sequence[int]
) -> Timings:
    """Run by turns; RuntimeError where the sides start or end with different energies."""
    from importlib import import_module

    from benchmarks.clock import Clock
    from benchmarks.ours import run_epochs, start
    from benchmarks.relaxation import compare, starts, trained
    from workflow_lib.simulation.dynamics.settings import MolecularDynamics

    init = "pretrained" if case.family == "chgnet" else "scratch"
    begin = start(case, init)
    if init == "scratch":
        run_epochs(case, begin, folder, Clock())
    model = trained(case, begin, init)
    calculator = import_module(PEERS[case.family]).calculator(case, begin)
    atoms = starts(case, structures, repeat)
    compare(model, calculator, atoms)
    settings = MolecularDynamics(
        ensemble="nve", time_step_fs=1.0, record_fs=PER_FRAME, production_ps=steps / 1000
    )
    moving = with_momenta(model, atoms, settings)
    sides: dict[str, Callable[[Path], list[float]]] = {
        "ours": lambda where: _ours(model, atoms, settings, where),
        "peer": lambda where: _ase(calculator, moving, steps, where),
    }
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    energies: dict[str, list[float]] = {}
    for turn in range(turns + 1):
        for side in list(sides)[:: 1 if turn % 2 else -1]:
            where = folder / f"{side}-{turn}"
            where.mkdir()
            before = time.process_time()
            energies[side] = sides[side](where)
            seconds[side].append(time.process_time() - before)
    sizes = [len(item) for item in atoms]
    ends = zip(energies["ours"], energies["peer"], sizes, strict=True)
    difference = 1e3 * max(abs(one - other) / size for one, other, size in ends)
    if not difference < SAME_END:
        raise RuntimeError(f"{case.family}: the sides end {difference:.3g} meV/atom apart")
    return Timings(
        ours=seconds["ours"][1:],
        peer=seconds["peer"][1:],
        atoms=sizes,
        evaluations=len(atoms) * (steps + 1),
        difference=difference,
    )


def with_momenta(model: TrainedModel, atoms: Sequence[Atoms], settings: MolecularDynamics) -> list[Atoms]:
    """Return copies with the momenta that our dynamics begins with; torch-sim's units are ASE's."""
    import torch

    from workflow_lib.simulation.dynamics.ensembles import Ensemble
    from workflow_lib.simulation.torchsim import TorchSimModel

    sim = TorchSimModel(model)
    state = sim.initial_state(atoms)
    state.rng = SEED
    temperatures = torch.full((len(atoms),), TEMPERATURE, dtype=torch.float64)
    started = Ensemble(settings, sim).start(state, temperatures)
    parts = started.momenta.split([len(item) for item in atoms])
    moving = [item.copy() for item in atoms]
    for item, momenta in zip(moving, parts, strict=True):
        item.set_momenta(momenta.numpy())
    return moving


def _ours(
    model: TrainedModel, atoms: Sequence[Atoms], settings: MolecularDynamics, folder: Path
) -> list[float]:
    from workflow_lib.simulation.dynamics.run import run_dynamics

    kelvin = [TEMPERATURE] * len(atoms)
    trajectory = run_dynamics(model, atoms, settings, temperatures=kelvin, folder=folder, seed=SEED)
    return trajectory.read("energy")[-1].tolist()  # type: ignore[no-any-return]


def _ase(calculator: Any, atoms: Sequence[Atoms], steps: int, folder: Path) -> list[float]:
    from ase import units
    from ase.io.trajectory import Trajectory
    from ase.md.verlet import VelocityVerlet

    energies = []
    for place, item in enumerate(atoms):
        own = item.copy()
        own.calc = calculator
        with Trajectory(str(folder / f"{place}.traj"), "w", own) as written:
            dynamics = VelocityVerlet(own, timestep=units.fs)
            dynamics.attach(written.write, interval=PER_FRAME)
            dynamics.run(steps)
        energies.append(float(own.get_potential_energy()))
    return energies


def summarise(name: str, timings: Timings, load: float) -> dict[str, Any]:
    """Return the line of a family: seconds are per structure and step."""
    ratios = sorted(peer / ours for ours, peer in zip(timings.ours, timings.peer, strict=True))
    return {
        "name": name,
        "ratio": round(median(ratios), 3),
        "ratio_low": round(ratios[0], 3),
        "ratio_high": round(ratios[-1], 3),
        "our_s_per_step": round(median(timings.ours) / timings.evaluations, 5),
        "peer_s_per_step": round(median(timings.peer) / timings.evaluations, 5),
        "structures": len(timings.atoms),
        "atoms": max(timings.atoms),
        "evaluations": timings.evaluations,
        "difference_mev_atom": round(timings.difference, 4),
        "repetitions": len(ratios),
        "load": round(load, 2),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure, write the table, print the lines."""
    import pandas as pd
    from tqdm import tqdm

    from benchmarks.runner import execute, prepare_processes
    from workflow_lib.core.io import write_csv

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--family", action="append", choices=FAMILIES, help="only this one; may be repeated"
    )
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--structures", type=int, default=1, help="side by side in ours")
    parser.add_argument("--steps", type=int, default=40, help=f"a multiple of {PER_FRAME}")
    parser.add_argument("--repeat", type=int, nargs=3, default=(1, 1, 1), help="supercell, e.g. 1 5 1")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of results")
    options = parser.parse_args(arguments)
    if options.steps < PER_FRAME or options.steps % PER_FRAME:
        parser.error(f"--steps: {options.steps} is no multiple of {PER_FRAME}")
    families = options.family or [family for family in FAMILIES if family != "cpainn"]
    prepare_processes(families)
    data = make_data(options.out / "data")
    size = "x".join(map(str, options.repeat))
    lines = []
    for family in tqdm(families, unit="family", file=sys.stderr):
        # The shipped CHGNet has its own architecture.
        own = {} if family != "chgnet" else {"hyperparameters": {"dtype": "float32"}}
        case = make_case(family, data, epochs=EPOCHS, **own)  # type: ignore[arg-type]
        load = os.getloadavg()[0]
        with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
            found = execute(
                "benchmarks.dynamics",
                "measure",
                case,
                Path(scratch),
                turns=options.repetitions,
                structures=options.structures,
                steps=options.steps,
                repeat=tuple(options.repeat),
            )
        name = f"dynamics/{family}" + ("" if size == "1x1x1" else f"/{size}")
        lines.append(summarise(name, Timings(**found), load))
        print(json.dumps(lines[-1]), flush=True)
    write_csv(pd.DataFrame(lines), options.out / "dynamics.csv")


if __name__ == "__main__":
    main()
