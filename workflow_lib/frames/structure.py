"""One structure of any file that ASE reads, with its charge states and moments.

A CIF with partial occupancies is rejected: ASE keeps one element per site, so Na0.7 and Na1.0 would be
one structure with one energy. Decorated species of a CIF (Fe2+, Fe3+) are its charge states.
``initial_magmoms`` are a guess made before a calculation: not read.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workflow_lib.core.compressed import check_expansion
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path
from workflow_lib.frames.frame import check_geometry
from workflow_lib.frames.labels import find_label, parse_comment, per_atom, reason_of, whole_states
from workflow_lib.frames.reading.comment import pairs, plain
from workflow_lib.frames.reading.common import Damaged
from workflow_lib.frames.reading.layout import DEFAULT, layout
from workflow_lib.frames.reading.scan import RawFrame, scan

if TYPE_CHECKING:
    from ase import Atoms

FULL = 1e-3
"""An occupancy this close to 1 is full."""
LARGEST_FILE = 1 << 28
"""Bytes; a file of one structure is read completely."""
_CHARGE = re.compile(r"[A-Z][a-z]?(?:(\d*)([+-])|([+-])(\d+))")
"""Species with their charge, as Fe2+ or Fe+2."""


def read_structure(path: str | Path) -> Atoms:
    """Return the last structure of any file that ASE reads.

    Moments under any accepted name come back as the array ``REF_magmom``, charge states, given as
    numbers or by decorated species, as ``oxidation_states``. Raises UserError for an unreadable file,
    a structure without periodic cell, with partial occupancies, or with two atoms in one place.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist or is no file; check the path to the structure")
    if path.stat().st_size > LARGEST_FILE:
        raise UserError(f"{path} has {path.stat().st_size} bytes; give one structure in a file")
    check_expansion(path)
    atoms, places = _last_image(path)
    if not atoms.pbc.all() or abs(atoms.cell.volume) < 1e-3:
        raise UserError(f"{path}: the structure is not periodic in three directions; give its cell")
    check_geometry(np.array(atoms.numbers), atoms.positions, np.asarray(atoms.cell[:]), str(path))
    if path.suffix.lower() == ".cif":
        _check_occupancies(path, atoms)
    moments = per_atom(find_label("magmoms", places), len(atoms), "magmoms", str(path))
    if moments is not None:
        atoms.arrays["REF_magmom"] = moments
    states = per_atom(find_label("oxidation_states", places), len(atoms), "oxidation_states", str(path))
    if states is None and path.suffix.lower() == ".cif":
        states = _decorations(path, atoms)
    if states is not None:
        atoms.arrays["oxidation_states"] = whole_states(states, str(path))
    return atoms


def written_format(path: str | Path) -> str:
    """Return ASE's name of the format that a path's suffix asks for; UserError for an unknown one."""
    from ase.io.formats import UnknownFileTypeError, filetype, get_ioformat

    try:
        return get_ioformat(filetype(str(path), read=False)).name
    except UnknownFileTypeError as error:
        raise UserError(
            f"{path}: ASE knows no format of this suffix; use .extxyz, .cif or .vasp"
        ) from error


def write_structure(atoms: Atoms, path: str | Path) -> None:
    """Write one structure in the format of the suffix, atomically; UserError for an unknown one."""
    import ase.io

    name = written_format(path)
    with atomic_path(path) as temporary:
        ase.io.write(temporary, atoms, format=name)


