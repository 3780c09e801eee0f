"""Starts of calculations: cells and positions relaxed by the CHGNet that its wheel ships."""

from __future__ import annotations

from ase import Atoms


def chgnet_cell(atoms: Atoms) -> Atoms:
    """Positions and cell relaxed by the shipped CHGNet to 0.03 eV/A."""
    import contextlib
    import io

    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    with contextlib.redirect_stdout(io.StringIO()):
        from chgnet.model.dynamics import CHGNetCalculator

        atoms.calc = CHGNetCalculator(use_device="cpu")
    # ASE's own factor, the number of atoms, leaves the cell behind.
    filtered = FrechetCellFilter(atoms, exp_cell_factor=len(atoms) ** 0.5)
    FIRE(filtered, logfile=None).run(fmax=0.03, steps=400)
    atoms.calc = None
    return atoms
