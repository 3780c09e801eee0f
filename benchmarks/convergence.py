"""Steps and time until cell and positions are relaxed: ours, and ASE as a user would call it.

Part of ``python benchmarks/relaxation.py --converge``. Both sides start from the same geometries and stop
when no force exceeds :data:`FMAX` and no component of the stress exceeds :data:`SMAX`. ASE's own
criterion takes forces and the scaled stress of its filter together, so it is switched off, and the true
ones are checked after every step. ASE has FIRE and FrechetCellFilter with their defaults, so that a strain
weighs as much as the number of atoms; ours weighs the square root of it (``simulation/relaxation.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cases import PEERS, Case

if TYPE_CHECKING:
    from ase import Atoms

    from workflow_lib.models.trained import TrainedModel

FMAX = 0.05
"""eV/A."""
SMAX = 0.1
"""GPa."""
UNREACHED = 1e-9
"""ASE's threshold, which nothing meets."""


@dataclass(slots=True, kw_only=True)
class Ends:
    """Per structure: atoms; and of each side steps, processor seconds, and the end: energy, force, stress.

    Energies eV/atom, ``fmax`` eV/A, ``smax`` GPa. A side that took ``max_steps`` did not get there.
    """

    atoms: list[int]
    ours: list[dict[str, float]]
    peer: list[dict[str, float]]
    max_steps: int


def measure(
    case: Case, _folder: Path, *, structures: int, max_steps: int, repeat: Sequence[int], optimiser: str
) -> Ends:
    """Relax every structure alone, on both sides; RuntimeError where these start from different forces."""
    from importlib import import_module

    from benchmarks.ours import start
    from benchmarks.relaxation import compare, starts, trained

    init = "pretrained" if case.family == "chgnet" else "scratch"
    begin = start(case, init)
    model = trained(case, begin, init)
    calculator = import_module(PEERS[case.family]).calculator(case, begin)
    atoms = starts(case, structures, repeat)
    compare(model, calculator, atoms)  # and the first calls, which are slower, are over
    return Ends(
        atoms=[len(item) for item in atoms],
        ours=[_timed(partial(_ours, model, item, max_steps, optimiser)) for item in atoms],
        peer=[_timed(partial(_ase, calculator, item, max_steps)) for item in atoms],
        max_steps=max_steps,
    )


def _timed(call: Callable[[], dict[str, float]]) -> dict[str, float]:
    before = time.process_time()
    end = call()
    end["seconds"] = time.process_time() - before
    print(end, flush=True)  # in the log of the process: the other side may take an hour
    return end


def _ours(model: TrainedModel, atoms: Atoms, max_steps: int, optimiser: Any) -> dict[str, float]:
    from workflow_lib.simulation.relaxation import relax

    stop = {"fmax": FMAX, "smax": SMAX, "max_steps": max_steps, "batch_size": 1}
    [end] = relax(model, [atoms], cell=True, optimiser=optimiser, **stop)  # type: ignore[arg-type]
    assert end.smax is not None
    return {"steps": end.steps, "energy": end.energy / len(atoms), "fmax": end.fmax, "smax": end.smax}


def _ase(calculator: Any, atoms: Atoms, max_steps: int) -> dict[str, float]:
    import numpy as np
    from ase import units
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    own = atoms.copy()
    own.calc = calculator
    optimiser = FIRE(FrechetCellFilter(own), logfile=None)
    fmax = smax = np.inf
    for _ in optimiser.irun(fmax=UNREACHED, steps=max_steps):
        fmax = float(np.linalg.norm(own.get_forces(), axis=1).max())
        smax = float(np.abs(own.get_stress()).max() / units.GPa)
        if fmax <= FMAX and smax <= SMAX:
            break
    energy = float(own.get_potential_energy()) / len(own)
    return {"steps": optimiser.nsteps, "energy": energy, "fmax": fmax, "smax": smax}


def summarise(name: str, ends: Ends, load: float) -> dict[str, Any]:
    """Return the line of a family: sums over the structures, and the ratio of the processor times.

    ``reached``: of how many structures each side found the end. Where the peer did not, the ratio is a
    lower bound.
    """
    line: dict[str, Any] = {"name": name, "structures": len(ends.atoms), "atoms": max(ends.atoms)}
    for side, values in (("our", ends.ours), ("peer", ends.peer)):
        line[f"{side}_steps"] = sum(int(end["steps"]) for end in values)
        line[f"{side}_s"] = round(sum(end["seconds"] for end in values), 2)
        line[f"{side}_reached"] = sum(end["fmax"] <= FMAX and end["smax"] <= SMAX for end in values)
        line[f"{side}_ends"] = [
            {key: round(end[key], 4) for key in ("steps", "energy", "fmax", "smax")} for end in values
        ]
    gaps = [
        1e3 * (one["energy"] - other["energy"]) for one, other in zip(ends.ours, ends.peer, strict=True)
    ]
    line |= {
        "ratio": round(line["peer_s"] / line["our_s"], 2),
        "energy_ours_minus_peer_mev_atom": [round(gap, 3) for gap in gaps],
        "max_steps": ends.max_steps,
        "load": round(load, 2),
    }
    return line
