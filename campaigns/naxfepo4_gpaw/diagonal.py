"""Two thirds of Na with vacancies in diagonal rows of the ab plane, in a cell of its own.

Saracibar et al. (Phys. Chem. Chem. Phys. 18, 13045 (2016)) find the vacancies of Na2/3FePO4 on diagonals:
every third site along b is vacant, and from one chain to the next, a/2 away, the vacancies move by one
site, b/2. After a they have moved by b, so the smallest cell that holds a whole number of such rows is
sheared: a + b, 3b, c. It is no repeat of the host's cell, and therefore a host of its own.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import make_supercell

from campaigns.naxfepo4_gpaw.states import olivine
from workflow_lib.lattice.arrangement import UNIT, Arrangement
from workflow_lib.lattice.ewald import electrostatic_order
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.host_file import HostFile

SHEARED = np.array([[1, 1, 0], [0, 3, 0], [0, 0, 1]])
"""The cell in lattice vectors of the olivine cell, rows."""
SAME_LATTICE = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
"""Another cell of the olivine lattice. Gamma of the sheared cell holds the k-points (0, n/3) of this one:
a mesh of three along its second vector samples the ends exactly as the larger cell is sampled."""
NAME = "diagonal"
REPEAT = (1, 3, 1)
"""How often the cell of the ends fits into the sheared one."""
END = "end for the diagonal order"
"""How the names of the ends in their own cell begin."""


def sheared_olivine(small: Host | None = None) -> Host:
    """Return the olivine host in the sheared cell: 84 atoms, 12 Na."""
    small = small or olivine()
    ends = {name: _sheared(small, x) for name, x in (("full", 1.0), ("empty", 0.0))}
    content = {
        "name": f"{small.name}, sheared",
        "mobile": small.mobile,
        "redox": small.redox,
        "oxidation_states": (small.low, small.high),
        "formula_units": 3 * small.formula_units,
        "numbers": ends["full"].numbers.tolist(),
    }
    for name, atoms in ends.items():
        content[f"cell_{name}"] = atoms.cell[:].tolist()
        content[f"scaled_{name}"] = atoms.get_scaled_positions().tolist()
    return Host(HostFile.model_validate(content), small.rule)


def _sheared(host: Host, x: float) -> Atoms:
    atoms = make_supercell(host.full_cell(x), SHEARED, wrap=True)
    return atoms[np.argsort(atoms.numbers, kind="stable")]


def diagonal_order(host: Host, small: Host) -> Arrangement:
    """Return two thirds of Na with vacancies on diagonals, and the charge order of least Ewald energy."""
    _, scaled, cell = host.supercell(UNIT, 1.0)
    sites = scaled[host.mobile_sites] @ cell
    place = np.linalg.solve(small.cell_full.T, sites.T).T
    first = small.scaled_full[small.mobile_sites[0]]
    chain, along = np.round(2 * (place - first)).astype(int)[:, :2].T
    occupied = np.flatnonzero((along - chain) % 3 != 0)
    reduced = tuple(range(host.n_reduced(UNIT, len(occupied))))
    return electrostatic_order(Arrangement(UNIT, tuple(map(int, occupied)), reduced), host)
