"""Any file that can be read as frames: ASE databases, frame tables, and what has a reader of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_lib.core.errors import UserError
from workflow_lib.frames.reading.common import Batches, Damaged, Defaults, one_frame, reason_of
from workflow_lib.frames.reading.inputs import Input
from workflow_lib.frames.reading.vasp_frames import read_outcar, read_vasprun
from workflow_lib.frames.reading.xyz import read_xyz
from workflow_lib.frames.table import iter_parquet

if TYPE_CHECKING:
    from ase import Atoms

BATCH = 200  # frames


def read_db(path: Path, defaults: Defaults) -> Batches:
    """Rows of an ASE database (sqlite; LMDB where ase-db-backends is installed).

    Raises UserError for a file that is no database, or one whose backend is missing.
    """
    from ase.db import connect

    try:
        database = connect(path, type="aselmdb" if path.suffix == ".lmdb" else "extract_from_name")
        # Ids alone; rows are read one by one, so that a damaged one does not end the reading.
        ids = [row.id for row in database.select(columns=["id"], include_data=False)]
    except (ImportError, AttributeError, KeyError, ValueError) as error:
        if path.suffix == ".db":
            raise _no_database(path, error) from error
        raise UserError(
            f"{path}: LMDB databases of ASE need the package ase-db-backends, which is not installed; "
            "pip install it, or export the file with `ase db` to .db"
        ) from error
    except Exception as error:  # sqlite3 and struct errors
        raise _no_database(path, error) from error
    size = path.stat().st_size

    def load(row_id: int) -> tuple[Atoms, Sequence[Mapping[str, Any]]]:
        row = database.get(id=row_id)
        atoms = row.toatoms()
        results = atoms.calc.results if atoms.calc is not None else {}
        return atoms, [{**row.key_value_pairs, **row.data}, atoms.arrays, results]

    for start in range(0, len(ids), BATCH):
        batch = [
            one_frame(defaults, index, lambda row_id=ids[index]: load(row_id))  # type: ignore[misc]
            for index in range(start, min(start + BATCH, len(ids)))
        ]
        yield batch, size * (start + len(batch)) // len(ids)


def _no_database(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is truncated or no ASE database ({reason_of(error)}); get it again")


def read_table(path: Path, defaults: Defaults) -> Batches:
    """Frames of a frame table, as they are; UserError as in ``frames.read_parquet``."""
    size, count = path.stat().st_size, 0
    for frames in iter_parquet(path):
        count += len(frames)
        yield list(frames), size if frames else 0


READERS: dict[str, Callable[[Path, Defaults], Batches]] = {
    "xyz": read_xyz,
    "db": read_db,
    "vasprun": read_vasprun,
    "outcar": read_outcar,
    "table": read_table,
}


def read_input(source: Input, defaults: Defaults) -> Batches:
    """Frames of any file that can be read and its damaged ones, in order; with the bytes read so far.

    What makes the rest of a file unreadable comes as its last item. Raises OSError.
    """
    index = 0
    try:
        for batch, done in READERS[source.kind](source.path, defaults):
            index += len(batch)
            yield batch, done
    except UserError as error:
        yield [Damaged(index, None, str(error))], source.path.stat().st_size
