"""ASE databases, VASP outputs and frame tables as frames, streaming where the format allows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workflow_lib.core.errors import UserError
from workflow_lib.frames.foreign import make_frame
from workflow_lib.frames.reading.inputs import Input
from workflow_lib.frames.reading.scan import Damaged
from workflow_lib.frames.reading.xyz import Defaults, read_xyz
from workflow_lib.frames.table import RELAXATION, SINGLE, Frame, iter_parquet

if TYPE_CHECKING:
    from ase import Atoms

Batches = Iterator[tuple[list[Frame | Damaged], int]]
BATCH = 200  # frames


def _one(
    defaults: Defaults,
    index: int,
    load: Callable[[], tuple[Atoms, Sequence[Any]]],
    path: str | None = None,
) -> Frame | Damaged:
    """One frame by itself, or why it cannot be used; ``path`` names its calculation."""
    try:
        atoms, places = load()
        return make_frame(
            atoms,
            places,
            "the frame",
            default_id=f"{defaults.name}-{index:06d}",
            source=defaults.name,
            path=path,
            energy_reference=defaults.energy_reference,
            formula_units=defaults.formula_units,
        )
    # Damaged rows raise anything: struct, json, key, index and value errors.
    except Exception as error:
        return Damaged(index, None, next(iter(str(error).splitlines()), type(error).__name__))


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
            _one(defaults, index, lambda row_id=ids[index]: load(row_id))  # type: ignore[misc]
            for index in range(start, min(start + BATCH, len(ids)))
        ]
        yield batch, size * (start + len(batch)) // len(ids)


def _no_database(path: Path, error: Exception) -> UserError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return UserError(f"{path} is truncated or no ASE database ({reason}); get it again")


def read_vasprun(path: Path, defaults: Defaults) -> Batches:
    """Ionic steps of a vasprun.xml; moments (OUTCAR) and charges (ACF.dat) belong to the last one.

    Energies are those for zero width, stress is in eV/A^3 with tension positive. A step that is not
    self-consistent is set aside. Raises UserError for a file that is cut short or damaged.
    """
    from ase import Atoms

    from workflow_lib.frames.reading.vasp import bader_charges, energy, output, read_outcar, stress
    from workflow_lib.frames.reading.vasp import read_vasprun as parse

    vasprun = parse(path)
    limit = int(vasprun.parameters["NELM"])
    steps = vasprun.ionic_steps
    last: dict[str, Any] = {}
    text, acf = output(path.parent, "OUTCAR"), output(path.parent, "ACF.dat")
    frames: list[Frame | Damaged] = []
    for index, step in enumerate(steps):
        structure = step["structure"]
        numbers = np.array([site.specie.Z for site in structure])
        if len(step["electronic_steps"]) >= limit:
            frames.append(Damaged(index, None, f"not self-consistent after {limit} iterations"))
            continue
        if index == len(steps) - 1 and text is not None:
            outcar = read_outcar(text)
            if len(outcar.magnetization) == len(numbers):
                last["magmoms"] = np.array([site["tot"] for site in outcar.magnetization], dtype=float)
            if acf is not None:
                valences = [outcar.zval_dict[site.specie.symbol] for site in structure]
                last["charges"] = bader_charges(acf, numbers, np.array(valences))
        labels = {
            "energy": energy(step),
            "forces": np.asarray(step["forces"], dtype=float),
            "stress": stress(step),
            "kind": RELAXATION if len(steps) > 1 else SINGLE,
            **last,
        }
        atoms = Atoms(numbers, positions=structure.cart_coords, cell=structure.lattice.matrix, pbc=True)
        frames.append(_one(defaults, index, lambda a=atoms, p=labels: (a, [p])))  # type: ignore[misc]
    yield frames, path.stat().st_size


def read_outcar(path: Path, defaults: Defaults) -> Batches:
    """Ionic steps of an OUTCAR without vasprun.xml; UserError for a file that is cut short or damaged."""
    import ase.io

    try:
        images = list(ase.io.iread(path, index=":", format="vasp-out"))
    # ASE's reader raises anything on a file that it does not expect.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path} is cut short or damaged ({reason}); run VASP again") from error
    frames = [
        _one(defaults, index, lambda a=atoms: (a, [a.calc.results]))  # type: ignore[misc]
        for index, atoms in enumerate(images)
    ]
    yield frames, path.stat().st_size


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
