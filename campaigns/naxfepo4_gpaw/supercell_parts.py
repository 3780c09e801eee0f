"""Larger cells at the level that stands: single points where a model relaxed them, with their ends."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from campaigns.naxfepo4_gpaw.cell_parts import relaxed_cells
from campaigns.naxfepo4_gpaw.diagonal import END, NAME, REPEAT, SAME_LATTICE
from campaigns.naxfepo4_gpaw.states import DATA, POOR, RICH, again
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.jobs import read_jobs
from workflow_lib.dft.store import Store
from workflow_lib.lattice.arrangement import StateKey

JOBS = DATA / "supercells.jsonl"
"""Written by ``supercell_starts``: which arrangements, and what model relaxed their positions and cells."""


def cell_supercells(store: Store) -> Iterator[Calculation]:
    """The arrangements of :data:`JOBS`, each after both ends on the mesh that folds onto its."""
    relaxed = relaxed_cells(store)
    named: set[str] = set()
    for job in read_jobs(JOBS):
        diagonal = job.group == NAME
        folded = job.level.in_unit_cell(REPEAT if diagonal else StateKey.parse(job.group).repeat)
        for key in (POOR, RICH):
            mesh = "x".join(map(str, folded.kpoints))
            name = f"{END} {key}" if diagonal else f"end on {mesh} {key}"
            if key not in relaxed or name in named:
                continue
            named.add(name)
            cell = np.array(relaxed[key].frames[-1]["cell"])
            yield again(
                relaxed[key],
                name=name,
                kind="supercell-end",
                level=folded,
                cell=(SAME_LATTICE @ cell if diagonal else cell).tolist(),
                charges=False,
            )
        yield job
