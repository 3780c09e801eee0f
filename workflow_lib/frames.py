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

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workflow_lib.errors import UserError
from workflow_lib.io import atomic_path

if TYPE_CHECKING:
    import pyarrow as pa
    from ase import Atoms

LAST_ELEMENT = 118
SMALLEST_VOLUME = 1e-3
"""A^3; below it three vectors make no cell."""
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
_REQUIRED = tuple(f.name for f in fields(Frame) if f.default is MISSING)


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
    if not n or frame.numbers.min() < 1 or frame.numbers.max() > LAST_ELEMENT:
        raise UserError(f"{where}: numbers must be atomic numbers from 1 to {LAST_ELEMENT}, one per atom")
    for name in ("positions", *PER_ATOM):
        value = getattr(frame, name)
        if value is not None and len(value) != n:
            raise UserError(f"{where}: {name} has {len(value)} rows for {n} atoms; give one per atom")
    for name in ("energy", "positions", "cell", "forces", "stress", "magmoms", "charges"):
        value = getattr(frame, name)
        if value is not None and not np.isfinite(value).all():
            raise UserError(
                f"{where}: {name} holds values that are not finite; remove the frame or leave the label out"
            )
    if abs(np.linalg.det(frame.cell)) < SMALLEST_VOLUME:
        raise UserError(f"{where}: the cell has no volume; give three lattice vectors in A")


def frames_to_table(frames: Sequence[Frame]) -> pa.Table:
    """The frames as an Arrow table with the columns and types of the frame table."""
    import pyarrow as pa

    columns = []
    for field in _schema():
        values = [getattr(frame, field.name) for frame in frames]
        if pa.types.is_list(field.type):
            missing = np.array([value is None for value in values], dtype=bool)
            flat = [np.ravel(value) for value in values if value is not None]
            lengths = [0 if value is None else np.size(value) for value in values]
            offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)
            content = np.concatenate(flat) if flat else np.array([], dtype=float)
            columns.append(
                pa.ListArray.from_arrays(
                    pa.array(offsets),
                    pa.array(content).cast(field.type.value_type),
                    type=field.type,
                    mask=pa.array(missing),
                )
            )
        else:
            columns.append(pa.array(values, type=field.type))
    return pa.Table.from_arrays(columns, schema=_schema())


def write_parquet(frames: Sequence[Frame], path: str | Path) -> None:
    """Write frames as Parquet, atomically."""
    import pyarrow.parquet as pq

    with atomic_path(path) as temporary:
        pq.write_table(frames_to_table(frames), temporary, compression="zstd")


class FrameWriter:
    """Appends to a frame table of any length, one row group a call; see :func:`frame_writer`."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self.count = 0

    def write(self, frames: Sequence[Frame]) -> None:
        """Append frames."""
        if frames:
            self.write_table(frames_to_table(frames))

    def write_table(self, table: pa.Table) -> None:
        """Append rows that have the frame table's columns and types already."""
        if table.num_rows:
            self._writer.write_table(table)
            self.count += table.num_rows


@contextmanager
def frame_writer(path: str | Path) -> Iterator[FrameWriter]:
    """Open a frame table to write it bit by bit; it appears under its name if the block succeeds.

    Raises UserError where the folder cannot be written.
    """
    import pyarrow.parquet as pq

    schema = _schema()
    # Measured numbers hardly repeat: a dictionary of them costs time and saves nothing.
    texts = [field.name for field in schema if field.type == "string"]
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", use_dictionary=texts) as writer,
    ):
        yield FrameWriter(writer)


def iter_parquet(path: str | Path, batch: int = 1000) -> Iterator[list[Frame]]:
    """Read a frame table in lists of at most ``batch`` frames; UserError as in :func:`read_parquet`."""
    import pyarrow as pa

    first = 0
    with _open_parquet(path) as file:
        try:
            for records in file.iter_batches(batch, use_threads=False):
                yield _table_to_frames(pa.Table.from_batches([records]), path, first)
                first += records.num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise _damaged(path, error) from error


def read_parquet(path: str | Path) -> list[Frame]:
    """Read a frame table; UserError for a missing, damaged or foreign file."""
    import pyarrow as pa

    with _open_parquet(path) as file:
        try:
            table = file.read()
        except (pa.ArrowInvalid, OSError) as error:
            raise _damaged(path, error) from error
    return _table_to_frames(table, path, 0)


def _damaged(path: str | Path, error: Exception) -> UserError:
    return UserError(f"{path} is truncated or no Parquet file ({str(error).splitlines()[0]})")


def _open_parquet(path: str | Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; check the path to the frame table")
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(path, error) from error


def _table_to_frames(table: pa.Table, path: str | Path, first: int) -> list[Frame]:
    """Checked frames; ``first`` is the row of the first one in its file."""
    import pyarrow as pa

    names = [field.name for field in fields(Frame)]
    if missing := sorted(set(names) - set(table.column_names)):
        raise UserError(f"{path} is no frame table: it lacks {', '.join(missing)}")
    try:
        table = table.select(names).cast(_schema())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: a column has the wrong type ({reason}); see docs/data.md") from error
    columns = {name: _column(table.column(name).combine_chunks(), name, str(path), first) for name in names}
    frames = []
    for row in range(table.num_rows):
        frame = Frame(**{name: columns[name][row] for name in names})
        check_frame(frame, f"{path} row {first + row}")
        frames.append(frame)
    return frames


def _column(column: pa.Array, name: str, path: str, first: int) -> list:
    """One column as Python values, arrays in their own shape; None where empty."""
    import pyarrow as pa

    empty = column.is_null().to_numpy(zero_copy_only=False)
    if name in _REQUIRED and empty.any():
        raise UserError(f"{path} row {first + int(empty.argmax())}: {name} is empty; every frame needs it")
    if not pa.types.is_list(column.type):
        return column.to_pylist()
    if name in _INTEGER and column.values.null_count:
        raise UserError(f"{path}: {name} has empty entries; give one whole number per atom")
    # Copied, so that a frame neither is read-only nor keeps the whole table in memory.
    flat = column.values.to_numpy(zero_copy_only=False).astype(np.int64 if name in _INTEGER else float)
    offsets = column.offsets.to_numpy()
    shape = _SHAPES.get(name, (-1,))
    values: list[np.ndarray | None] = []
    for row, (start, stop) in enumerate(pairwise(offsets)):
        value = flat[start:stop]
        try:
            values.append(None if empty[row] else value.reshape(shape).copy())
        except ValueError as error:
            raise UserError(
                f"{path} row {first + row}: {name} has {value.size} numbers, which make no array of shape "
                f"{str(shape).replace('-1', 'n')}"
            ) from error
    return values


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
