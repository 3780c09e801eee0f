"""Compute the relaxed charge orders once more, at today's criteria of self-consistency.

``python -m campaigns.naxfepo4_gpaw.refine --store DIR`` takes the lowest relaxation of each state: the
energy and forces of its last geometry, from a cold start, take the place of the old ones. Where the
forces are then above the limit the relaxation is marked as failed with that reason, and ``dft-run
--retry-failed`` goes on with it. A state that is not held at the tighter criteria keeps its old entry.
Several processes may work at once.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from campaigns.naxfepo4_gpaw.truth import lowest_relaxations
from workflow_lib.core.errors import BusyError
from workflow_lib.dft.engines.gpaw.engine import CONVERGENCE, NotConverged, StateLost, SteeredGPAW
from workflow_lib.dft.level import Level
from workflow_lib.dft.store import Log, Store

LEVEL = Level()


def refine(log: Log, text: Path) -> str:
    """Recompute the last geometry of an open log; what came of it, in one line."""
    calculation, old = log.record.calculation, log.record.frames[-1]
    if log.record.status != "done":
        return f"{log.record.status}, left alone"
    if old.get("density_criterion") == CONVERGENCE["density"]:
        return "at today's criteria already"
    atoms = calculation.atoms()
    atoms.set_cell(old["cell"])
    atoms.set_positions(old["positions"])
    atoms.calc = SteeredGPAW(calculation, log, text)
    try:
        forces = atoms.get_forces()
    except (StateLost, NotConverged) as error:
        return f"keeps its old entry: {error}"
    change = np.abs(forces - old["forces"])
    energy = (log.record.frames[-1]["energy"] - old["energy"]) / calculation.formula_units * 1000
    fmax = np.linalg.norm(forces, axis=1).max()
    said = (
        f"energy {energy:+.3f} meV/f.u., forces by up to {change.max() * 1000:.1f} "
        f"(rms {(change**2).mean() ** 0.5 * 1000:.1f}) meV/A, largest force {fmax:.4f} eV/A, "
        f"{log.record.frames[-1]['scf_iterations']} iterations"
    )
    if fmax > calculation.fmax:
        log.end("failed", f"at tighter self-consistency the largest force is {fmax:.3f} eV/A; not relaxed")
        said += ", to be relaxed further"
    return said


def main() -> int:
    """Refine the lowest relaxation of each state, one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    store = Store(parser.parse_args().store)
    at_level = [record for record in store.records() if record.calculation.level == LEVEL]
    for key, record in lowest_relaxations(at_level).items():
        try:
            with store.writing(record.calculation) as log:
                said = refine(log, store.root / "text" / f"{record.calculation.digest}.txt")
        except BusyError:
            said = "in the hands of another process"
        print(f"{key}: {said}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
