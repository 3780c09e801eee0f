"""Read frames from any supported file: ASE databases, frame tables, and formats with their own reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_lib.core.compressed import check_expansion
from workflow_lib.core.errors import UserError
from workflow_lib.frames.labels import reason_of
from workflow_lib.frames.reading.common import Batches, Damaged, Defaults, one_frame
from workflow_lib.frames.reading.db_units import Units
from workflow_lib.frames.reading.inputs import Input
from workflow_lib.frames.reading.mptrj import read_mptrj
from workflow_lib.frames.reading.vasp_frames import read_outcar, read_vasprun
from workflow_lib.frames.reading.xyz import read_xyz
from workflow_lib.frames.table import iter_parquet
from workflow_lib.lattice.sanity import LIMITS

if TYPE_CHECKING:
    from ase import Atoms

BATCH = 200  # frames


def read_db(path: Path, defaults: Defaults) -> Batches:
    """Read rows of an ASE database (sqlite; LMDB if ase-db-backends is installed), also SchNetPack's.

    Units are those of ASE unless the metadata of the database state others (see ``db_units``).
    Raises UserError for a file that is no database, or one whose backend is missing.
    """
    from ase.db import connect

    try:
        database = connect(path, type="aselmdb" if path.suffix == ".lmdb" else "extract_from_name")
        # Only ids; rows are read one by one, so that a damaged one does not end the reading.
        ids = [row.id for row in database.select(columns=["id"], include_data=False)]
        metadata = database.metadata
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
    units = Units(metadata if isinstance(metadata, dict) else {}, path)

    def load(row_id: int) -> tuple[Atoms, Sequence[Mapping[str, Any]]]:
        row = database.get(id=row_id)
        atoms = row.toatoms()
        if units.length != 1.0:
            atoms.set_cell(atoms.cell * units.length, scale_atoms=True)
        results = atoms.calc.results if atoms.calc is not None else {}
        return atoms, [units.turned({**row.key_value_pairs, **row.data}), atoms.arrays, results]

    for start in range(0, len(ids), BATCH):
        batch = [
            one_frame(defaults, index, lambda row_id=ids[index]: load(row_id), converted=units.names)  # type: ignore[misc]
            for index in range(start, min(start + BATCH, len(ids)))
        ]
        yield batch, size * (start + len(batch)) // len(ids)


def _no_database(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is truncated or no ASE database ({reason_of(error)}); get it again")


def read_table(path: Path, defaults: Defaults) -> Batches:
    """Read frames of a frame table as they are; raises UserError as ``frames.read_parquet`` does.

    Stress that is too large is left to what joins all inputs, which counts and omits it.
    """
    size, count = path.stat().st_size, 0
    for frames in iter_parquet(path, most_stress=LIMITS["stress"]):
        count += len(frames)
        yield list(frames), size if frames else 0


READERS: dict[str, Callable[[Path, Defaults], Batches]] = {
    "xyz": read_xyz,
    "db": read_db,
    "vasprun": read_vasprun,
    "outcar": read_outcar,
    "table": read_table,
    "mptrj": read_mptrj,
}


def read_input(source: Input, defaults: Defaults) -> Batches:
    """Yield frames of any supported file and its damaged ones, in order, with the bytes read so far.

    If the rest of a file cannot be read, the reason is the last item. Raises OSError.
    """
    index = 0
    try:
        check_expansion(source.path)
        for batch, done in READERS[source.kind](source.path, defaults):
            index += len(batch)
            yield batch, done
    except UserError as error:
        yield [Damaged(index, None, str(error))], source.path.stat().st_size