def _last_image(path: Path) -> tuple[Atoms, list[Any]]:
    """Return the last image with the places its labels may be in, in order of preference."""
    import ase.io
    from ase.db import connect

    try:
        if path.suffix == ".db":
            rows = list(connect(path).select(sort="-id", limit=1))
            images = [(row.toatoms(), {**row.key_value_pairs, **row.data}) for row in rows]
        else:
            options: dict[str, Any] = {}
            place: Path | io.StringIO = path
            if path.suffix in (".xyz", ".extxyz"):
                place = io.StringIO(_last_frame(path))
                options = {"format": "extxyz", "properties_parser": parse_comment}
            # Without the option, run@300K.extxyz would be image 300K of a file "run".
            found = ase.io.read(place, index="-1", do_not_split_by_at_sign=True, **options)
            last = found[-1] if isinstance(found, list) else found
            images = [(last, last.info)]
    except UserError:
        raise
    # Readers of damaged files raise many kinds of errors (struct, sqlite3, key, index, value).
    except Exception as error:
        raise UserError(
            f"{path} is truncated or not in its format ({reason_of(error)}); get it again"
        ) from error
    if not images or not len(images[0][0]):
        raise UserError(f"{path} holds no structure; check that it was written to the end")
    atoms, info = images[0]
    return atoms, [info, atoms.arrays, atoms.calc.results if atoms.calc is not None else {}]


def _last_frame(path: Path) -> str:
    """Return the text of the last frame of an extended XYZ file; UserError if it is damaged.

    ASE would take any count of atoms or columns at its word, and work for hours.
    """
    last: RawFrame | Damaged | None = None
    for found, _ in scan(path):
        last = found[-1] if found else last
    if last is None:
        raise UserError(f"{path} holds no structure; check that it was written to the end")
    if isinstance(last, Damaged):
        raise UserError(f"{path} frame {last.number} (line {last.line}): {last.reason}; correct it")
    try:
        layout(plain(pairs(last.comment).get("Properties", DEFAULT)))
    except ValueError as error:
        raise UserError(f"{path} frame {last.number} (line {last.line}): {reason_of(error)}") from error
    return (b"%d\n%s\n%s" % (last.atoms, last.comment, last.block)).decode()


def _cif_block(path: Path) -> Any:
    from ase.io.cif import parse_cif

    with path.open("rb") as handle:
        return next(block for block in list(parse_cif(handle))[::-1] if block.has_structure())


def _check_occupancies(path: Path, atoms: Atoms) -> None:
    """Raise UserError naming the sites of a CIF that are not fully occupied by one element."""
    block = _cif_block(path)
    occupancies = block.get("_atom_site_occupancy")
    labels = block.get("_atom_site_label") or block.get("_atom_site_type_symbol")
    if labels is None:
        return
    partial = []
    for label, occupancy in zip(labels, occupancies or [], strict=False):
        value = _value(occupancy)
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


def _value(text: object) -> float | None:
    """Return a number of a CIF, which may include its uncertainty as 0.70(2); None if it is none."""
    try:
        return float(re.sub(r"\(\d+\)$", "", str(text)))
    except ValueError:
        return None


def _decorations(path: Path, atoms: Atoms) -> np.ndarray | None:
    """Return charge states ``[n]`` from the decorated species of a CIF; None if it has none.

    0 on atoms whose species has no charge. The species is the type symbol of the site, or its label
    if that is the symbol of an ion.
    """
    block = _cif_block(path)
    kinds = atoms.arrays.get("spacegroup_kinds")
    labels = block.get("_atom_site_label") or []
    symbols = block.get("_atom_site_type_symbol") or labels
    numbers = dict(
        zip(
            block.get("_atom_type_symbol") or [],
            block.get("_atom_type_oxidation_number") or [],
            strict=False,
        )
    )
    if kinds is None:
        return None
    charges: list[float] = []
    for symbol, label in zip(symbols, labels or symbols, strict=False):
        found = _CHARGE.fullmatch(str(symbol)) or _CHARGE.fullmatch(str(label))
        stated = _value(numbers.get(symbol, ""))
        if found:
            charges.append(float(f"{found[2] or found[3]}{found[1] or found[4] or 1}"))
        else:
            charges.append(0.0 if stated is None else stated)
    if not any(charges) or max(kinds, default=0) >= len(charges):
        return None
    return np.array(charges)[kinds]
