"""Electrostatic energy of formal point charges, by Ewald's sum (pymatgen)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workflow_lib.lattice.arrangement import Arrangement

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

    from workflow_lib.lattice.host import Host


def _charged(atoms: Atoms, charges: np.ndarray) -> Structure:
    from ase import Atoms
    from pymatgen.io.ase import AseAtomsAdaptor

    bare = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    structure = AseAtomsAdaptor.get_structure(bare)
    structure.add_oxidation_state_by_site([float(charge) for charge in charges])
    return structure


def ewald_energy(atoms: Atoms, charges: np.ndarray) -> float:
    """Return the electrostatic energy of point charges ``[n]`` (e) in a periodic neutral cell, in eV."""
    from pymatgen.analysis.ewald import EwaldSummation

    return float(EwaldSummation(_charged(atoms, charges)).total_energy)


def electrostatic_order(arrangement: Arrangement, host: Host) -> Arrangement:
    """Return the ions with the charge order of lowest point-charge energy (formal charges).

    It represents an arrangement of a charge-blind model, which knows no order, because DFT needs
    one. pymatgen's EwaldMinimizer searches the minimum on the undistorted structure.
    """
    from pymatgen.analysis.ewald import EwaldMinimizer, EwaldSummation

    size = host.n_reduced(arrangement.repeat, len(arrangement.occupied))
    every = tuple(range(host.n_redox(arrangement.repeat)))
    if size in (0, len(every)):
        return Arrangement(arrangement.repeat, arrangement.occupied, every[:size])
    atoms = host.build(Arrangement(arrangement.repeat, arrangement.occupied, every[:size]))
    charges = host.rule.formal(atoms.numbers, atoms.get_array("oxidation_states"))
    sites = np.flatnonzero(atoms.numbers == host.rule.redox_z)
    charges[sites] = host.high
    change = [host.low / host.high, size, [int(site) for site in sites], None]
    matrix = EwaldSummation(_charged(atoms, charges)).total_energy_matrix
    chosen = EwaldMinimizer(matrix, [change], 1, EwaldMinimizer.ALGO_FAST).output_lists[0][1]
    reduced = sorted(int(np.flatnonzero(sites == site)[0]) for site, _ in chosen)
    return Arrangement(arrangement.repeat, arrangement.occupied, tuple(reduced))
