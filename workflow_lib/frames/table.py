"""The frame table as a Parquet file: one row per DFT frame, the only form in which stages exchange data.

Columns and units are those of :class:`~workflow_lib.frames.frame.Frame`; missing labels are null, never
zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path
from workflow_lib.frames.frame import Frame, check_frame
from workflow_lib.frames.labels import STRESS_LIMIT, known_kind
from workflow_lib.lattice.sanity import LAST_ELEMENT, LIMITS, SMALLEST_VOLUME, coincident

if TYPE_CHECKING:
    import pyarrow as pa

BUFFER = 1 << 20
"""Bytes of a column that are read at once, so that a file of one long row group streams too."""
STORED: Any = {"compression": "zstd", "write_page_checksum": True}
"""Incompressible numbers are stored as they are: without checksums their damage would go unnoticed."""

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


def frames_to_table(frames: Sequence[Frame]) -> pa.Table:
    """Return the frames as an Arrow table with the columns and types of the frame table."""
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
        pq.write_table(frames_to_table(frames), temporary, **STORED)


class FrameWriter:
    """Appends to a frame table of any length, one row group per call; see :func:`frame_writer`."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self.count = 0

    def write(self, frames: Sequence[Frame]) -> None:
        """Append frames."""
        if frames:
            self.write_table(frames_to_table(frames))

    def write_table(self, table: pa.Table) -> None:
        """Append rows that already have the frame table's columns and types."""
        if table.num_rows:
            self._writer.write_table(table)
            self.count += table.num_rows


@contextmanager
def frame_writer(path: str | Path) -> Iterator[FrameWriter]:
    """Open a frame table to write it in parts; it appears under its name if the block succeeds.

    Raises UserError if the folder cannot be written.
    """
    import pyarrow.parquet as pq

    schema = _schema()
    # Measured numbers hardly repeat, so a dictionary of them costs time and saves nothing.
    texts = [field.name for field in schema if field.type == "string"]
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema, use_dictionary=texts, **STORED) as writer,
    ):
        yield FrameWriter(writer)


def iter_tables(
    path: str | Path, columns: Sequence[str] | None = None, batch: int = 1000
) -> Iterator[pa.Table]:
    """Yield columns (default: all) of a frame table as they are, at most ``batch`` rows at a time.

    Raises UserError for a missing, damaged or foreign file, or one that lacks these columns.
    """
    import pyarrow as pa

    names = list(columns or (field.name for field in fields(Frame)))
    with _open_parquet(path) as file:
        if missing := sorted(set(names) - set(file.schema_arrow.names)):
            raise UserError(f"{path} is no frame table: it lacks {', '.join(missing)}")
        try:
            for records in file.iter_batches(batch, columns=names, use_threads=False):
                yield pa.Table.from_batches([records]).select(names)
        except (pa.ArrowInvalid, OSError) as error:
            raise _damaged(path, error) from error


def count_rows(path: str | Path) -> int:
    """Return the number of frames in a frame table; raise UserError for a missing or damaged file."""
    with _open_parquet(path) as file:
        return int(file.metadata.num_rows)


def iter_batches(
    path: str | Path, batch: int = 1000, *, most_stress: float = STRESS_LIMIT
) -> Iterator[FrameBatch]:
    """Read a frame table as checked flat arrays; UserError as in :func:`read_parquet`.

    Stress of ``most_stress`` (eV/A^3) and more cannot be in the unit of the frame table.
    """
    first = 0
    for table in iter_tables(path, batch=batch):
        found = FrameBatch(table, path, first)
        found.check(most_stress)
        yield found
        first += len(found)


def iter_parquet(
    path: str | Path, batch: int = 1000, *, most_stress: float = STRESS_LIMIT
) -> Iterator[list[Frame]]:
    """Read a frame table in lists of at most ``batch`` frames; UserError as in :func:`iter_batches`."""
    for found in iter_batches(path, batch, most_stress=most_stress):
        yield found.frames()


def read_parquet(path: str | Path) -> list[Frame]:
    """Read a frame table; UserError for a missing, damaged or foreign file."""
    return [frame for frames in iter_parquet(path) for frame in frames]


def _damaged(path: str | Path, error: Exception) -> UserError:
    return UserError(f"{path} is truncated or no Parquet file ({str(error).splitlines()[0]})")


