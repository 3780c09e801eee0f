"""Batched relaxation (workflow_lib.simulation.relaxation) against ASE's FIRE one by one, same weights.

    python benchmarks/relaxation.py [--family mace] [--quick] [--cell] [--repeat 1 5 1]
    python benchmarks/relaxation.py --converge --family chgnet [--optimiser lbfgs] [--structures 2]

The peer is ASE's FIRE on the calculator each package ships (MACECalculator, CHGNetCalculator,
SpkCalculator). Both sides take the same number of FIRE steps from the first geometries of the DFT
relaxations, in the same fixed cells, on one thread, by turns in one process; the first turn of each
is not counted. Times are of the processor, so that a busy machine changes them little. CHGNet has its
shipped weights, the others are trained for a few epochs first. With ``--cell`` both sides relax the cells
too (Frechet filter), with random weights where none are shipped: what a step costs does not depend on them.
With ``--converge`` cells relax until forces and stress are small, however many steps that takes
(``convergence.py``). Ends with one line of JSON a family; table in ``results/benchmarks/relaxation.csv``.
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

    from benchmarks.ours import Start
    from workflow_lib.models.trained import TrainedModel

EPOCHS = 4
"""Epochs that teach a network enough for a relaxation to make sense."""
SAME_START = 1e-3
"""eV and eV/A: single points of both sides before the first step. Energies of 170 eV in single
precision, which MACE adds up in it, have 1e-5 eV; forces are good to 1e-4."""
UNREACHED = 1e-6
"""eV/A: force threshold that no side meets, so that both take all steps."""


@dataclass(slots=True, kw_only=True)
class Timings:
    """Processor seconds of every counted turn, and how far the ends differ.

    ``calls``: force evaluations of a turn (structures times steps + 1). ``energy_difference``:
    largest difference of final energies, meV/atom. ``moved``: mean fall of the energy, meV/atom.
    """

    ours: list[float]
    peer: list[float]
    structures: int
    calls: int
    energy_difference: float
    moved: float


def starts(case: Case, count: int, repeat: Sequence[int]) -> list[Atoms]:
    """Return the first geometries of the DFT relaxations of ``count`` states, repeated, elements only."""
    from ase import Atoms

    from workflow_lib.frames.table import read_parquet

    frames = read_parquet(Path(case.frames))
    firsts = [frame for frame in frames if frame.frame_id.endswith("relaxation-00")]
    chosen = sorted(firsts, key=lambda frame: frame.frame_id)[:: max(1, len(firsts) // count)][:count]
    cells = [Atoms(frame.numbers, positions=frame.positions, cell=frame.cell, pbc=True) for frame in chosen]
    return [atoms.repeat(tuple(repeat)) for atoms in cells]


def measure(
    case: Case,
    folder: Path,
    *,
    turns: int,
    structures: int,
    steps: int,
    cell: bool,
    repeat: Sequence[int],
) -> Timings:
    """Relax by turns; RuntimeError where the sides start from different energies or forces."""
    from importlib import import_module

    from benchmarks.clock import Clock
    from benchmarks.ours import run_epochs, start

    init = "pretrained" if case.family == "chgnet" else "scratch"
    begin = start(case, init)
    if init == "scratch" and not cell:
        run_epochs(case, begin, folder, Clock())
    model = trained(case, begin, init)
    calculator = import_module(PEERS[case.family]).calculator(case, begin)
    atoms = starts(case, structures, repeat)
    compare(model, calculator, atoms)
    relaxers: dict[str, Callable[[], list[float]]] = {
        "ours": lambda: _ours(model, atoms, steps, cell),
        "peer": lambda: _ase(calculator, atoms, steps, cell),
    }
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    energies: dict[str, list[float]] = {}
    for turn in range(turns + 1):
        for side in list(relaxers)[:: 1 if turn % 2 else -1]:
            before = time.process_time()
            energies[side] = relaxers[side]()
            seconds[side].append(time.process_time() - before)
    first = [prediction.energy for prediction in model.predict(atoms)]
    sizes = [len(item) for item in atoms]
    pairs = zip(energies["ours"], energies["peer"], sizes, strict=True)
    return Timings(
        ours=seconds["ours"][1:],
        peer=seconds["peer"][1:],
        structures=len(atoms),
        calls=len(atoms) * (steps + 1),
        energy_difference=1e3 * max(abs(a - b) / n for a, b, n in pairs),
        moved=1e3
        * sum((a - b) / n for a, b, n in zip(first, energies["ours"], sizes, strict=True))
        / len(atoms),
    )


def trained(case: Case, begin: Start, init: str) -> TrainedModel:
    """Return the network as the workflow gives it to its users."""
    from workflow_lib.models.trained import TrainedModel, species_to_card

    potential = begin.potential.eval().requires_grad_(False)
    card = {
        **{"name": case.family, "family": case.family, "init": init, "status": "ok"},
        "hyperparameters": case.hyperparameters,
        "species": species_to_card(potential.species),
        "redox_embedding": "none",
        "energy_reference": begin.sets["train"][0].energy_reference,
        "training": {"steps": 0},
    }
    return TrainedModel(potential, card, allow_untrained_stress=True)


def compare(model: TrainedModel, calculator: Any, atoms: Sequence[Atoms]) -> None:
    """Raise RuntimeError unless both sides give the same energies and forces."""
    import numpy as np

    for item, prediction in zip(atoms, model.predict(atoms), strict=True):
        own = item.copy()
        own.calc = calculator
        energy = abs(own.get_potential_energy() - prediction.energy)
        force = float(np.abs(own.get_forces() - prediction.forces).max())
        if not max(energy, force) < SAME_START:  # not-a-number fails too
            raise RuntimeError(
                f"{model.card['name']}: at the start the sides differ by {energy:.2g} eV, {force:.2g} eV/A"
            )


def _ours(model: TrainedModel, atoms: Sequence[Atoms], steps: int, cell: bool) -> list[float]:
    from workflow_lib.simulation.relaxation import relax

    stop = {"fmax": UNREACHED, "smax": UNREACHED, "max_steps": steps}
    results = relax(model, atoms, **stop, batch_size=len(atoms), cell=cell)  # type: ignore[arg-type]
    if any(result.steps != steps for result in results):
        raise RuntimeError(f"steps taken: {[result.steps for result in results]}, wanted {steps}")
    return [result.energy for result in results]


def _ase(calculator: Any, atoms: Sequence[Atoms], steps: int, cell: bool) -> list[float]:
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    energies = []
    for item in atoms:
        own = item.copy()
        own.calc = calculator
        FIRE(FrechetCellFilter(own) if cell else own, logfile=None).run(fmax=UNREACHED, steps=steps)
        energies.append(float(own.get_potential_energy()))
    return energies


def summarise(name: str, timings: Timings, steps: int, load: float) -> dict[str, Any]:
    """Return the line of a family: seconds are per structure and force evaluation."""
    ratios = sorted(peer / ours for ours, peer in zip(timings.ours, timings.peer, strict=True))
    return {
        "name": name,
        "ratio": round(median(ratios), 3),
        "ratio_low": round(ratios[0], 3),
        "ratio_high": round(ratios[-1], 3),
        "our_s_per_call": round(median(timings.ours) / timings.calls, 5),
        "peer_s_per_call": round(median(timings.peer) / timings.calls, 5),
        "structures": timings.structures,
        "steps": steps,
        "energy_fall_mev_atom": round(timings.moved, 2),
        "energy_difference_mev_atom": round(timings.energy_difference, 3),
        "repetitions": len(ratios),
        "load": round(load, 2),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure, write the table, print the lines."""
    import pandas as pd
    from tqdm import tqdm

    from benchmarks.runner import prepare_processes
    from workflow_lib.core.io import write_csv

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--family", action="append", choices=FAMILIES, help="only this one; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="one repetition, few steps")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--structures", type=int, default=6)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cell", action="store_true", help="relax the cells too")
    parser.add_argument(
        "--converge",
        action="store_true",
        help="relax positions and cells to the end (chgnet: shipped weights)",
    )
    parser.add_argument("--max-steps", type=int, default=500, help="of --converge")
    parser.add_argument(
        "--optimiser", choices=("fire", "lbfgs"), default="fire", help="ours, of --converge; ASE has FIRE"
    )
    parser.add_argument("--repeat", type=int, nargs=3, default=(1, 1, 1), help="supercell, e.g. 1 5 1")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of results")
    options = parser.parse_args(arguments)
    if options.quick:
        options.repetitions, options.structures, options.steps = 1, 3, 5
    families = options.family or [family for family in FAMILIES if family != "cpainn"]
    if options.converge and families != ["chgnet"]:
        parser.error("--converge: only with --family chgnet; random weights have no minimum to find")
    prepare_processes(families)
    data = make_data(options.out / "data")
    what = "convergence" if options.converge else ("cell-" if options.cell else "") + "relaxation"
    size = "x".join(map(str, options.repeat))
    lines = []
    for family in tqdm(families, unit="family", file=sys.stderr):
        # The shipped CHGNet has its own architecture.
        own = {} if family != "chgnet" else {"hyperparameters": {"dtype": "float32"}}
        case = make_case(family, data, epochs=EPOCHS, **own)  # type: ignore[arg-type]
        load = os.getloadavg()[0]
        name = f"{what}/{family}" + ("" if size == "1x1x1" else f"/{size}")
        with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
            lines.append(_line(name, case, Path(scratch), options, load))
    write_csv(pd.DataFrame(lines), options.out / f"{what}.csv")
    for line in lines:
        print(json.dumps(line))


def _line(name: str, case: Case, scratch: Path, options: argparse.Namespace, load: float) -> dict[str, Any]:
    """Measure a family in a process of its own and return its line."""
    from benchmarks import convergence
    from benchmarks.runner import execute

    work = {"structures": options.structures, "repeat": tuple(options.repeat)}
    if options.converge:
        work |= {"max_steps": options.max_steps, "optimiser": options.optimiser}
        found = execute("benchmarks.convergence", "measure", case, scratch, **work)
        return convergence.summarise(name, convergence.Ends(**found), load)
    work |= {"turns": options.repetitions, "steps": options.steps, "cell": options.cell}
    found = execute("benchmarks.relaxation", "measure", case, scratch, **work)
    return summarise(name, Timings(**found), options.steps, load)


if __name__ == "__main__":
    main()
