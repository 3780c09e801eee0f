"""Frames and structures in the formats of others: extended XYZ, ASE db, and what ASE reads.

:data:`ACCEPTED` is the one table of names under which labels may stand. Traps this file answers:

- ASE's readers move ``energy``, ``forces``, ``stress``, ``magmoms`` and ``charges`` into a
  calculator: labels are looked for there too. What this file writes carries ``REF_`` names, which
  ASE leaves alone.
- ``initial_magmoms`` are a guess someone made before a calculation, never a result: not read.
- The sign of Bader charges differs between sources (ACF - ZVAL has cations negative): Na in an
  oxide must come out near +0.87 e, else the sign of the frame is turned.
- Stress is sometimes said to be in GPa where the numbers are eV/A^3: the unit follows from the
  magnitude, or from the caller.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from workflow_lib.core.elements import SYMBOLS, atomic_number
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path
from workflow_lib.frames.magnetism import stated_order
from workflow_lib.frames.table import (
    RELAXATION,
    SINGLE,
    UNSPECIFIED,
    Frame,
    check_frame,
    frame_to_atoms,
    read_parquet,
    write_parquet,
)

if TYPE_CHECKING:
    from ase import Atoms

_log = logging.getLogger(__name__)

StressUnit = Literal["eV/A^3", "GPa", "kbar"]
UNSTATED = "unstated"
"""Energy reference of frames whose file does not say at which level they were computed."""

ACCEPTED: dict[str, tuple[str, ...]] = {
    "energy": ("REF_energy", "energy", "dft_energy", "total_energy"),
    "forces": ("REF_forces", "forces", "force", "dft_forces"),
    "stress": ("REF_stress", "stress", "dft_stress"),
    "magmoms": ("REF_magmom", "REF_magmoms", "magmoms", "magmom", "magnetic_moments", "dft_magmom"),
    "charges": ("REF_charge", "REF_charges", "bader_charge", "bader_charges", "charges"),
    "oxidation_states": ("oxidation_states", "oxidation_state"),
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
"""Column of the frame table -> names accepted for it; the first one found counts."""

KINDS = {
    **dict.fromkeys(("relax", "opt", "geometry optimization"), RELAXATION),
    **dict.fromkeys(("static", "scf"), SINGLE),
    **{"rattled": "rattle", "MD": "md"},
}
"""Names of others for the kinds of frame that are told apart."""

_XYZ = (".extxyz", ".xyz")
SUFFIXES = (*_XYZ, ".db")
STRESS_TO_EV: dict[StressUnit, float] = {"eV/A^3": 1.0, "GPa": 1 / 160.21766208, "kbar": 1 / 1602.1766208}
STRESS_LIMIT = 1.0  # eV/A^3, 160 GPa: no frame one would train on is stressed so
_ALKALI = [atomic_number(symbol) for symbol in ("Li", "Na", "K")]
_NA, _O = atomic_number("Na"), atomic_number("O")
_NA_BADER = (0.5, 1.05)  # e; Na in oxides and polyanions has 0.86 to 0.88


def read_frames(
    path: str | Path,
    *,
    energy_reference: str | None = None,
    formula_units: int | None = None,
    stress_unit: StressUnit | None = None,
) -> list[Frame]:
    """Read frames from Parquet, extended XYZ or ASE db, by suffix.

    ``energy_reference``, ``formula_units`` (per cell) and ``stress_unit`` say what a foreign file
    leaves open. Without them the level is ``UNSTATED``, formula units are the greatest common
    divisor of the element counts without Li, Na and K, and the unit of the stress is judged by
    its magnitude. Raises UserError for an unknown suffix, a missing or damaged file, labels of
    the wrong length or not finite, a frame without energy, and a file that states another level.
    """
    path = Path(path)
    if formula_units is not None and formula_units < 1:
        raise UserError(f"formula units of {path} are {formula_units}; a cell holds at least 1")
    if path.suffix == ".parquet":
        frames = read_parquet(path)
    elif path.suffix in SUFFIXES:
        frames = _read_foreign(path, energy_reference, formula_units, stress_unit)
    else:
        raise UserError(f"{path}: unknown suffix {path.suffix!r}; use .parquet, {', '.join(SUFFIXES)}")
    if not frames:
        raise UserError(f"{path} holds no frames; check that it was written to the end")
    for index, frame in enumerate(frames):
        if energy_reference is not None and frame.energy_reference != energy_reference:
            raise UserError(
                f"{path}: frame {index} is at the level {frame.energy_reference}, not "
                f"{energy_reference}; energies of different levels must not meet"
            )
    return frames


def write_frames(frames: Sequence[Frame], path: str | Path) -> None:
    """Write frames as Parquet, extended XYZ or ASE db, by suffix; UserError for another suffix.

    Extended XYZ keeps 8 decimals of per-atom values; the other two keep all.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        write_parquet(frames, path)
    elif path.suffix in _XYZ:
        import ase.io

        with atomic_path(path) as temporary:
            ase.io.write(temporary, [frame_to_atoms(frame) for frame in frames], format="extxyz")
    elif path.suffix == ".db":
        _write_db(frames, path)
    else:
        raise UserError(f"{path}: unknown suffix {path.suffix!r}; use .parquet, {', '.join(SUFFIXES)}")


