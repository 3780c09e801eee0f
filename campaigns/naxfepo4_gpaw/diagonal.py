"""Two thirds of Na with vacancies in diagonal rows of the ab plane, in a cell of its own.

Saracibar et al. (Phys. Chem. Chem. Phys. 18, 13045 (2016)) find the vacancies of Na2/3FePO4 on diagonals:
every third site along b is vacant, and from one chain to the next, a/2 away, the vacancies move by one
site, b/2. After a they have moved by b, so the smallest cell that holds a whole number of such rows is
sheared: a + b, 3b, c. It is no repeat of the host's cell, and therefore a host of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import make_supercell

from campaigns.naxfepo4_gpaw.cell_parts import relaxed_cells
from campaigns.naxfepo4_gpaw.level_parts import CHOSEN
from campaigns.naxfepo4_gpaw.states import POOR, RICH, again, olivine
from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.store import Store
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


def cell_diagonal(store: Store, model: Path | None) -> Iterator[Calculation]:
    """The ends in the cell that samples as the sheared one does, and the diagonal order.

    Positions and cell of the order are relaxed by ``model``, one of the level that stands that knows
    charge states and stress.
    """
    relaxed = relaxed_cells(store)
    folded = CHOSEN.model_copy(update={"kpoints": (1, 3, 2)})
    for key in (POOR, RICH):
        if key in relaxed:
            cell = SAME_LATTICE @ np.array(relaxed[key].frames[-1]["cell"])
            yield again(
                relaxed[key],
                name=f"{END} {key}",
                kind="supercell-end",
                level=folded,
                cell=cell.tolist(),
                charges=False,
            )
    if model is None:
        raise UserError("cell_diagonal needs --model-dir, a charge-labelled model that gives stress")
    from workflow_lib.models.trained import TrainedModel
    from workflow_lib.simulation.relaxation import relax

    host = sheared_olivine()
    start = host.build(diagonal_order(host, olivine()), polaron_distortion=0.06)
    network = TrainedModel.load(model)
    [end] = relax(network, [start], fmax=0.03, smax=0.1, max_steps=400, batch_size=1, cell=True)
    if end.status != "converged":
        raise UserError(f"{network.name} does not relax the diagonal order: {end.reason or end.status}")
    atoms = end.atoms
    yield Calculation(
        name="two thirds, diagonal",
        group=NAME,
        kind="supercell",
        task="single",
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell[:],
        oxidation_states=atoms.get_array("oxidation_states"),
        level=CHOSEN.model_copy(update={"kpoints": (1, 1, 2)}),
        formula_units=12,
        charges=False,
        provenance={"model_energy_ev": end.energy, "model": network.name},
    )