def _open_parquet(path: str | Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; check the path to the frame table")
    try:
        # With pre_buffer, pyarrow's default, the bytes of the whole file stay until it is closed.
        return pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False, page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(path, error) from error


class FrameBatch:
    """Consecutive rows of a frame table as flat arrays, the atoms of all frames concatenated.

    ``table`` has the frame table's columns and types; ``path`` and ``first``, the row of the first
    frame in that file, are for messages. Kinds are those known here; a stress of which nothing is said is
    not converged. Only the types are checked before :meth:`check`.
    """

    def __init__(self, table: pa.Table, path: str | Path, first: int = 0) -> None:
        import pyarrow as pa

        schema = _schema()
        if missing := sorted(set(schema.names) - set(table.column_names)):
            raise UserError(f"{path} is no frame table: it lacks {', '.join(missing)}")
        try:
            self.table = _as_meant(table.select(schema.names).cast(schema))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: a column has the wrong type ({reason}); see docs/data.md") from error
        self.path, self.first = path, first

    def __len__(self) -> int:
        return self.table.num_rows

    @cached_property
    def sizes(self) -> np.ndarray:
        """Atoms of each frame ``[F]``."""
        return list_lengths(self.table.column("numbers"))

    @cached_property
    def offsets(self) -> np.ndarray:
        """Frame i has the atoms ``offsets[i]`` to ``offsets[i + 1]``; ``[F + 1]``."""
        return np.concatenate([[0], np.cumsum(self.sizes)])

    @cached_property
    def owner(self) -> np.ndarray:
        """The frame of each atom ``[N]``."""
        return np.repeat(np.arange(len(self)), self.sizes)

    @cached_property
    def numbers(self) -> np.ndarray:
        """Atomic numbers ``[N]``."""
        return self.flat("numbers").astype(np.int64)

    def missing(self, name: str) -> np.ndarray:
        """Return which frames ``[F]`` have no value in this column."""
        return self.table.column(name).combine_chunks().is_null().to_numpy(zero_copy_only=False)

    def values(self, name: str) -> np.ndarray:
        """Return a column of one number or flag per frame ``[F]``, in the unit of the frame table."""
        return self.table.column(name).combine_chunks().to_numpy(zero_copy_only=False)

    def flat(self, name: str) -> np.ndarray:
        """Return all numbers of a list column in the unit of the frame table, for frames that have it."""
        return self.table.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False)

    def per_atom(self, name: str, fill: float) -> np.ndarray:
        """Return one number per atom ``[N]``; ``fill`` if the frame has none."""
        missing = self.missing(name)
        if not missing.any():
            return self.flat(name)
        full = np.full(len(self.owner), fill)
        full[~missing[self.owner]] = self.flat(name)
        return full

    def check(self, most_stress: float = STRESS_LIMIT) -> None:
        """Raise UserError for the first frame that check_frame rejects, or whose stress is too large."""
        if self._sound(most_stress):
            return
        for row, frame in enumerate(self.frames()):
            where = f"{self.path} row {self.first + row}"
            check_frame(frame, where)
            largest = 0.0 if frame.stress is None else np.abs(frame.stress).max()
            if largest >= most_stress:
                raise UserError(
                    f"{where}: stress of {largest:.3g} cannot be eV/A^3, the unit of the frame table; "
                    "divide GPa by 160.2, kbar by 1602 (tension positive)"
                )

    def _sound(self, most_stress: float) -> bool:
        """Return whether :meth:`check` accepts every frame: all at once, without saying which one fails."""
        columns = {name: self.table.column(name) for name in self.table.column_names}
        if any(columns[name].null_count for name in _REQUIRED):
            return False
        if not len(self):
            return True
        expected = {"cell": np.full(len(self), 9), "stress": np.full(len(self), 9)}
        expected |= {"positions": 3 * self.sizes, "forces": 3 * self.sizes}
        for name in (*_INTEGER, *_SHAPES, "magmoms", "charges"):
            wrong = list_lengths(columns[name]) != expected.get(name, self.sizes)
            if (wrong & ~self.missing(name)).any() or columns[name].combine_chunks().flatten().null_count:
                return False
            if name not in _INTEGER and not (np.abs(self.flat(name)) <= LIMITS[name]).all():
                return False
        cells = self.flat("cell").reshape(-1, 3, 3)
        volumes = np.abs(np.linalg.det(cells))
        return bool(
            self.sizes.all()
            and (np.abs(self.flat("stress")) < most_stress).all()
            and self.numbers.min() >= 1
            and self.numbers.max() <= LAST_ELEMENT
            and volumes.min() >= SMALLEST_VOLUME
            and (np.abs(self.values("energy")) <= LIMITS["energy"] * self.sizes).all()
            and self.values("formula_units").min() >= 1
            and not coincident(self.flat("positions").reshape(-1, 3), cells, self.offsets).any()
        )

    def frames(self) -> list[Frame]:
        """Return the rows as frames, checked only for the shapes of their arrays."""
        names = [field.name for field in fields(Frame)]
        columns = {
            name: _column(self.table.column(name).combine_chunks(), name, str(self.path), self.first)
            for name in names
        }
        return [Frame(**{name: columns[name][row] for name in names}) for row in range(len(self))]


def _as_meant(table: pa.Table) -> pa.Table:
    """Return the rows with the kinds known here, and stress not converged where that is not said."""
    import pyarrow.compute as pc

    kind = table.column("kind")
    for written in kind.unique().drop_null().to_pylist():
        if (known := known_kind(written)) != written:
            kind = pc.if_else(pc.equal(kind, written), known, kind)
    converged = pc.fill_null(table.column("stress_converged"), False)
    for name, column in (("kind", kind), ("stress_converged", converged)):
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def list_lengths(column: pa.ChunkedArray) -> np.ndarray:
    """Return the length of the list in each row ``[F]``; 0 if there is none."""
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(column), 0)
    return lengths.to_numpy().astype(np.int64)


def _column(column: pa.Array, name: str, path: str, first: int) -> list:
    """Return one column as Python values, arrays in their own shape; None where empty."""
    import pyarrow as pa

    empty = column.is_null().to_numpy(zero_copy_only=False)
    if name in _REQUIRED and empty.any():
        raise UserError(f"{path} row {first + int(empty.argmax())}: {name} is empty; every frame needs it")
    if not pa.types.is_list(column.type):
        return column.to_pylist()
    if name in _INTEGER and column.values.null_count:
        raise UserError(f"{path}: {name} has empty entries; give one whole number per atom")
    # Copied, so that a frame is not read-only and does not keep the whole table in memory.
    offsets = column.offsets.to_numpy()
    mine = column.values.slice(offsets[0], offsets[-1] - offsets[0])
    flat = mine.to_numpy(zero_copy_only=False).astype(np.int64 if name in _INTEGER else float)
    offsets = offsets - offsets[0]
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
