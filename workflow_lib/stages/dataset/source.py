"""The frames that a dataset is made of, one batch at a time, from any file format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workflow_lib.core.errors import UserError
from workflow_lib.frames.foreign import read_frames
from workflow_lib.frames.frame import Frame, mixed_levels
from workflow_lib.frames.labels import UNSTATED
from workflow_lib.frames.table import FrameBatch, count_rows, frames_to_table, iter_tables
from workflow_lib.stages.dataset.settings import DatasetSettings

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 1000
"""Frames in memory at a time; 1000 of 308 atoms take 30 MB."""


class Source:
    """Frames of one level of theory, read as often as needed.

    A frame table is streamed. Files of other formats are read once as a whole.
    """

    def __init__(self, path: str, table: pa.Table | None, energy_reference: str) -> None:
        self.path, self.energy_reference = path, energy_reference
        self._table = table
        self.count = count_rows(path) if table is None else table.num_rows

    def batches(self) -> Iterator[FrameBatch]:
        """Yield all frames in order, not checked; see ``FrameBatch.check``."""
        first = 0
        for table in iter_tables(self.path, batch=BATCH) if self._table is None else _slices(self._table):
            yield FrameBatch(table, self.path, first)
            first += table.num_rows

    def frames(self, rows: np.ndarray) -> list[Frame]:
        """Return the frames of these rows (ascending); skip the others."""
        import pyarrow as pa

        chosen: list[Frame] = []
        for batch in self.batches():
            low, high = np.searchsorted(rows, [batch.first, batch.first + len(batch)])
            if low < high:
                few = batch.table.take(pa.array(rows[low:high] - batch.first))
                chosen += FrameBatch(few, self.path).frames()
        return chosen


def _slices(table: pa.Table) -> Iterator[pa.Table]:
    for first in range(0, table.num_rows, BATCH):
        yield table.slice(first, BATCH)


def open_source(settings: DatasetSettings) -> Source:
    """Open the configured file at the configured level of theory.

    Frames of a file that states no level get the one of the configuration, which the user states.
    Raises UserError for mixed or other levels, also where some frames state a level and others none, and
    as ``foreign.read_frames`` does.
    """
    path = settings.path
    table = None if Path(path).suffix == ".parquet" else frames_to_table(read_frames(path))
    source = Source(path, table, settings.energy_reference)
    if not source.count:
        raise UserError(f"{path} holds no frames; check that it was written to the end")
    tables = iter_tables(path, ("energy_reference",)) if table is None else [table]
    counts: Counter[str] = Counter()
    for some in tables:
        # Rows without a level are rejected by their number when the frames are checked.
        levels = some.column("energy_reference").drop_null().value_counts()
        counts.update({one["values"].as_py(): one["counts"].as_py() for one in levels})
    found = set(counts)
    if UNSTATED in found and len(found) == 2:
        (level,) = found - {UNSTATED}
        raise UserError(
            f"{path}: {counts[UNSTATED]} of {source.count} frames state no level of theory, the others "
            f"{level!r}; take them out or, if they are of this level too, say so: workflow-lib read --in "
            f"{path} --out DIR --energy-reference {level!r}"
        )
    found = {settings.energy_reference if one == UNSTATED else one for one in found}
    if len(found) > 1:
        raise mixed_levels(found, path)
    for stated in found - {settings.energy_reference}:
        raise UserError(
            f"{path} is at the level {stated!r}, dataset.energy_reference says "
            f"{settings.energy_reference!r}; set the key to the file's level"
        )
    return source
