"""Lattice parameters of relaxed cells, against those that are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from ase.units import GPa

from workflow_lib.dft.store import Record

KIND = "cell"
COLUMNS = (
    "structure",
    "source",
    "cutoff_ev",
    "kpoints",
    "status",
    "a_a",
    "b_a",
    "c_a",
    "volume_a3",
    "largest_angle_off_90",
    "largest_stress_gpa",
    "fmax",
    "steps",
)
"""``a``, ``b``, ``c`` in A; ``largest_angle_off_90`` in degrees; ``largest_stress``: largest component
of the stress left, GPa; ``fmax`` in eV/A."""

type Lengths = tuple[float, float, float]


def lattice_table(records: Iterable[Record], known: Mapping[str, Mapping[str, Lengths]]) -> pd.DataFrame:
    """One row a relaxed cell (records of kind ``cell``), followed by what is known of the structure.

    ``known``: lattice constants (A) of an orthogonal cell by structure and source. A relaxation that
    is not finished says so in ``status``; its row is of the last geometry.
    """
    mine: dict[str, list[Record]] = {}
    for record in records:
        if record.calculation.kind == KIND and record.frames:
            mine.setdefault(record.calculation.group, []).append(record)
    rows: list[dict[str, object]] = []
    for structure, members in sorted(mine.items()):
        members.sort(key=lambda record: record.calculation.level.digest)
        rows += [_row(structure, record) for record in members]
        for source, lengths in known.get(structure, {}).items():
            a, b, c = lengths
            rows.append(
                {
                    "structure": structure,
                    "source": source,
                    "a_a": a,
                    "b_a": b,
                    "c_a": c,
                    "volume_a3": a * b * c,
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(structure: str, record: Record) -> dict[str, object]:
    from ase.cell import Cell

    frame, level = record.frames[-1], record.calculation.level
    cell = Cell(frame["cell"])
    a, b, c, *angles = cell.cellpar()
    return {
        "structure": structure,
        "source": level.energy_reference,
        "cutoff_ev": level.cutoff,
        "kpoints": "x".join(map(str, level.kpoints)),
        "status": record.status,
        "a_a": a,
        "b_a": b,
        "c_a": c,
        "volume_a3": cell.volume,
        "largest_angle_off_90": np.abs(np.array(angles) - 90).max(),
        "largest_stress_gpa": np.abs(np.array(frame["stress"])).max() / GPa,
        "fmax": np.linalg.norm(frame["forces"], axis=1).max(),
        "steps": len(record.frames),
    }
