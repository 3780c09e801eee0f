"""Tables of a run written by hand, with all columns of their schema and the seal of their command."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from workflow_lib.core.errors import UserError
from workflow_lib.models.identity import ModelId
from workflow_lib.results_reading import seal, write_table
from workflow_lib.results_schema import MODEL, TABLES


def owner_of(name: str) -> dict[str, object]:
    """The columns of a model by its id, its family named as the model; empty for any other name."""
    try:
        known = ModelId.parse(name)
    except UserError:
        return {}
    own = {"id": name, "model": known.name, "family": known.name, "variant": known.variant}
    return own | {"fold": known.fold, "seed": known.seed}


def without_id(path: Path) -> bytes:
    """The content of a file without the id that its rows begin with, which is the name of its folder."""
    if path.suffix == ".parquet":
        return pd.read_parquet(path).drop(columns="id").to_csv().encode()
    return path.read_bytes().replace(f"\n{path.parent.name},".encode(), b"\n,")


def write_sealed(name: str, folder: Path, table: pd.DataFrame, source: str | None = None) -> Path:
    """Write a table to ``folder``, columns that it lacks empty, and seal it; returns the file.

    Where the folder is named by a model, its rows are this model's.
    """
    schema = TABLES[name]
    if MODEL.items() <= schema.columns.items():
        table = table.assign(**owner_of(folder.name))
    missing = [column for column in schema.columns if column not in table]
    path = folder / Path(schema.file).name
    write_table(name, table.assign(**dict.fromkeys(missing)), folder)
    seal(folder, schema.command, source=source or (folder.name if schema.per_model else None))
    return path
