"""Make the description of a host from crystal structures: CIF, POSCAR, or any file that pymatgen reads."""

from __future__ import annotations

from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from workflow_lib.core.elements import SYMBOLS, atomic_number
from workflow_lib.core.errors import UserError
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.host_file import HostFile
from workflow_lib.lattice.locate import onto_sites
from workflow_lib.lattice.redox import RedoxRule

if TYPE_CHECKING:
    from ase import Atoms

TOLERANCE = 0.1
"""A; positions are averaged over the symmetry found within this."""
EXACT = 24
"""Translations of space groups on their own origin are multiples of 1/24."""
LOOSER = 3.0
"""Times the tolerance: a crystal that has more symmetry within this may be a noisy one."""
FAR = 0.5
"""A; if averaging moves an empty framework farther, it does not have the symmetry of the full one."""
STRAINED = 0.01
"""The same of its cell, as a strain; an angle that is off by 1.1 degrees is as much."""
SAID = 5e-4
"""Strain from which the provenance says it."""


def host_from_files(
    full: str | Path,
    *,
    mobile: str,
    redox: str,
    oxidation_states: tuple[int, int],
    empty: str | Path | None = None,
    name: str | None = None,
    tolerance: float = TOLERANCE,
) -> HostFile:
    """Read the crystal with all mobile sites occupied, and optionally the empty one, and describe the host.

    See :func:`make_host`. Raises UserError for a file that cannot be read, and for partial
    occupancies, naming the sites.
    """
    files = [full] if empty is None else [full, empty]
    cells = [read_ordered(path) for path in files]
    provenance = f"made from {' and '.join(Path(path).name for path in files)}"
    return make_host(
        cells[0],
        mobile=mobile,
        redox=redox,
        oxidation_states=oxidation_states,
        empty=None if empty is None else cells[1],
        name=name,
        provenance=provenance,
        tolerance=tolerance,
    )


def read_ordered(path: str | Path) -> Atoms:
    """Read a structure; raise UserError if that fails or a site is partially occupied."""
    import warnings

    from pymatgen.core import Structure
    from pymatgen.io.ase import AseAtomsAdaptor

    if not Path(path).is_file():
        raise UserError(f"{path} does not exist; check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structure = Structure.from_file(str(path))
    except Exception as error:  # pymatgen raises many kinds of errors, from ValueError to RuntimeError
        raise UserError(f"{path} is no crystal structure that pymatgen reads ({error})") from error
    partial = [site for site in structure if not site.is_ordered]
    if partial:
        first = partial[0]
        raise UserError(
            f"{path}: site {first.label} is partially occupied ({first.species_string}), with "
            f"{len(partial) - 1} more of the {len(structure)} sites; a host is the ordered crystal with "
            "every mobile site occupied: set the occupancies to 1 and leave one element on each site"
        )
    structure.remove_oxidation_states()
    atoms: Atoms = AseAtomsAdaptor.get_atoms(structure)
    return atoms


def make_host(
    full: Atoms,
    *,
    mobile: str,
    redox: str,
    oxidation_states: tuple[int, int],
    empty: Atoms | None = None,
    name: str | None = None,
    provenance: str = "",
    tolerance: float = TOLERANCE,
) -> HostFile:
    """Describe a host by a cell with every mobile site occupied, made exactly symmetric.

    Cell and positions are averaged over the space group found within ``tolerance`` (A). ``empty`` is the
    same crystal without mobile ions, in any setting and orientation and of another volume; without it the
    full cell is used for every composition. It must have the symmetry of the full cell; by how much it had
    to be strained for that, the provenance says. Raises UserError where the structures are no such host.
    """
    from pymatgen.core import Composition

    for element in (mobile, redox):
        try:
            atomic_number(element)
        except ValueError as error:
            raise UserError(str(error)) from error
    numbers = np.asarray(full.numbers)
    scaled = np.asarray(full.get_scaled_positions(wrap=False))
    rotations, translations, symbol = _symmetry(np.asarray(full.cell[:]), scaled, numbers, tolerance)
    cell_full = _strained(np.asarray(full.cell[:]), _averaged_metric(np.asarray(full.cell[:]), rotations))
    scaled_full, _ = _averaged(scaled, numbers, cell_full, rotations, translations)
    counts = np.unique(numbers, return_counts=True)[1]
    formula = Composition(full.get_chemical_formula()).reduced_formula
    how = f"symmetrised in {symbol} within {tolerance:g} A"
    content = {
        "name": name or f"{formula} ({symbol}, {len(full)} atoms)",
        "provenance": f"{provenance}; {how}" if provenance else how,
        "mobile": mobile,
        "redox": redox,
        "oxidation_states": tuple(oxidation_states),
        "formula_units": gcd(*counts.tolist()),
        "numbers": numbers.tolist(),
        "cell_full": cell_full.tolist(),
        "cell_empty": cell_full.tolist(),
        "scaled_full": np.round(scaled_full, 8).tolist(),
        "scaled_empty": np.round(scaled_full, 8).tolist(),
    }
    described = _checked(content)
    if empty is None:
        return described
    if np.any(empty.numbers == atomic_number(mobile)):
        raise UserError(f"the empty end member holds {mobile}; take these ions out")
    placed = onto_sites(Host(described, _stand_in(described)), empty)
    framework = numbers != atomic_number(mobile)
    scaled_empty = scaled_full.copy()
    scaled_empty[placed.site] = placed.positions
    # Near the full sites, because a host moves between its ends without rotating in the cell.
    scaled_empty -= np.round(scaled_empty - scaled_full)
    # Of the file only lengths and angles count: turned against the full cell, the two would have no mean.
    metric = _averaged_metric(placed.cell, rotations)
    strain = _strain(placed.cell, metric)
    cell_empty = _strained(cell_full, metric)
    averaged, moved = _averaged(
        scaled_empty[framework], numbers[framework], cell_empty, rotations, translations
    )
    if moved > FAR or strain > STRAINED:
        what = (
            f"move an atom by {moved:.2f} A" if moved > FAR else f"strain its cell by {100 * strain:.1f} %"
        )
        raise UserError(
            f"the empty end member lacks the symmetry {symbol} of the full one: averaging would {what}; "
            "describe the host by the full cell alone"
        )
    if strain > SAID:
        content["provenance"] += f", the empty cell strained by {100 * strain:.1f} %"
    scaled_empty[framework] = averaged
    return _checked(
        content | {"cell_empty": cell_empty.tolist(), "scaled_empty": np.round(scaled_empty, 8).tolist()}
    )


def symmetry_nearby(described: HostFile, tolerance: float) -> tuple[str, float] | None:
    """Return the space group of more operations that the full cell has within a looser tolerance, and that.

    The tolerance is in A; None where the cell has no more symmetry there. A crystal from a relaxation or
    from dynamics may have lost symmetry to noise, and would be searched as one of lower symmetry.
    """
    cell, scaled = np.array(described.cell_full), np.array(described.scaled_full)
    where = cell, scaled, np.array(described.numbers)
    looser = LOOSER * tolerance
    try:
        (near, _, symbol), (found, _, _) = _symmetry(*where, looser), _symmetry(*where, tolerance)
    except UserError:  # atoms closer than the looser tolerance
        return None
    return (symbol, looser) if len(near) > len(found) else None


def _checked(content: dict) -> HostFile:
    try:
        return HostFile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"these structures make no host: {first['msg'].removeprefix('Value error, ')}"
        ) from error