def read_structure(path: str | Path) -> Atoms:
    """The last structure of any file that ASE reads.

    Moments under any accepted name come back as the array ``REF_magmom``, charge states as
    ``oxidation_states``. Raises UserError for an unreadable file or one without periodic cell.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; check the path to the structure")
    atoms, places = _images(path)[-1]
    if not atoms.pbc.all() or abs(atoms.cell.volume) < 1e-3:
        raise UserError(f"{path}: the structure is not periodic in three directions; give its cell")
    for column, array in (("magmoms", "REF_magmom"), ("oxidation_states", "oxidation_states")):
        value = _per_atom(_find(column, places), len(atoms), column, str(path))
        if value is not None:
            atoms.arrays[array] = value.astype(np.int64) if column == "oxidation_states" else value
    return atoms


def write_structure(atoms: Atoms, path: str | Path) -> None:
    """Write one structure in the format of the suffix, atomically; UserError for an unknown one."""
    import ase.io
    from ase.io.formats import UnknownFileTypeError, filetype

    with atomic_path(path) as temporary:
        try:
            ase.io.write(temporary, atoms, format=filetype(str(path), read=False))
        except UnknownFileTypeError as error:
            raise UserError(
                f"{path}: ASE knows no format of this suffix; use .extxyz, .cif or .vasp"
            ) from error


def parse_comment(line: str) -> dict[str, Any]:
    """ASE's parser of extended XYZ's comment lines, made to accept a stress of six numbers."""
    from ase.io.extxyz import key_val_str_to_dict

    return key_val_str_to_dict(re.sub(r"(?<!\S)stress=", "dft_stress=", line))


def _images(path: Path) -> list[tuple[Atoms, list[Mapping[str, Any]]]]:
    """Every image with the places its labels may be in, in order of preference."""
    import ase.io
    from ase.db import connect

    images = []
    try:
        if path.suffix == ".db":
            for row in connect(path).select():
                images.append((row.toatoms(), {**row.key_value_pairs, **row.data}))
        else:
            options: dict[str, Any] = {}
            if path.suffix in _XYZ:
                options = {"format": "extxyz", "properties_parser": parse_comment}
            read = ase.io.read(path, index=":", **options)
            images = [(atoms, atoms.info) for atoms in (read if isinstance(read, list) else [read])]
    # Readers of damaged files raise anything (struct, sqlite3, key, index, value errors).
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is truncated or not in its format ({reason}); get it again") from error
    if not images:
        raise UserError(f"{path} holds no frames; check that it was written to the end")
    return [
        (atoms, [info, atoms.arrays, atoms.calc.results if atoms.calc is not None else {}])
        for atoms, info in images
    ]


def _find(column: str, places: Sequence[Mapping[str, Any]]) -> Any:
    for name in ACCEPTED[column]:
        for place in places:
            value = place.get(name)
            # One number under the name of moments is the total moment of the cell.
            if value is not None and not (column == "magmoms" and np.ndim(value) == 0):
                return value
    return None


def _per_atom(value: Any, n: int, column: str, where: str, width: int = 1) -> np.ndarray | None:
    if value is None:
        return None
    try:
        array = np.asarray(value, dtype=float)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {column} holds something else than numbers") from error
    if array.size != n * width:
        raise UserError(
            f"{where}: {column} has {array.size} numbers for {n} atoms; give {width} per atom"
            + (" (collinear moments)" if column == "magmoms" else "")
        )
    return array.reshape((n, width) if width > 1 else n)


def _stress(value: Any, where: str) -> np.ndarray | None:
    """3x3 from 3x3, 9 numbers, or Voigt order xx yy zz yz xz xy."""
    if value is None:
        return None
    flat = np.asarray(value, dtype=float).ravel()
    if flat.size == 6:
        flat = flat[[0, 5, 4, 5, 1, 3, 4, 3, 2]]
    if flat.size != 9:
        raise UserError(f"{where}: stress has {flat.size} numbers; give 9, or 6 as xx yy zz yz xz xy")
    return flat.reshape(3, 3)


def count_formula_units(numbers: np.ndarray) -> int:
    """Greatest common divisor of the element counts; mobile alkali ions do not count."""
    framework = numbers[~np.isin(numbers, _ALKALI)]
    counted = framework if len(framework) else numbers
    return gcd(*(int(count) for count in np.unique(counted, return_counts=True)[1]))


def composition(numbers: np.ndarray) -> str:
    """Element counts in alphabetical order, such as ``Fe4Na2O16P4``."""
    symbols, counts = np.unique([SYMBOLS[z] for z in numbers], return_counts=True)
    return "".join(f"{symbol}{count}" for symbol, count in zip(symbols, counts, strict=True))


def make_frame(
    atoms: Atoms,
    places: Sequence[Mapping[str, Any]],
    where: str,
    *,
    default_id: str,
    source: str,
    path: str | None = None,
    energy_reference: str | None = None,
    formula_units: int | None = None,
    note: Callable[[str], None] = _log.warning,
) -> Frame:
    """One frame from atoms and the places (info, arrays, results) where its labels may be.

    ``path`` names the calculation of a frame that does not say it; None where that is not known.
    ``note`` is told in one line what was made of an unusual label.
    Labels keep the unit of stress and the sign of charges that they have in the file. Raises
    UserError, beginning with ``where``, for a frame that is not periodic, has no energy, or has
    labels of the wrong length or not finite.
    """
    if not atoms.pbc.all():
        raise UserError(f"{where} is not periodic in three directions; give its cell and pbc")
    n = len(atoms)
    text = {column: _find(column, places) for column in ACCEPTED}
    if text["energy"] is None:
        raise UserError(f"{where} has no energy; accepted names: {', '.join(ACCEPTED['energy'])}")
    try:
        energy = float(text["energy"])
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: energy {text['energy']!r} is no number") from error
    forces = _per_atom(text["forces"], n, "forces", where, 3)
    states = _per_atom(text["oxidation_states"], n, "oxidation_states", where)
    kind = str(text["kind"] or UNSPECIFIED)
    frame = Frame(
        frame_id=str(text["frame_id"] if text["frame_id"] is not None else default_id),
        # Frames that say nothing of their material are kept together by composition, so that
        # no two of one trajectory can end up on both sides of a split.
        group=str(text["group"] if text["group"] is not None else composition(atoms.numbers)),
        path=path if text["path"] is None else str(text["path"]),
        state_key=None if text["state_key"] is None else str(text["state_key"]),
        kind=KINDS.get(kind, kind),
        source=str(text["source"] or source),
        numbers=np.asarray(atoms.numbers, dtype=np.int64),
        positions=np.array(atoms.positions),
        cell=np.array(atoms.cell[:]),
        formula_units=int(text["formula_units"] or formula_units or count_formula_units(atoms.numbers)),
        energy=energy,
        energy_reference=str(text["energy_reference"] or energy_reference or UNSTATED),
        forces=forces,
        stress=_stress(text["stress"], where),
        stress_converged=bool(text["stress_converged"] or False),
        magmoms=_per_atom(text["magmoms"], n, "magmoms", where),
        charges=_per_atom(text["charges"], n, "charges", where),
        oxidation_states=None if states is None else states.astype(np.int64),
        orbital=None if text["orbital"] is None else str(text["orbital"]),
        magnetic_order=stated_order(text["magnetic_order"]),
        fmax=None if forces is None else float(np.linalg.norm(forces, axis=1).max()),
    )
    check_frame(frame, where)
    return frame


def _read_foreign(
    path: Path,
    energy_reference: str | None,
    formula_units: int | None,
    stress_unit: StressUnit | None,
) -> list[Frame]:
    if not path.is_file():
        raise UserError(f"{path} does not exist; check the path to the frames")
    frames = []
    own = True
    for index, (atoms, places) in enumerate(_images(path)):
        frames.append(
            make_frame(
                atoms,
                places,
                f"{path} frame {index}",
                default_id=f"{path.stem}-{index:06d}",
                source=path.stem,
                energy_reference=energy_reference,
                formula_units=formula_units,
            )
        )
        own = own and (frames[-1].stress is None or _find("stress_converged", places) is not None)
    _orient_charges(frames, path)
    _convert_stress(frames, path, stress_unit, quiet=own)
    return frames


def bader_signs(frames: Sequence[Frame]) -> tuple[np.ndarray, np.ndarray]:
    """Sign ``[frames]`` that makes cations positive, and the mean charge of Na in e (nan without).

    Bader charge of Na in these oxides: 0.86 to 0.88 e; a frame without Na is judged by its oxygen,
    which is always negative. The sign is 0 where Na is far from +-0.87 e: no Bader charges. It is 1
    where nothing can be told.
    """
    signs, sodium = np.ones(len(frames)), np.full(len(frames), np.nan)
    known = [index for index, frame in enumerate(frames) if frame.charges is not None]
    if not known:
        return signs, sodium
    sizes = [len(frames[index]) for index in known]
    owner = np.repeat(known, sizes)
    numbers = np.concatenate([frames[index].numbers for index in known])
    charges = np.concatenate([np.asarray(frames[index].charges) for index in known])
    means = []
    for z in (_NA, _O):
        chosen = numbers == z
        count = np.bincount(owner[chosen], minlength=len(frames))
        total = np.bincount(owner[chosen], charges[chosen], minlength=len(frames))
        means.append(np.divide(total, count, out=np.full(len(frames), np.nan), where=count > 0))
    sodium, oxygen = means
    oxide, with_na = np.isfinite(oxygen), np.isfinite(oxygen) & np.isfinite(sodium)
    signs[oxide] = -np.sign(oxygen[oxide])
    signs[with_na] = np.sign(sodium[with_na])
    size = np.abs(sodium[with_na])
    signs[with_na] *= (_NA_BADER[0] <= size) & (size <= _NA_BADER[1])
    # All zeros on oxygen: nothing to turn.
    signs[oxide & ~with_na & (signs == 0)] = 1
    return signs, sodium


def _orient_charges(frames: Sequence[Frame], path: Path) -> None:
    """Turn the sign of charges that have cations negative, in place; UserError for other charges."""
    signs, sodium = bader_signs(frames)
    for index in np.flatnonzero(signs == 0).tolist():
        raise UserError(
            f"{path} frame {index}: charges of Na average {sodium[index]:+.2f} e, Bader charges give "
            "+0.87; give net charges with cations positive, or leave the column out"
        )
    turned = np.flatnonzero(signs < 0).tolist()
    for index in turned:
        frames[index].charges = -np.asarray(frames[index].charges)
    if len(turned):
        _log.warning(
            "%s: cations were negative in %d frames; sign of their charges turned", path, len(turned)
        )


def _convert_stress(frames: Sequence[Frame], path: Path, unit: StressUnit | None, *, quiet: bool) -> None:
    """Bring stress to eV/A^3 in place; without a stated unit its magnitude decides.

    ``quiet``: the file looks like our own export, whose unit needs no mention.
    """
    known = [frame for frame in frames if frame.stress is not None]
    if not known:
        return
    largest = max(float(np.abs(frame.stress).max()) for frame in known)  # type: ignore[arg-type]
    if unit is None:
        if largest >= STRESS_LIMIT:
            raise UserError(
                f"{path}: stress up to {largest:.3g} cannot be eV/A^3; convert the file with "
                "`python -m workflow_lib convert --stress-unit GPa` (or kbar; tension positive)"
            )
        if not quiet:
            _log.warning("%s: stress (largest component %.3g) is taken to be eV/A^3", path, largest)
        unit = "eV/A^3"
    for frame in known:
        frame.stress = np.asarray(frame.stress) * STRESS_TO_EV[unit]


def _write_db(frames: Sequence[Frame], path: Path) -> None:
    """ASE db: labels in each row's data under their ``REF_`` names, and as results for ASE users."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.db import connect

    with atomic_path(path) as temporary:
        temporary.unlink()
        with connect(temporary, type="db", use_lock_file=False) as database:
            for frame in frames:
                atoms = frame_to_atoms(frame)
                data = dict(atoms.info)
                for name in ("REF_forces", "REF_magmom", "REF_charge", "oxidation_states"):
                    if name in atoms.arrays:
                        data[name] = atoms.arrays.pop(name)
                atoms.info.clear()
                results = {"energy": frame.energy, "forces": frame.forces, "magmoms": frame.magmoms}
                atoms.calc = SinglePointCalculator(
                    atoms, **{name: value for name, value in results.items() if value is not None}
                )
                database.write(atoms, data=data)
