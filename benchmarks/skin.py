"""What a kept neighbour list gains: seconds of processor time per structure and evaluation on this machine.

    python benchmarks/skin.py [--family painn] [--steps 60]

Three ways to evaluate the same walk of a crystal (0.01 A an atom and step, as late in a relaxation): a
graph made anew from the structure, as in training; edges from a new list every step; edges from a list
kept with a skin. ``assemble_ms`` is the part of the last that makes the graph from the edges (for CHGNet,
bonds and angles): all that keeping the graph too could gain. Random weights (shipped ones for CHGNet)
of the demo's sizes; 28 and 140 atoms. Ends with one line of JSON a case.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # The folder of a script comes first on the path and would hide packages of the same names.
    sys.path[0] = str(ROOT)

from benchmarks.cases import CONFIG, untrained  # noqa: E402

if TYPE_CHECKING:
    from ase import Atoms

    from workflow_lib.models.trained import TrainedModel

FAMILIES = ("mace", "painn", "chgnet")


def model(family: str) -> TrainedModel:
    """Return a potential of the demo's size with random weights, or CHGNet's shipped one."""
    from workflow_lib.models.outside import shipped

    return shipped("chgnet-0.3.0") if family == "chgnet" else untrained(CONFIG, family)


def measure(potential: TrainedModel, atoms: Atoms, steps: int) -> dict[str, float]:
    """Return milliseconds of processor time per evaluation of each way, and lists made with a skin."""
    import torch

    from workflow_lib.models.contract import Batch
    from workflow_lib.models.neighbours import Edges
    from workflow_lib.simulation.torchsim import TorchSimModel

    new, kept = TorchSimModel(potential, skin=0.0), TorchSimModel(potential)
    walk = torch.Generator().manual_seed(1)
    state = kept.initial_state([atoms])
    seconds = dict.fromkeys(("graph", "new", "kept", "assemble"), 0.0)
    assemble, last = potential.potential.assemble, 0.0

    def timed(atoms: Batch, edges: Edges) -> Batch:
        nonlocal last
        before = time.process_time()
        batch = assemble(atoms, edges)
        last = time.process_time() - before
        return batch

    potential.potential.assemble = timed  # type: ignore[method-assign]
    for step in range(steps + 1):
        move = torch.randn(state.positions.shape, generator=walk, dtype=torch.float64)
        state.positions = state.positions + 0.01 * move
        own = atoms.copy()
        own.positions = state.positions.numpy()
        for name, call in (
            ("graph", lambda own=own: potential.evaluate([potential.structure(own)])),
            ("new", lambda: new(state)),
            ("kept", lambda: kept(state)),
        ):
            started = time.process_time()
            call()
            if step:  # the first evaluation warms up
                seconds[name] += time.process_time() - started
        seconds["assemble"] += last if step else 0.0  # of "kept", which came last
    assert kept.neighbours is not None
    values = {f"{name}_ms": round(1e3 * value / steps, 3) for name, value in seconds.items()}
    return values | {"lists": kept.neighbours.built}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the lines."""
    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", action="append", choices=FAMILIES)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    from workflow_lib.models.testing import olivine

    for family in options.family or FAMILIES:
        potential = model(family)
        for repeat in ((1, 1, 1), (1, 5, 1)):
            atoms = olivine().repeat(repeat)
            values = measure(potential, atoms, options.steps)
            gain = values["new_ms"] / values["kept_ms"]
            line = {"name": f"skin/{family}", "atoms": len(atoms), **values, "gain": round(gain, 3)}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
