"""Cells of other cathodes, made from the olivine host or from geometry, relaxed by CHGNet."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase import Atoms

from workflow_lib.lattice.arrangement import Arrangement
from workflow_lib.lattice.host import Host

CHEMISTRIES = {"NaMnPO4": "Mn", "NaCoPO4": "Co", "NaNiPO4": "Ni"}


def other_structures(host: Host, rng: np.random.Generator) -> Iterator[tuple[str, Atoms, int]]:
    """Name, relaxed structure and formula units per cell; ``rng`` displaces the silicate's atoms."""
    sites = tuple(range(host.n_mobile((1, 1, 1))))
    olivine = host.build(Arrangement((1, 1, 1), sites, sites))
    olivine.arrays.pop("oxidation_states")
    for name, symbol in CHEMISTRIES.items():
        atoms = olivine.copy()
        atoms.symbols[atoms.symbols == "Fe"] = symbol
        yield name, chgnet_cell(atoms), 4
    yield "stuffed cristobalite Na2FeSiO4", chgnet_cell(_stuffed_cristobalite(rng)), 4
    yield "maricite NaFePO4", chgnet_cell(_maricite()), 4


def _maricite() -> Atoms:
    """Maricite (Pmnb, here as Pnma) near its mineral's cell of 8.989 x 6.867 x 5.049 A.

    Olivine with Na and Fe interchanged is not it: phosphate is turned, and that start relaxes into
    another, expanded structure. Coordinates are rounded; the relaxation makes them precise.
    """
    from ase.spacegroup import crystal

    basis = [
        ("Fe", (0.0, 0.0, 0.0)),
        ("Na", (0.35, 0.25, 0.97)),
        ("P", (0.18, 0.25, 0.46)),
        ("O", (0.12, 0.25, 0.75)),
        ("O", (0.35, 0.25, 0.45)),
        ("O", (0.12, 0.07, 0.32)),
    ]
    symbols, scaled = zip(*basis, strict=True)
    return crystal(symbols, scaled, spacegroup=62, cellpar=[8.99, 6.87, 5.05, 90, 90, 90])


def _stuffed_cristobalite(rng: np.random.Generator) -> Atoms:
    """Na2FeSiO4 as a stuffed cristobalite: corner-sharing FeO4 and SiO4, Na in all large voids.

    Tetrahedra stand on a diamond lattice, Fe and Si alternating, O between neighbours, Na on the
    diamond lattice shifted by half a body diagonal; the symmetric start is displaced by 0.1 A.
    """
    fcc = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    quarter = np.full(3, 0.25)
    bonds = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 8
    oxygen = np.concatenate([fcc + bond for bond in bonds])
    sodium = np.concatenate([fcc + 0.5, fcc + 0.5 + quarter])
    scaled = np.concatenate([sodium, fcc, fcc + quarter, oxygen])
    atoms = Atoms("Na8Fe4Si4O16", scaled_positions=scaled % 1, cell=np.eye(3) * 7.4, pbc=True)
    atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
    return atoms


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
