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

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path
from workflow_lib.frames.labels import find_label, parse_comment, per_atom, reason_of, whole_states
from workflow_lib.frames.reading.comment import pairs, plain
from workflow_lib.frames.reading.common import Damaged
from workflow_lib.frames.reading.layout import DEFAULT, layout
from workflow_lib.frames.reading.scan import RawFrame, scan
from workflow_lib.lattice.structure_file import check_file, check_structure, cif_block, is_cif, number_of

if TYPE_CHECKING:
    from ase import Atoms

MOMENTS = "REF_magmom"
"""Array of the moments (muB) of a structure that was read."""
_CHARGE = re.compile(r"[A-Z][a-z]?(?:(\d*(?:\.\d+)?)([+-])|([+-])(\d+(?:\.\d+)?))")
"""Species with their charge, as Fe2+ or Fe+2, or Fe2.5+, which no model can be given."""


def read_structure(path: str | Path) -> Atoms:
    """Return the last structure of any file that ASE reads.

    Moments under any accepted name come back as the array ``REF_magmom``, charge states, given as
    numbers or by decorated species, as ``oxidation_states``. Raises UserError for an unreadable file,
    a structure without periodic cell, with partial occupancies, or with two atoms in one place.
    """
    path = Path(path)
    check_file(path)
    atoms, places = _last_image(path)
    check_structure(path, atoms)
    moments = per_atom(find_label("magmoms", places), len(atoms), "magmoms", str(path))
    if moments is not None:
        atoms.arrays[MOMENTS] = moments
    states = per_atom(find_label("oxidation_states", places), len(atoms), "oxidation_states", str(path))
    if states is None and is_cif(path):
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
        if path.suffix.lower() == ".db":
            rows = list(connect(path).select(sort="-id", limit=1))
            images = [(row.toatoms(), {**row.key_value_pairs, **row.data}) for row in rows]
        else:
            options: dict[str, Any] = {}
            place: Path | io.StringIO = path
            if path.suffix.lower() in (".xyz", ".extxyz"):
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


def _decorations(path: Path, atoms: Atoms) -> np.ndarray | None:
    """Return charge states ``[n]`` from the decorated species of a CIF; None if it has none.

    0 on atoms whose species has no charge. The species is the type symbol of the site, or its label
    if that is the symbol of an ion.
    """
    block = cif_block(path)
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
        stated = number_of(numbers.get(symbol, ""))
        if found:
            charges.append(float(f"{found[2] or found[3]}{found[1] or found[4] or 1}"))
        else:
            charges.append(0.0 if stated is None else stated)
    if not any(charges) or max(kinds, default=0) >= len(charges):
        return None
    return np.array(charges)[kinds]
