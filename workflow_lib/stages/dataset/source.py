"""The frames that a dataset is made of, one batch at a time, from any file format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

    A frame table is streamed. Files of other formats are read once as a whole, and so are frames in
    memory.
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


def in_memory(frames: Sequence[Frame], energy_reference: str) -> Source:
    """Return frames that are in memory already as a source."""
    return Source("frames in memory", frames_to_table(frames), energy_reference)


def open_source(settings: DatasetSettings) -> Source:
    """Open the configured file at the configured level of theory.

    Frames of a file that states no level get the one of the configuration, which the user states.
    Raises UserError for mixed or other levels, and as ``foreign.read_frames`` does.
    """
    path = settings.path
    table = None if Path(path).suffix == ".parquet" else frames_to_table(read_frames(path))
    source = Source(path, table, settings.energy_reference)
    if not source.count:
        raise UserError(f"{path} holds no frames; check that it was written to the end")
    tables = iter_tables(path, ("energy_reference",)) if table is None else [table]
    found: set[str] = set()
    for some in tables:
        # Rows without a level are rejected by their number when the frames are checked.
        found |= set(some.column("energy_reference").unique().drop_null().to_pylist())
    found = {settings.energy_reference if one == UNSTATED else one for one in found}
    if len(found) > 1:
        raise mixed_levels(found, path)
    for stated in found - {settings.energy_reference}:
        raise UserError(
            f"{path} is at the level {stated!r}, dataset.energy_reference says "
            f"{settings.energy_reference!r}; set the key to the file's level"
        )
    return source
