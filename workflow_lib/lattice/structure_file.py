"""Checks of a file that holds one structure: what ASE reads without a word and is another compound.

Of a site with partial occupancies ASE keeps one element, fully occupied. Free of heavy imports.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workflow_lib.core.compressed import bare_name, check_expansion, open_binary
from workflow_lib.core.errors import UserError
from workflow_lib.lattice.sanity import check_geometry

if TYPE_CHECKING:
    from ase import Atoms

FULL = 1e-3
"""An occupancy this close to 1 is full."""
SHORTEST = 0.5
"""A; no bond is shorter (hydrogen's has 0.74)."""
LARGEST_FILE = 1 << 28
"""Bytes; a file of one structure is read completely."""


def check_file(path: Path) -> None:
    """Raise UserError for a path that is no file, or for one too large to hold one structure."""
    if not path.is_file():
        raise UserError(f"{path} does not exist or is no file; check the path to the structure")
    if path.stat().st_size > LARGEST_FILE:
        raise UserError(f"{path} has {path.stat().st_size} bytes; give one structure in a file")
    check_expansion(path)


def check_structure(path: Path, atoms: Atoms) -> None:
    """Raise UserError if atoms, as ASE read them from ``path``, are not the crystal in the file.

    That is one without periodic cell, with partial occupancies, or with two atoms (nearly) in one place.
    """
    if not atoms.pbc.all() or abs(atoms.cell.volume) < 1e-3:
        raise UserError(f"{path}: the structure is not periodic in three directions; give its cell")
    check_geometry(np.array(atoms.numbers), atoms.positions, np.asarray(atoms.cell[:]), str(path))
    _check_distances(path, atoms)
    if is_cif(path):
        _check_occupancies(path, atoms)
    else:
        require_ordered(atoms, str(path))


def require_ordered(atoms: Atoms, where: str) -> None:
    """Raise UserError for atoms that carry partial occupancies, as ASE notes them where it reads a CIF."""
    sites = atoms.info.get("occupancy")
    if not isinstance(sites, dict):
        return
    partial = [
        ", ".join(f"{element} {share:g}" for element, share in site.items())
        for site in sites.values()
        if isinstance(site, dict) and (len(site) > 1 or any(abs(x - 1) > FULL for x in site.values()))
    ]
    if partial:
        raise UserError(
            f"{where} has partially occupied sites ({'; '.join(partial[:5])}); energies belong to ordered "
            'cells: order it, or delete atoms.info["occupancy"] if that is done'
        )


def _check_distances(path: Path, atoms: Atoms) -> None:
    """Raise UserError naming two atoms that are closer than any bond."""
    from ase.neighborlist import neighbor_list

    first, second, distance = neighbor_list("ijd", atoms, SHORTEST)
    if len(first):
        one, two = (f"{atoms.symbols[index]} (atom {index})" for index in (first[0], second[0]))
        raise UserError(
            f"{path}: {one} and {two} are {distance[0]:.2f} A apart, less than any bond is long; of a "
            "split site keep one"
        )


def is_cif(path: Path) -> bool:
    """Return whether a file is a CIF by its name, compressed or not."""
    return bare_name(path.name).lower().endswith(".cif")


def cif_block(path: Path) -> Any:
    """Return the last block of a CIF that has a structure: the one that ASE takes."""
    from ase.io.cif import parse_cif

    with open_binary(path) as handle:
        return next(block for block in list(parse_cif(handle))[::-1] if block.has_structure())


def _check_occupancies(path: Path, atoms: Atoms) -> None:
    """Raise UserError naming the sites of a CIF that are not fully occupied by one element."""
    block = cif_block(path)
    occupancies = block.get("_atom_site_occupancy")
    labels = block.get("_atom_site_label") or block.get("_atom_site_type_symbol")
    if labels is None:
        return
    partial = []
    for label, occupancy in zip(labels, occupancies or [], strict=False):
        value = number_of(occupancy)
        if value is None or abs(value - 1) > FULL:
            partial.append(f"{label} {occupancy}")
    if partial:
        told = ", ".join(partial[:5]) + (", ..." if len(partial) > 5 else "")
        raise UserError(
            f"{path} has partially occupied sites ({told}); energies belong to ordered cells: make a "
            "supercell in which every site is full or absent, for example with pymatgen's "
            "OrderDisorderedStructureTransformation or the stage `search`, and give that"
        )
    # ASE keeps one of several atoms in one place.
    kinds = set(atoms.arrays.get("spacegroup_kinds", range(len(labels))))
    if lost := [str(label) for index, label in enumerate(labels) if index not in kinds]:
        raise UserError(
            f"{path}: {', '.join(lost[:5])} and another site are in one place; energies belong to ordered "
            "cells: keep one of them"
        )


def number_of(text: object) -> float | None:
    """Return a number of a CIF, which may include its uncertainty as 0.70(2); None if it is none."""
    try:
        return float(re.sub(r"\(\d+\)$", "", str(text)))
    except ValueError:
        return None
