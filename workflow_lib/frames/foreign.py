"""Read and write frame files of any format, by suffix; one bad frame rejects the whole file.

Pitfalls handled here, besides those of ``labels``:

- The sign of Bader charges differs between sources (ACF - ZVAL has cations negative): Na in an
  oxide must come out near +0.87 e, otherwise the signs of the frame are reversed.
- Stress is sometimes said to be in GPa although the numbers are eV/A^3: the unit follows from the
  magnitude, or from the caller. Stress from a virial, or whose unit the file states, is neither judged
  nor converted.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path
from workflow_lib.frames.frame import Frame, frame_to_atoms
from workflow_lib.frames.labels import STRESS_LIMIT, STRESS_TO_EV, UNSTATED, StressInEv, StressUnit
from workflow_lib.frames.reading.common import Damaged, Defaults
from workflow_lib.frames.reading.others import READERS
from workflow_lib.frames.reading.understand import bader_signs, not_applied, unsure_signs
from workflow_lib.frames.suffixes import DATABASE, TABLE, XYZ, require_frames, unknown_suffix
from workflow_lib.frames.table import read_parquet, write_parquet

LARGE_STRESS = 0.06
"""eV/A^3, 10 GPa: more than most cells of a data set are under, and little for a number in kbar."""
_log = logging.getLogger(__name__)


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
    require_frames(path)
    if path.suffix == TABLE:
        if formula_units is not None or stress_unit is not None:
            raise UserError(
                f"{path} is a frame table, which has formula units and stress in eV/A^3; give neither, or "
                "read the original file again"
            )
        frames = read_parquet(path)
    else:
        frames = _read_foreign(path, energy_reference, formula_units, stress_unit)
    if not frames:
        raise UserError(f"{path} holds no frames; check that it was written to the end")
    for index, frame in enumerate(frames):
        if energy_reference is not None and frame.energy_reference == UNSTATED:
            frame.energy_reference = energy_reference
        if energy_reference is not None and frame.energy_reference != energy_reference:
            raise UserError(
                f"{path}: frame {index} is at the level {frame.energy_reference}, not "
                f"{energy_reference}; energies of different levels must not be mixed"
            )
    return frames


def write_frames(frames: Sequence[Frame], path: str | Path) -> None:
    """Write frames as Parquet, extended XYZ or ASE db, by suffix; UserError for another suffix.

    Extended XYZ keeps 8 decimals of per-atom values; the other two keep all.
    """
    path = Path(path)
    if path.suffix == TABLE:
        write_parquet(frames, path)
    elif path.suffix in XYZ:
        import ase.io

        with atomic_path(path) as temporary:
            ase.io.write(temporary, [frame_to_atoms(frame) for frame in frames], format="extxyz")
    elif path.suffix == DATABASE:
        _write_db(frames, path)
    else:
        raise unknown_suffix(path)


def _read_foreign(
    path: Path,
    energy_reference: str | None,
    formula_units: int | None,
    stress_unit: StressUnit | None,
) -> list[Frame]:
    """Return all frames of a file; raise UserError for the first one that cannot be used."""
    defaults = Defaults(path.stem, energy_reference, formula_units)
    frames: list[Frame] = []
    try:
        for batch, _ in READERS["db" if path.suffix == DATABASE else "xyz"](path, defaults):
            for item in batch:
                if isinstance(item, Damaged):
                    raise UserError(_refused(path, item))
                frames.append(item)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; check the file") from error
    for line in defaults.notes:
        _log.warning("%s: %s", path, line)
    _orient_charges(frames, path)
    # Files exported by this program name their frames; their unit needs no mention.
    own = all(frame.frame_id != f"{path.stem}-{index:06d}" for index, frame in enumerate(frames))
    _convert_stress(frames, path, stress_unit, quiet=own)
    return frames


def _refused(path: Path, item: Damaged) -> str:
    """Say which frame of a file cannot be used, and why."""
    reason = item.reason
    reason = reason.removeprefix("the frame") if reason.startswith("the frame") else f": {reason}"
    line = "" if item.line is None or "line " in reason else f" (line {item.line})"
    hint = "correct it, or use `read`, which sets such frames aside"
    return f"{path} frame {item.number}{reason}{line}; {hint}"


def _orient_charges(frames: Sequence[Frame], path: Path) -> None:
    """Reverse the sign of charges that have cations negative, in place; UserError for other charges."""
    signs = bader_signs(frames)
    for index in np.flatnonzero(signs.sign == 0).tolist():
        found = (
            f"charges of Na average {signs.sodium[index]:+.2f} e, Bader charges give +0.87"
            if signs.net[index]
            else f"charges sum to {signs.total[index]:+.2f} e, those of a cell to zero"
        )
        raise UserError(
            f"{path} frame {index}: {found}; give net charges, cations positive, or leave the column out"
        )
    if signs.unsure.any():
        _log.warning("%s: %s", path, unsure_signs(int(signs.unsure.sum())))
    turned = np.flatnonzero(signs.sign < 0).tolist()
    for index in turned:
        frames[index].charges = -np.asarray(frames[index].charges)
    if len(turned):
        _log.warning(
            "%s: cations were negative in %d frames; sign of their charges turned", path, len(turned)
        )


def _convert_stress(frames: Sequence[Frame], path: Path, unit: StressUnit | None, *, quiet: bool) -> None:
    """Convert stress of another unit to eV/A^3 in place; without a given unit its magnitude decides.

    ``quiet``: the file looks like our own export, whose unit needs no mention unless it is doubtful.
    """
    with_stress = [frame for frame in frames if frame.stress is not None]
    in_ev = [frame for frame in with_stress if isinstance(frame, StressInEv)]
    if (largest := _largest(in_ev)) >= STRESS_LIMIT:
        raise UserError(
            f"{path}: stress up to {largest:.3g} eV/A^3, from virials or in the unit that the file states, "
            "cannot be; correct it, or use `read`, which leaves such stress out"
        )
    if told := not_applied(unit, len(in_ev)):
        _log.warning("%s: %s", path, told)
    others = [frame for frame in with_stress if not isinstance(frame, StressInEv)]
    if not others:
        return
    largest = _largest(others)
    if unit is None:
        if largest >= STRESS_LIMIT:
            raise UserError(
                f"{path}: stress up to {largest:.3g} cannot be eV/A^3; convert the file with "
                "`python -m workflow_lib convert --stress-unit GPa` (or kbar; tension positive)"
            )
        doubt = "; another unit is possible: say --stress-unit if you know it"
        doubt = doubt if largest > LARGE_STRESS else ""
        if doubt or not quiet:
            _log.warning(
                "%s: stress (largest component %.3g) is taken to be eV/A^3%s", path, largest, doubt
            )
        unit = "eV/A^3"
    for frame in others:
        frame.stress = np.asarray(frame.stress) * STRESS_TO_EV[unit]


def _largest(frames: Sequence[Frame]) -> float:
    """Return the largest component of the frames' stress, in its own unit; 0 without any."""
    return max((float(np.abs(f.stress).max()) for f in frames if f.stress is not None), default=0.0)


def _write_db(frames: Sequence[Frame], path: Path) -> None:
    """Write an ASE db: labels in each row's data under ``REF_`` names, and as results for ASE users."""
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
