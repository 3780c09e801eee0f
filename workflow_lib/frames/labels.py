"""Find the labels of a frame under any name that others give them, and make them a row of the table.

:data:`ACCEPTED` is the only table of names. Pitfalls handled here:

- ASE's readers move ``energy``, ``forces``, ``stress``, ``magmoms`` and ``charges`` into a
  calculator, so labels are searched there too. Files that this program writes have ``REF_`` names,
  which ASE leaves alone.
- ``initial_magmoms`` are a guess made before a calculation, never a result: not read.
- SchNetPack keeps energies as arrays of one number.
- Oxidation states are whole numbers: 2.9 is not 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import lru_cache
from math import gcd
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from workflow_lib.core.elements import SYMBOLS, atomic_number
from workflow_lib.core.errors import UserError, printable
from workflow_lib.frames.frame import RELAXATION, SAMPLES, SINGLE, TESTING, UNSPECIFIED, Frame, check_frame
from workflow_lib.frames.magnetism import stated_order

if TYPE_CHECKING:
    from ase import Atoms

StressUnit = Literal["eV/A^3", "GPa", "kbar"]
UNSTATED = "unstated"
"""Energy reference of frames whose file does not say at which level they were computed."""

ACCEPTED: dict[str, tuple[str, ...]] = {
    "energy": ("REF_energy", "energy", "dft_energy", "total_energy"),
    "forces": ("REF_forces", "forces", "force", "dft_forces"),
    "stress": ("REF_stress", "stress", "dft_stress"),
    "virial": ("REF_virial", "REF_virials", "virial", "virials", "dft_virial"),
    "magmoms": ("REF_magmom", "REF_magmoms", "magmoms", "magmom", "magnetic_moments", "dft_magmom"),
    "charges": ("REF_charge", "REF_charges", "bader_charge", "bader_charges", "charges"),
    "oxidation_states": ("oxidation_states", "oxidation_state", "oxi_states"),
    "stress_converged": ("stress_converged",),
    "frame_id": ("frame_id",),
    "group": ("group", "material", "material_id", "mp_id"),
    "path": ("path", "calculation", "calculation_id", "task_id", "run_id"),
    "state_key": ("state_key",),
    "kind": ("kind", "tag", "config_type"),
    "source": ("source",),
    "formula_units": ("formula_units",),
    "orbital": ("orbital",),
    "magnetic_order": ("magnetic_order", "magnetic_ordering", "ordering"),
    "energy_reference": ("energy_reference", "level_of_theory"),
}
"""Column of the frame table -> names accepted for it; the first one found counts.

A virial (eV) becomes a stress if the frame has none: stress = -virial / volume.
"""

_KINDS = {
    **{name: name for name in (RELAXATION, SINGLE, UNSPECIFIED, TESTING)},
    **{name.replace("-", " "): name for name in SAMPLES},
    **dict.fromkeys(("relax", "relaxed", "vc relax", "opt", "optimized", "optimised", "final"), RELAXATION),
    **dict.fromkeys(("optimization", "optimisation", "geometry optimization", "geo opt"), RELAXATION),
    **dict.fromkeys(("static", "scf", "single point", "singlepoint"), SINGLE),
    **dict.fromkeys(("default", "unknown", "none", "bulk"), UNSPECIFIED),
    **dict.fromkeys(("rattled", "perturbed"), "rattle"),
    **dict.fromkeys(("strained", "deformed", "deformation", "eos"), "strain"),
    **dict.fromkeys(("displacement", "displacements"), "displaced"),
    **{"phonons": "phonon", "aimd": "md", "molecular dynamics": "md", "neb": "path"},
}
"""Names of the kinds of frame, in small letters and without hyphens, and what they are called here."""


@lru_cache(maxsize=1000)
def known_kind(text: str) -> str:
    """Return what a kind of frame is called here, whatever its case and hyphens; as written if unknown."""
    return _KINDS.get(re.sub(r"[\s_-]+", " ", text).strip().lower(), text)


STRESS_TO_EV: dict[StressUnit, float] = {"eV/A^3": 1.0, "GPa": 1 / 160.21766208, "kbar": 1 / 1602.1766208}
STRESS_LIMIT = 1.0  # eV/A^3, 160 GPa: more than in any frame for training
_ALKALI = [atomic_number(symbol) for symbol in ("Li", "Na", "K")]
VOIGT = (0, 5, 4, 5, 1, 3, 4, 3, 2)
"""Places of a 3x3 matrix, row by row, in the order xx yy zz yz xz xy."""
LONGEST_REASON = 300  # characters
LARGEST_STATE = 9
"""No element has an oxidation state beyond it."""
LARGEST_COUNT = 1_000_000
"""Formula units of one cell; more is a slip."""
_FLAGS = {
    **dict.fromkeys(("t", "true", "yes", "1", "1.0"), True),
    **dict.fromkeys(("f", "false", "no", "0", "0.0", ""), False),
}
_WRITTEN = "stress_as_written"


class StressInEv(Frame):
    """A frame whose stress is in eV/A^3, whatever unit the other stress of its file has.

    The stress comes from a virial, or the file states its unit. Readers alone tell such frames from
    others; the frame table, whose stress is all in eV/A^3, does not.
    """

    __slots__ = ()


def reason_of(error: BaseException) -> str:
    """Return why something cannot be used, in one printable line; what it quotes of a file is cut short."""
    reason = printable(next(iter(str(error).splitlines()), "") or type(error).__name__)
    return reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}..."


def parse_comment(line: str) -> dict[str, Any]:
    """Parse a comment line of extended XYZ with ASE's parser, also if its stress has six numbers."""
    from ase.io.extxyz import key_val_str_to_dict

    found = key_val_str_to_dict(re.sub(r"(?<!\S)stress=", f"{_WRITTEN}=", line))
    # Back under its own name, and not the one of another stress in the same line.
    return {"stress" if name == _WRITTEN else name: value for name, value in found.items()}


