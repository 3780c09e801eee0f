"""Merge parts of a frame table by streaming: duplicates removed, stress in one unit, ids unique."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workflow_lib.frames.frame import TESTING
from workflow_lib.frames.labels import STRESS_LIMIT
from workflow_lib.frames.reading.duplicates import Entry, Found, find_duplicates
from workflow_lib.frames.reading.part import ATOMS, LABELS, ROWS, Part
from workflow_lib.frames.table import frame_writer

if TYPE_CHECKING:
    import pyarrow as pa


class Merged:
    """The result of a merge; ``repeats`` maps the row (over all parts) of a duplicate to the original row.

    ``twins``: frames that are kept although another has their geometry (see ``duplicates.Found``);
    ``labels``: frames that have each label, as they are written.
    """

    def __init__(self, found: Found) -> None:
        self.repeats, self.twins = found
        self.frames = self.renamed = self.stress_refused = 0
        self.labels: Counter[str] = Counter()
        self.about: dict[int, dict[str, Any]] = {}


def _tables(path: Path) -> Iterator[pa.Table]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, use_threads=False)


class _Loader:
    """Loads the compared properties of rows, counted over all parts."""

    _LISTS = ("numbers", "positions", "cell", "magmoms", "oxidation_states")
    _SCALARS = ("energy", "magnetic_order")

    def __init__(self, parts: Sequence[Part]) -> None:
        import pyarrow.parquet as pq

        self._places: list[tuple[Path, int, int, int]] = []
        row = 0
        for part in parts:
            metadata = pq.read_metadata(part.frames)
            for group in range(metadata.num_row_groups):
                count = metadata.row_group(group).num_rows
                self._places.append((part.frames, group, row, row + count))
                row += count

    def __call__(self, rows: np.ndarray) -> dict[int, Entry]:
        import pyarrow.parquet as pq

        found: dict[int, Entry] = {}
        for path, group, first, after in self._places:
            low, high = np.searchsorted(rows, [first, after])
            if low == high:
                continue
            with pq.ParquetFile(path) as file:
                columns = list(dict.fromkeys([*self._LISTS, *self._SCALARS, *LABELS]))
                table = file.read_row_group(group, columns=columns, use_threads=False)
            table = table.take(rows[low:high] - first)
            labels = sum(table.column(name).is_valid().to_numpy().astype(np.int64) for name in LABELS)
            flat = {name: _flat(table, name) for name in self._LISTS}
            energies, orders = (table.column(name).to_pylist() for name in self._SCALARS)
            for place, row in enumerate(rows[low:high].tolist()):
                one = {
                    name: values[offsets[place] : offsets[place + 1]]
                    for name, (values, offsets) in flat.items()
                }
                found[row] = Entry(
                    one["numbers"],
                    one["positions"].reshape(-1, 3),
                    one["cell"].reshape(3, 3),
                    energies[place],
                    one["magmoms"] if len(one["magmoms"]) else None,
                    one["oxidation_states"] if len(one["oxidation_states"]) else None,
                    orders[place],
                    int(labels[place]),
                )
        return found


def _flat(table: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    column = table.column(name).combine_chunks()
    return column.values.to_numpy(zero_copy_only=False), column.offsets.to_numpy()


def merge(parts: Sequence[Part], factors: Sequence[float | None], out: Path) -> Merged:
    """Write one frame table of all parts without duplicates; raise UserError or OSError if that fails.

    ``factors`` convert the stress of each part to eV/A^3, where it is not in eV/A^3 already; None makes
    it null, and so is any stress above 160 GPa. A repeated ``frame_id`` gets ``~2``, ``~3``... A frame
    that is kept in the place of one for testing is for testing.
    """
    import pyarrow as pa

    known: list[dict[str, np.ndarray]] = []
    for part in parts:
        with np.load(part.prints) as arrays:
            known.append({name: arrays[name] for name in ("keys", "prints", "sizes", "in_ev")})
    keys, prints, sizes, in_ev = (
        np.concatenate([one[name] for one in known]) for name in ("keys", "prints", "sizes", "in_ev")
    )
    testing = np.repeat([part.testing for part in parts], [len(one["keys"]) for one in known])
    del known
    merged = Merged(find_duplicates(keys, prints, sizes, _Loader(parts)))
    del keys, prints
    promoted = {first for row, first in merged.repeats.items() if testing[row] and not testing[first]}
    listed = set(merged.repeats) | set(merged.repeats.values())
    row = 0
    seen: set[str] = set()
    with frame_writer(out) as writer:
        waiting: list[pa.Table] = []
        rows = atoms = 0
        for part, factor in zip(parts, factors, strict=True):
            for table in _tables(part.frames):
                _note(table, row, part, listed, merged)
                table = _for_testing(table, row, promoted)  # noqa: PLW2901
                keep = np.array([row + place not in merged.repeats for place in range(table.num_rows)])
                inside, known_unit = (one[row : row + table.num_rows][keep] for one in (sizes, in_ev))
                row += table.num_rows
                if not keep.all():
                    table = table.filter(pa.array(keep))  # noqa: PLW2901
                table = _renamed(_scaled(table, factor, known_unit, merged), seen, merged)  # noqa: PLW2901
                merged.labels += _labels(table)
                waiting.append(table)
                rows += table.num_rows
                atoms += int(inside.sum())
                if rows >= ROWS or atoms >= ATOMS:
                    writer.write_table(pa.concat_tables(waiting).combine_chunks())
                    waiting, rows, atoms = [], 0, 0
        if waiting:
            writer.write_table(pa.concat_tables(waiting).combine_chunks())
        merged.frames = writer.count
    return merged


def _labels(table: pa.Table) -> Counter[str]:
    """Count the rows that have each label, and those whose stress is converged."""
    import pyarrow.compute as pc

    counts = Counter({name: table.num_rows - table.column(name).null_count for name in ("energy", *LABELS)})
    converged = pc.and_(pc.is_valid(table.column("stress")), table.column("stress_converged"))
    counts["stress_converged"] = pc.sum(converged).as_py() or 0
    return counts


def _note(table: pa.Table, first: int, part: Part, listed: set[int], merged: Merged) -> None:
    """Record id, energy and file of the rows in the list of duplicates."""
    wanted = [place for place in range(table.num_rows) if first + place in listed]
    if not wanted:
        return
    ids, energies = (table.column(name).to_pylist() for name in ("frame_id", "energy"))
    for place in wanted:
        merged.about[first + place] = {
            "frame_id": ids[place],
            "energy_ev": energies[place],
            "file": str(part.source.path),
        }


def _for_testing(table: pa.Table, first: int, promoted: set[int]) -> pa.Table:
    """Return the rows with another kind where they are ``promoted``."""
    import pyarrow as pa

    chosen = [first + place in promoted for place in range(table.num_rows)]
    if not any(chosen):
        return table
    kinds = table.column("kind").to_pylist()
    new = [TESTING if mine else kind for kind, mine in zip(kinds, chosen, strict=True)]
    return table.set_column(table.column_names.index("kind"), "kind", pa.array(new))


def _scaled(table: pa.Table, factor: float | None, in_ev: np.ndarray, merged: Merged) -> pa.Table:
    """Convert stress to eV/A^3 in the rows that are not ``in_ev`` [rows]; null where it is impossible."""
    import pyarrow as pa

    column = table.column("stress").combine_chunks()
    values, offsets = _flat(table, "stress")
    if not len(values) or (factor is None and column.null_count == len(column)):
        return table
    factors = np.where(in_ev, 1.0, np.nan if factor is None else factor)
    missing = column.is_null().to_numpy(zero_copy_only=False)
    owner = np.repeat(np.arange(len(column)), np.diff(offsets))
    values = values[offsets[0] : offsets[-1]] * factors[owner]
    largest = np.zeros(len(column))
    np.maximum.at(largest, owner, np.abs(values))
    # NaN, from an unknown unit, is rejected too.
    refused = ~missing & ~(largest < STRESS_LIMIT)
    if (factors == 1).all() and not refused.any():
        return table
    merged.stress_refused += int(refused.sum())
    kept = ~refused[owner]
    lengths = np.where(refused, 0, np.diff(offsets))
    new = pa.ListArray.from_arrays(
        pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)),
        pa.array(values[kept]),
        type=column.type,
        mask=pa.array(missing | refused),
    )
    return table.set_column(table.column_names.index("stress"), "stress", new)


def _renamed(table: pa.Table, seen: set[str], merged: Merged) -> pa.Table:
    """Make ids unique within the merged table."""
    import pyarrow as pa

    ids = table.column("frame_id").to_pylist()
    new = []
    for name in ids:
        unique, number = name, 1
        while unique in seen:
            number += 1
            unique = f"{name}~{number}"
        seen.add(unique)
        new.append(unique)
    if new == ids:
        return table
    merged.renamed += sum(a != b for a, b in zip(new, ids, strict=True))
    return table.set_column(table.column_names.index("frame_id"), "frame_id", pa.array(new))
