"""The frame table: one row a DFT frame, the only form in which data travel between stages.

Columns (missing labels are null, never zero): ``frame_id``, ``group`` (one material or one
charge-ordered state), ``state_key`` (canonical arrangement, see ``host.py``), ``kind``
(relaxation, rattle, ...), ``source``, ``numbers`` [n], ``positions`` [n, 3] A, ``cell`` [3, 3] A
(rows are vectors), ``formula_units``, ``energy`` eV, ``forces`` [n, 3] eV/A, ``stress`` [3, 3]
eV/A^3 (tension positive) with ``stress_converged``, ``magmoms`` [n] muB, ``charges`` [n] e
(cations positive), ``oxidation_states`` [n] (formal; 0 where the site takes no part in redox),
``orbital``, ``fmax`` eV/A, ``energy_reference`` (code/functional/cut-off/k-mesh). All cells are
periodic in three directions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workflow_lib.errors import UserError
from workflow_lib.io import atomic_path

if TYPE_CHECKING:
    import pyarrow as pa
    from ase import Atoms

PER_ATOM = ("forces", "magmoms", "charges", "oxidation_states")
"""Optional columns with one entry an atom."""


@dataclass(slots=True, kw_only=True)
class Frame:
    """One row of the frame table; see the module for units."""

    frame_id: str
    group: str
    kind: str
    source: str
    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    formula_units: int
    energy: float
    energy_reference: str
    state_key: str | None = None
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    stress_converged: bool = False
    magmoms: np.ndarray | None = None
    charges: np.ndarray | None = None
    oxidation_states: np.ndarray | None = None
    orbital: str | None = None
    fmax: float | None = None

    def __len__(self) -> int:
        return len(self.numbers)


_SHAPES: dict[str, tuple[int, ...]] = {
    "positions": (-1, 3),
    "cell": (3, 3),
    "forces": (-1, 3),
    "stress": (3, 3),
}
_INTEGER = ("numbers", "oxidation_states")


def _schema() -> pa.Schema:
    import pyarrow as pa

    def column(name: str) -> pa.DataType:
        if name in _INTEGER:
            return pa.list_(pa.int16())
        if name in (*_SHAPES, "magmoms", "charges"):
            return pa.list_(pa.float64())
        if name in ("energy", "fmax"):
            return pa.float64()
        return {"formula_units": pa.int32(), "stress_converged": pa.bool_()}.get(name, pa.string())

    return pa.schema([(field.name, column(field.name)) for field in fields(Frame)])


def check_frame(frame: Frame, where: str) -> None:
    """Raise UserError for wrong-length arrays, values that are not finite, or a cell without volume.

    ``where`` names the file and row for the message.
    """
    n = len(frame.numbers)
    for name in ("positions", *PER_ATOM):
        value = getattr(frame, name)
        if value is not None and len(value) != n:
            raise UserError(f"{where}: {name} has {len(value)} rows for {n} atoms; give one per atom")
    for name in ("energy", "positions", "cell", "forces", "stress", "magmoms", "charges"):
        value = getattr(frame, name)
        if value is not None and not np.all(np.isfinite(value)):
            raise UserError(
                f"{where}: {name} holds values that are not finite; remove the frame or leave the label out"
            )
    if abs(np.linalg.det(frame.cell)) < 1e-3:
        raise UserError(f"{where}: the cell has no volume; give three lattice vectors in A")


def write_parquet(frames: Sequence[Frame], path: str | Path) -> None:
    """Write frames as Parquet, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def plain(value: Any) -> Any:
        return value.ravel().tolist() if isinstance(value, np.ndarray) else value

    rows = [{f.name: plain(getattr(frame, f.name)) for f in fields(Frame)} for frame in frames]
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), temporary, compression="zstd")


def read_parquet(path: str | Path) -> list[Frame]:
    """Read a frame table; UserError for a missing, damaged or foreign file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; check the path to the frame table")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is truncated or no Parquet file ({reason})") from error
    missing = {field.name for field in fields(Frame)} - set(table.column_names)
    if missing:
        raise UserError(f"{path} is no frame table: it lacks {', '.join(sorted(missing))}")
    frames = []
    for row, values in enumerate(table.to_pylist()):
        where = f"{path} row {row}"
        arrays: dict[str, Any] = {}
        for field in fields(Frame):
            value = values[field.name]
            if isinstance(value, list):
                value = np.array(value, dtype=np.int64 if field.name in _INTEGER else float)
                shape = _SHAPES.get(field.name)
                try:
                    value = value if shape is None else value.reshape(shape)
                except ValueError as error:
                    raise UserError(
                        f"{where}: {field.name} has {value.size} numbers, not a multiple of "
                        f"{abs(shape[-1])}"  # type: ignore[index]
                    ) from error
            arrays[field.name] = value
        frame = Frame(**arrays)
        check_frame(frame, where)
        frames.append(frame)
    return frames


def frame_to_atoms(frame: Frame) -> Atoms:
    """The frame as ASE atoms.

    ``oxidation_states`` becomes an array of that name; other labels become ``REF_energy``,
    ``REF_forces``, ``REF_stress``, ``REF_magmom`` and ``REF_charge``, names which ASE's readers
    leave alone.
    """
    from ase import Atoms

    atoms = Atoms(frame.numbers, positions=frame.positions, cell=frame.cell, pbc=True)
    atoms.info["REF_energy"] = frame.energy
    for name in ("frame_id", "group", "state_key", "kind", "source", "formula_units"):
        if getattr(frame, name) is not None:
            atoms.info[name] = getattr(frame, name)
    for name in ("energy_reference", "orbital", "fmax"):
        if getattr(frame, name) is not None:
            atoms.info[name] = getattr(frame, name)
    if frame.stress is not None:
        atoms.info["REF_stress"] = frame.stress
        atoms.info["stress_converged"] = frame.stress_converged
    for name, key in (
        ("forces", "REF_forces"),
        ("magmoms", "REF_magmom"),
        ("charges", "REF_charge"),
    ):
        if getattr(frame, name) is not None:
            atoms.arrays[key] = np.array(getattr(frame, name))
    if frame.oxidation_states is not None:
        atoms.arrays["oxidation_states"] = np.array(frame.oxidation_states)
    return atoms


def single_reference(frames: Iterable[Frame], where: str) -> str:
    """The one energy reference of these frames; UserError where levels of theory are mixed."""
    found = sorted({frame.energy_reference for frame in frames})
    if len(found) != 1:
        raise UserError(
            f"{where} mixes {len(found)} levels of theory ({'; '.join(found)}); energies of "
            "different levels must not meet: keep one energy_reference"
        )
    return found[0]


def with_labels(frame: Frame, **changes: Any) -> Frame:
    """A copy of the frame with some columns replaced."""
    return replace(frame, **changes)