def _stand_in(described: HostFile) -> RedoxRule:
    """Return a rule for locating atoms, which needs no charges because sites do not depend on them."""
    low, high = described.oxidation_states
    # Nothing is labelled here, but a mark must be no element of the crystal.
    free = next(SYMBOLS[z] for z in range(1, len(SYMBOLS)) if z not in described.numbers)
    marks = [{"surrogate": symbol, "new_species": symbol} for symbol in (described.redox, free)]
    return RedoxRule.model_validate(
        {
            "element": described.redox,
            "states": [
                {"oxidation": state, "magmom": {}, **mark}
                for state, mark in zip((low, high), marks, strict=True)
            ],
            "formal_charges": {
                SYMBOLS[z]: 1 for z in set(described.numbers) if SYMBOLS[z] != described.redox
            },
        }
    )


def _symmetry(
    cell: np.ndarray, scaled: np.ndarray, numbers: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray, str]:
    """Return rotations and translations of the space group in the basis of the cell, and its symbol."""
    import spglib

    found = spglib.get_symmetry_dataset((cell, scaled, numbers), symprec=tolerance)  # type: ignore[arg-type]
    if found is None:
        raise UserError("spglib finds no symmetry of the full cell; are two atoms on top of each other?")
    translations = np.asarray(found.translations)
    # If the origin is that of the space group, spglib's translations are off by as much as the atoms.
    exact = np.round(translations * EXACT) / EXACT
    edges = np.linalg.norm(cell, axis=1)
    if np.all(np.abs(translations - exact) * edges < tolerance):
        translations = exact
    return np.asarray(found.rotations), translations, str(found.international)


def _averaged_metric(cell: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """Return the scalar products of the cell's vectors [3, 3] (A^2), averaged over the rotations."""
    return np.mean([r.T @ (cell @ cell.T) @ r for r in rotations], axis=0)


def _strain(cell: np.ndarray, metric: np.ndarray) -> float:
    """Return the largest principal strain that gives the cell [3, 3] (A) another metric (A^2)."""
    from scipy.linalg import eigh

    squares = eigh(metric, cell @ cell.T, eigvals_only=True)
    return float(np.abs(np.sqrt(squares) - 1).max())


def _strained(cell: np.ndarray, metric: np.ndarray) -> np.ndarray:
    """Return the cell [3, 3] (A) with this metric (A^2): ``cell`` strained, not turned."""
    from scipy.linalg import sqrtm

    inverse = np.linalg.inv(cell)
    strained: np.ndarray = cell @ np.real(sqrtm(inverse @ metric @ inverse.T))
    return np.round(strained, 10) + 0.0


def _averaged(
    scaled: np.ndarray,
    numbers: np.ndarray,
    cell: np.ndarray,
    rotations: np.ndarray,
    translations: np.ndarray,
) -> tuple[np.ndarray, float]:
    """Return scaled positions averaged over the operations, and the largest distance moved (A)."""
    total = np.zeros_like(scaled)
    for rotation, translation in zip(rotations, translations, strict=True):
        image = scaled @ rotation.T + translation
        gap = image[:, None] - scaled[None]
        gap -= np.round(gap)
        cost = np.linalg.norm(gap @ cell, axis=-1)
        cost[numbers[:, None] != numbers[None]] = np.inf
        partner = cost.argmin(axis=1)
        if len(set(partner.tolist())) != len(scaled):
            raise UserError("two atoms share one symmetry-equivalent place; give a tighter tolerance")
        total[partner] += scaled[partner] + gap[np.arange(len(scaled)), partner]
    averaged = total / len(rotations)
    return averaged, float(np.linalg.norm((averaged - scaled) @ cell, axis=1).max())
