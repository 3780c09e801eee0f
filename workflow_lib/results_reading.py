"""Seal the files that a command wrote, and read them only if nothing was cut, exchanged or changed.

Every command that writes results seals them at the end: a file of checksums beside them says which
bytes belong together, and to which model. Everything that reads a table or document uses this file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path, read_json, sha256, write_csv, write_json
from workflow_lib.core.validation import nearest
from workflow_lib.results_files import files_of
from workflow_lib.results_schema import MODEL, TABLES, Kind, Table

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms

STRUCTURES = "reference.extxyz"
KNOWN_STATES = "known_states.json"
"""State keys in their smallest cells, of all cells, of which the dataset has an answer of DFT."""
SEAL = ".sha256.json"


def seal_name(command: str) -> str:
    """Return the name of the file that seals a command's output; commands may share a folder."""
    return f"{command}{SEAL}"


def clear(folder: str | Path, command: str) -> None:
    """Remove what ``command`` wrote to ``folder`` before, so that its seal names nothing old.

    For commands that do not always write the same files, before they write the first of them.
    """
    for name in (*files_of(command), seal_name(command)):
        (Path(folder) / name).unlink(missing_ok=True)


def seal(folder: str | Path, command: str, *, source: str | None = None) -> None:
    """Write the checksums of the files that ``command`` wrote to ``folder``; the last step of a stage.

    ``source`` is the model that the files belong to, which is the name of the folder.
    """
    folder = Path(folder)
    files = {name: sha256(folder / name) for name in files_of(command) if (folder / name).is_file()}
    write_json(folder / seal_name(command), {"command": command, "source": source, "files": files})


def seal_elsewhere(marks: Path, files: Iterable[Path]) -> None:
    """Write the checksums of DFT answers in any folder to the seal ``marks``, by their way from there.

    A rule with this seal among its outputs runs again when one of the files is changed or gone.
    """
    place = marks.parent.resolve()  # a run folder may be a link
    names = {os.path.relpath(file.resolve(), place): sha256(file) for file in files}
    write_json(marks, {"command": "dft-run", "source": None, "files": names})


def sealed_files(marks: Path) -> dict[Path, str]:
    """Return the files that a seal names, with their checksums; raise UserError if it is no seal."""
    return {marks.parent / name: checksum for name, checksum in _content(marks)["files"].items()}


def _content(marks: Path) -> dict[str, Any]:
    content = read_json(marks)
    if not isinstance(content, dict) or not isinstance(content.get("files"), dict):
        raise UserError(f"{marks} is no file of checksums; {make_again(marks)}")
    return content


def make_again(path: str | Path) -> str:
    """Return the words of an error that say how the file of a run is made again."""
    run = next((folder for folder in Path(path).parents if (folder / "config.json").is_file()), None)
    options = "" if run is None else f"--configfile {run / 'config.json'} "
    return f"make it again: snakemake {options}--force {path}"


def checked(path: str | Path, command: str) -> Path:
    """Return the path of a file of results if it is complete, unchanged and in its place.

    Raises UserError, with the command that makes it again, for a file that is missing, not sealed
    by ``command``, changed since, or of another model.
    """
    path = Path(path)
    again = make_again(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; {again}")
    marks = path.with_name(seal_name(command))
    if not marks.is_file():
        raise UserError(f"{path} has no checksum ({marks.name} is missing beside it); {again}")
    content = _content(marks)
    owner = content.get("source")
    if owner is not None and owner != path.parent.name:
        raise UserError(f"{path} belongs to {owner}, not to {path.parent.name}; {again}")
    if content["files"].get(path.name) != sha256(path):
        raise UserError(f"{path} was changed or cut since `{command}` wrote it; {again}")
    return path


def write_table(
    name: str, table: pd.DataFrame, folder: str | Path, *, owner: Mapping[str, Any] | None = None
) -> None:
    """Write a table of :data:`results_schema.TABLES` to its folder, the columns of its model first.

    ``owner``: those columns (``Origin.columns``) where all rows belong to one model, so that the table
    need not have them.
    """
    schema = table_of(name)
    table = table.assign(**owner or {})
    first = [column for column in MODEL if column in schema.columns]
    order = [*first, *(column for column in table if column not in first)]
    table = table[order] if len(table) else table.reindex(columns=order)  # a run may have no models
    whole = [column for column in ("fold", "seed") if column in first]
    table = table.astype(dict.fromkeys(whole, "Int64"))
    path = Path(folder) / Path(schema.file).name
    if path.suffix == ".parquet":
        few = [column for column in first if column not in whole]  # the same in every row: stored once
        with atomic_path(path) as temporary:
            frame = table.astype(dict.fromkeys(few, "category"))
            frame.to_parquet(temporary, index=False, compression="zstd")
    else:
        write_csv(table, path)


def read_table(name: str, folder: str | Path) -> pd.DataFrame:
    """Read a table of :data:`results_schema.TABLES` from its folder.

    The frame has the types of the schema. Raises UserError as :func:`checked` does, and if a column is
    missing or has wrong values.
    """
    import pandas as pd

    table = table_of(name)
    path = Path(folder) / Path(table.file).name
    if table.sealed:
        checked(path, table.command)
    text = {column: str for column, kind in table.columns.items() if kind == "text"}
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=text)
        missing = [column for column in table.columns if column not in frame]
        if missing:
            raise UserError(f"{path} lacks the columns {', '.join(missing)}; {make_again(path)}")
        for column, kind in table.columns.items():
            frame[column] = _typed(frame[column], kind)
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"{path} is no table `{name}` ({error}); make it again") from error
    return frame


def stress_converged(states: pd.DataFrame) -> bool:
    """Return whether the stress of all states of the DFT reference is converged."""
    return bool(states["stress_converged"].all())


def table_of(name: str) -> Table:
    """Return the schema of a table; raise UserError naming the nearest one if there is none."""
    if name not in TABLES:
        raise UserError(f"no table of a run is called {name!r}{nearest(name, TABLES)}")
    return TABLES[name]


def _typed(values: pd.Series, kind: Kind) -> pd.Series:
    """Return the values of a column in the type of its kind; integers and flags may be missing in a row."""
    if kind == "text":
        return values
    if kind == "number":
        return values.astype("float64")
    whole = values.astype("Int64" if kind == "count" else "boolean")
    return whole if whole.isna().any() else whole.astype("int64" if kind == "count" else "bool")


def read_document(
    path: str | Path, command: str, keys: tuple[str, ...] = (), *, sealed: bool = True
) -> dict[str, Any]:
    """Read a JSON file of results; raise UserError as :func:`checked`, or if one of ``keys`` is missing.

    ``sealed`` is false for timings, which have no checksum.
    """
    content = read_json(checked(path, command) if sealed else path)
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; {make_again(path)}")
    return content


def read_reference(folder: str | Path) -> tuple[pd.DataFrame, list[Atoms]]:
    """Read the DFT reference and, row by row, its structures; raise UserError if they do not match."""
    from ase.io import iread

    folder = Path(folder)
    table = read_table("charge_order/reference", folder)
    path = checked(folder / STRUCTURES, TABLES["charge_order/reference"].command)
    try:
        structures = list(iread(path, index=":", format="extxyz"))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}); {make_again(path)}") from error
    if [atoms.info.get("state_key") for atoms in structures] != table["state_key"].tolist():
        raise UserError(f"{folder}: table and {STRUCTURES} list different states; make them again")
    return table, structures
