"""Read MPtrj, the trajectories of the Materials Project that CHGNet was trained on, as frames.

The published file (figshare item 23713842, ``MPtrj_2022.9_full.json``, 11.35 GB) is one JSON object:
material id -> frame id (``task-calculation-step``) -> ``structure`` (pymatgen), energies in eV with
and without the corrections of MP2020, ``force`` in eV/A, ``stress`` in kbar with VASP's sign, and
``magmom`` in muB or null. It is read as a stream, one material at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workflow_lib.core.elements import atomic_number
from workflow_lib.core.errors import UserError
from workflow_lib.frames.frame import RELAXATION, Frame, check_frame
from workflow_lib.frames.labels import STRESS_TO_EV, composition, count_formula_units, per_atom, reason_of
from workflow_lib.frames.reading.common import Batches, Damaged, Defaults

LEVEL = "VASP/PBE+U/MP2020 corrected"
"""The corrections make energies with and without U comparable, which the raw ones are not."""
ENERGY_TOLERANCE = 1e-4
"""eV per atom by which the two statements of a frame's energy may differ; they are printed to more."""
BATCH = 200  # frames


def read_mptrj(path: Path, defaults: Defaults) -> Batches:
    """Yield frames and damaged ones, in order, with the bytes read so far.

    The energy is the corrected one, which CHGNet was trained on. Raises UserError where the file stops
    being JSON (all materials before that are yielded), OSError if it cannot be read.
    """
    import ijson

    index = 0
    batch: list[Frame | Damaged] = []
    with path.open("rb") as handle:
        try:
            for material, entries in ijson.kvitems(handle, "", use_float=True):
                for frame_id, entry in _entries(material, entries):
                    batch.append(_frame(index, material, frame_id, entry, defaults))
                    index += 1
                if len(batch) >= BATCH:
                    yield batch, handle.tell()
                    batch = []
        except (ijson.JSONError, UnicodeDecodeError, RecursionError) as error:
            yield batch, handle.tell()
            raise UserError(
                f"{path} is no JSON behind byte {handle.tell()} at most ({reason_of(error)}); what comes "
                "before is read. Get the file again"
            ) from error
        yield batch, handle.tell()


def _entries(material: str, entries: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(entries, Mapping):
        yield from entries.items()
    else:
        yield material, None


def _frame(index: int, material: str, frame_id: str, entry: Any, defaults: Defaults) -> Frame | Damaged:
    try:
        return _read(material, frame_id, entry, defaults)
    except (UserError, KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        missing = isinstance(error, KeyError)
        reason = f"there is no {error}" if missing else reason_of(error)
        return Damaged(index, None, f"{material}, {frame_id}: {reason}")


def _read(material: str, frame_id: str, entry: Any, defaults: Defaults) -> Frame:
    if not isinstance(entry, Mapping):
        raise UserError("the entry is no frame (structure, energy, force, ...)")
    numbers, positions, cell = _structure(entry["structure"])
    n, where = len(numbers), "the frame"
    energy = float(entry["corrected_total_energy"])
    if abs(energy / n - float(entry["energy_per_atom"])) > ENERGY_TOLERANCE:
        raise UserError(
            f"corrected_total_energy / {n} atoms is {energy / n:.6f} eV, energy_per_atom says "
            f"{float(entry['energy_per_atom']):.6f}"
        )
    stress = entry.get("stress")
    if stress is not None:
        # VASP counts pressure as positive, the table tension.
        stress = -np.array(stress, dtype=float).reshape(3, 3) * STRESS_TO_EV["kbar"]
    forces = per_atom(entry.get("force"), n, "forces", where, width=3)
    frame = Frame(
        frame_id=frame_id,
        group=material or composition(numbers),
        path=frame_id.rpartition("-")[0] or None,
        kind=RELAXATION,
        source=defaults.name,
        numbers=numbers,
        positions=positions,
        cell=cell,
        formula_units=defaults.formula_units or count_formula_units(numbers),
        energy=energy,
        energy_reference=defaults.energy_reference or LEVEL,
        forces=None if forces is None else forces.reshape(n, 3),
        stress=stress,
        magmoms=per_atom(entry.get("magmom"), n, "magmoms", where),
        fmax=None if forces is None else float(np.linalg.norm(forces.reshape(n, 3), axis=1).max()),
    )
    check_frame(frame, where)
    return frame


def _structure(structure: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return numbers ``[n]``, positions ``[n, 3]`` and cell ``[3, 3]`` (A) of pymatgen's dictionary."""
    cell = np.array(structure["lattice"]["matrix"], dtype=float).reshape(3, 3)
    numbers, scaled = [], []
    for number, site in enumerate(structure["sites"]):
        species = site["species"]
        if len(species) != 1 or float(species[0]["occu"]) != 1.0:
            raise UserError(f"site {number} is partially occupied")
        numbers.append(atomic_number(species[0]["element"]))
        scaled.append(site["abc"])
    return np.array(numbers), np.array(scaled, dtype=float).reshape(-1, 3) @ cell, cell