def find_label(column: str, places: Sequence[Mapping[str, Any]]) -> Any:
    """Return the value under the first accepted name that any of the places has; None without one."""
    return next((value for _, _, value in _labels(column, places)), None)


def _labels(column: str, places: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, int, Any]]:
    """Yield name, number of the place and value of what the places have for a column; the first counts."""
    for name in ACCEPTED[column]:
        for number, place in enumerate(places):
            value = place.get(name)
            # One number under the name of moments is the total moment of the cell.
            if value is not None and not (column == "magmoms" and np.ndim(value) == 0):
                yield name, number, value


def per_atom(value: Any, n: int, column: str, where: str, width: int = 1) -> np.ndarray | None:
    """Return a label ``[n]`` (``[n, width]``); raise UserError for another length, or not numbers."""
    if value is None:
        return None
    array = _numbers(value, column, where)
    if array.size != n * width:
        raise UserError(
            f"{where}: {column} has {array.size} numbers for {n} atoms; give {width} per atom"
            + (" (collinear moments)" if column == "magmoms" else "")
        )
    return array.reshape((n, width) if width > 1 else n)


def _numbers(value: Any, column: str, where: str) -> np.ndarray:
    try:
        return np.asarray(value, dtype=float)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {column} holds something else than numbers") from error


def whole_states(states: np.ndarray, where: str) -> np.ndarray:
    """Return oxidation states ``[n]`` as integers, never rounded; raise UserError for other values."""
    wrong = ~is_state(states)
    if wrong.any():
        atom = int(wrong.argmax())
        raise UserError(
            f"{where}: oxidation_states[{atom}] is {states[atom]:g}; oxidation states are whole numbers, 0 "
            "where an atom takes no part"
        )
    return np.rint(states).astype(np.int64)


def is_state(values: np.ndarray) -> np.ndarray:
    """Return which numbers are possible oxidation states."""
    with np.errstate(invalid="ignore"):
        return (np.abs(values - np.rint(values)) < 1e-6) & (np.abs(values) <= LARGEST_STATE)


def _converged(value: Any) -> bool:
    """Return whether a file calls its stress converged; UserError for anything but yes or no."""
    known = _FLAGS.get(str(value).strip().lower())
    if known is None:
        raise UserError(f"{_FRAME}: stress_converged is {str(value)[:40]!r}; give T or F")
    return known


def _count(value: Any) -> int:
    """Return the formula units of a cell; raise UserError unless a whole number of at least 1."""
    try:
        count = float(value)
    except (ValueError, TypeError, OverflowError):
        count = -1.0
    if not (1 <= count <= LARGEST_COUNT and count == int(count)):
        raise UserError(
            f"{_FRAME}: formula_units is {str(value)[:40]!r}; give a whole number of at least 1"
        )
    return int(count)


def _matrix(value: Any, column: str) -> np.ndarray | None:
    """Return a 3x3 matrix from 3x3, 9 numbers, or Voigt order xx yy zz yz xz xy."""
    if value is None:
        return None
    flat = _numbers(value, column, _FRAME).ravel()
    if flat.size == 6:
        flat = flat[list(VOIGT)]
    if flat.size != 9:
        raise UserError(f"{_FRAME}: {column} has {flat.size} numbers; give 9, or 6 as xx yy zz yz xz xy")
    return flat.reshape(3, 3)


