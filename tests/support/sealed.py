"""Tables of a run written by hand, with all columns of their schema and the seal of their command."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from workflow_lib.core.io import write_csv
from workflow_lib.results_reading import seal
from workflow_lib.results_schema import TABLES


def write_sealed(name: str, folder: Path, table: pd.DataFrame, source: str | None = None) -> Path:
    """Write a table to ``folder``, columns that it lacks empty, and seal it; returns the file."""
    schema = TABLES[name]
    missing = [column for column in schema.columns if column not in table]
    path = folder / Path(schema.file).name
    write_csv(table.assign(**dict.fromkeys(missing)), path)
    seal(folder, schema.command, source=source or (folder.name if schema.per_model else None))
    return path
