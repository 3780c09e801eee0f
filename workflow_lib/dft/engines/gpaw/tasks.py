"""Run a calculation with GPAW to its end: a single point, a series of geometries, a relaxation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from ase.units import GPa

from workflow_lib.dft.calculation import MAX_STRESS, Calculation
from workflow_lib.dft.engines.gpaw.engine import NotConverged, StateLost, SteeredGPAW
from workflow_lib.dft.engines.gpaw.installed import require_all
from workflow_lib.dft.store import Log
from workflow_lib.dft.symmetry import KeepOperations, operations

MAX_STEP = 0.08  # A


def compute(
    calculation: Calculation, log: Log, *, text: Path | str | None = None, densities: Path | None = None
) -> None:
    """Run a calculation to its end, from the last logged geometry if there is one.

    ``densities`` is the folder of kept densities, for a warm start now and later. Every geometry goes to
    the log as it is done; the log is closed as ``done`` or as ``failed`` with the reason. Raises UserError
    if GPAW, a PAW set or, for charges, pybader is missing.
    """
    require_all([calculation])
    atoms = calculation.atoms()
    if log.record.frames and calculation.task == "single":
        log.end("done")
        return
    engine = SteeredGPAW(calculation, log, text, densities)
    atoms.calc = engine
    try:
        if calculation.task == "single":
            atoms.get_potential_energy()
        elif calculation.task == "series":
            _series(atoms, calculation, log)
        elif not _relax(atoms, calculation, log):
            left = f"forces above {calculation.fmax:g} eV/A"
            if calculation.task == "cell":
                left += f" or stress above {MAX_STRESS / GPa:g} GPa"
            log.end("failed", f"{left} after {calculation.max_steps} steps")
            return
        elif calculation.charges and (charges := engine.charges()) is not None:
            log.frame(log.record.frames[-1] | {"charges": charges})
    except (StateLost, NotConverged) as error:
        log.end("failed", str(error))
    else:
        log.end("done")


def _series(atoms: Atoms, calculation: Calculation, log: Log) -> None:
    """Compute every geometry of a series; one that fails is noted and left out."""
    assert calculation.series is not None
    for index in range(len(log.record.frames) + len(log.record.skipped), len(calculation.series)):
        if calculation.series_cells is not None:
            atoms.set_cell(calculation.series_cells[index])
        atoms.set_positions(calculation.series[index])
        try:
            atoms.get_potential_energy()
        except (StateLost, NotConverged) as error:
            log.skip(index, str(error))


def _relax(atoms: Atoms, calculation: Calculation, log: Log) -> bool:
    """Relax positions, or positions and cell, with BFGS; return whether forces and stress are small.

    ``atoms`` is the start, which the strain of the cell is counted from; what is logged is learned again.
    """
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    from workflow_lib.dft.engines.gpaw.hessian import model_hessian

    earlier = list(log.record.frames)
    cell = calculation.task == "cell"
    group = operations(calculation)
    if len(group) > 1:
        atoms.set_constraint(KeepOperations(group))
    # This factor makes strains about as stiff as positions.
    filtered: Any = FrechetCellFilter(atoms, exp_cell_factor=len(atoms) ** 0.5) if cell else atoms
    path = []
    engine = atoms.calc
    for frame in earlier:
        atoms.set_cell(frame["cell"], apply_constraint=False)
        atoms.set_positions(frame["positions"], apply_constraint=False)
        stress = frame["stress"]
        atoms.calc = SinglePointCalculator(
            atoms,
            energy=frame["energy"],
            forces=np.array(frame["forces"]),
            stress=None if stress is None else full_3x3_to_voigt_6_stress(np.array(stress)),
        )
        path.append((filtered.get_positions().ravel(), filtered.get_forces().ravel()))
    atoms.calc = engine
    optimizer = BFGS(filtered, logfile=None, maxstep=MAX_STEP)
    optimizer.H0 = model_hessian(filtered)
    for (x, f), (x0, f0) in zip(path, path[:1] + path[:-1], strict=True):
        optimizer.update(x, f, x0, f0)
        optimizer.pos0, optimizer.forces0 = x, f

    # The last geometry is computed again: it is known to hold the state, the next step may not be.
    def relaxed() -> bool:
        if np.linalg.norm(atoms.get_forces(), axis=1).max() >= calculation.fmax:
            return False
        return not cell or np.abs(atoms.get_stress()).max() < MAX_STRESS

    return any(relaxed() for _ in optimizer.irun(0.0, calculation.max_steps - len(earlier)))