_FRAME = "the frame"
"""How messages of :func:`make_frame` begin; the reader knows which it is."""
VIRIALS = "virials are converted: stress = -virial / volume, tension positive"
"""The message, once per file, when :func:`make_frame` or the fast reader converts a virial."""


def count_formula_units(numbers: np.ndarray) -> int:
    """Return the greatest common divisor of the element counts; mobile alkali ions do not count."""
    framework = numbers[~np.isin(numbers, _ALKALI)]
    counted = framework if len(framework) else numbers
    return gcd(*(int(count) for count in np.unique(counted, return_counts=True)[1]))


def composition(numbers: np.ndarray) -> str:
    """Return the element counts in alphabetical order, such as ``Fe4Na2O16P4``."""
    symbols, counts = np.unique([SYMBOLS[z] for z in numbers], return_counts=True)
    return "".join(f"{symbol}{count}" for symbol, count in zip(symbols, counts, strict=True))


def make_frame(
    atoms: Atoms,
    places: Sequence[Mapping[str, Any]],
    *,
    default_id: str,
    source: str,
    note: Callable[[str], None],
    path: str | None = None,
    energy_reference: str | None = None,
    formula_units: int | None = None,
    converted: Container[str] = (),
) -> Frame:
    """Return one frame from atoms and the places (info, arrays, results) where its labels may be.

    Labels keep the unit of stress and the sign of charges that they have in the file; a stress from
    a virial, or in the first place under one of the ``converted`` names, is in eV/A^3, and the frame
    is a :class:`StressInEv`. ``path`` names the calculation of a frame that does not name it; None if
    unknown. ``note`` is called with one line about the treatment of an unusual label. Raises
    UserError for a frame that is not periodic, has no energy, or has labels of the wrong length or with
    impossible values.
    """
    if not atoms.pbc.all():
        raise UserError(f"{_FRAME} is not periodic in three directions; give its cell and pbc")
    n = len(atoms)
    text = {column: find_label(column, places) for column in ACCEPTED}
    if text["energy"] is None:
        raise UserError(f"{_FRAME} has no energy; accepted names: {', '.join(ACCEPTED['energy'])}")
    try:
        if isinstance(text["energy"], str):
            raise ValueError("readers give numbers")
        energy = float(np.asarray(text["energy"], dtype=float).reshape(()))
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{_FRAME}: energy {str(text['energy'])[:40]!r} is no number") from error
    forces = per_atom(text["forces"], n, "forces", _FRAME, 3)
    states = per_atom(text["oxidation_states"], n, "oxidation_states", _FRAME)
    stress = _matrix(text["stress"], "stress")
    name, place, _ = next(_labels("stress", places), ("", -1, None))
    in_ev = place == 0 and name in converted
    if stress is None and (virial := _matrix(text["virial"], "virial")) is not None:
        stress = -virial / abs(atoms.cell.volume)
        note(VIRIALS)
        in_ev = True
    units = text["formula_units"]
    frame = (StressInEv if in_ev else Frame)(
        frame_id=str(text["frame_id"] if text["frame_id"] is not None else default_id),
        # Frames that do not name their material are kept together by composition, so that no two
        # of one trajectory can be in different sets of a split.
        group=str(text["group"] if text["group"] is not None else composition(atoms.numbers)),
        path=path if text["path"] is None else str(text["path"]),
        state_key=None if text["state_key"] is None else str(text["state_key"]),
        kind=known_kind(str(text["kind"] or UNSPECIFIED)),
        source=str(text["source"] or source),
        numbers=np.asarray(atoms.numbers, dtype=np.int64),
        positions=np.array(atoms.positions),
        cell=np.array(atoms.cell[:]),
        formula_units=(formula_units or count_formula_units(atoms.numbers))
        if units is None
        else _count(units),
        energy=energy,
        energy_reference=str(text["energy_reference"] or energy_reference or UNSTATED),
        forces=forces,
        stress=stress,
        stress_converged=_converged(text["stress_converged"] or False),
        magmoms=per_atom(text["magmoms"], n, "magmoms", _FRAME),
        charges=per_atom(text["charges"], n, "charges", _FRAME),
        oxidation_states=None if states is None else whole_states(states, _FRAME),
        orbital=None if text["orbital"] is None else str(text["orbital"]),
        magnetic_order=stated_order(text["magnetic_order"]),
        fmax=None if forces is None else float(np.linalg.norm(forces, axis=1).max()),
    )
    check_frame(frame, _FRAME)
    return frame
