"""The truth at the level that stands: positions and cell of all states, other orbitals, sodium, spins."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from campaigns.naxfepo4_gpaw.level_parts import CHOSEN, TOLERANCE
from campaigns.naxfepo4_gpaw.states import POOR, RICH, again, bcc_metal, lower_seeds, relaxed_states
from campaigns.naxfepo4_gpaw.truth import GRID, NOISE
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.engines.gpaw.installed import require_gpaw
from workflow_lib.dft.engines.gpaw.start import even_grid
from workflow_lib.dft.store import Record, Store
from workflow_lib.dft.symmetry import symmetrised

FIRST = (POOR, RICH, "1x1x1:Na1001:Fe2323", "1x1x1:Na1110:Fe2223", "1x1x1:Na1000:Fe2333")
"""Both ends and the lowest state at each composition of the earlier level; the others by their energy."""

SODIUM_LATTICES = (4.15, 4.2, 4.25)  # A
SODIUM_MESHES = (12, 16, 20)


def truth_cells(store: Store) -> Iterator[Calculation]:
    """All 16 states, positions to 0.05 eV/A and cells to 0.2 GPa, from where the earlier level left off."""
    relaxed = relaxed_states(store)

    def rank(key: str) -> tuple[int, float]:
        place = FIRST.index(key) if key in FIRST else len(FIRST)
        return place, relaxed[key].frames[-1]["energy"]

    for key in sorted(relaxed, key=rank):
        start = symmetrised(again(relaxed[key]), TOLERANCE)
        yield again(
            relaxed[key],
            name=f"truth {key}",
            kind="relaxation",
            task="cell",
            level=CHOSEN,
            cell=start.cell.tolist(),
            positions=start.positions.tolist(),
            max_steps=40,
            provenance={"start": relaxed[key].calculation.digest, "density": _single(store, key)},
        )


def _single(store: Store, key: str) -> str | None:
    """The single point of a state at the chosen level, whose density a relaxation may start from."""
    for record in store.records():
        calculation = record.calculation
        if calculation.kind == "level" and calculation.group == key and calculation.level == CHOSEN:
            return calculation.digest
    return None


def relaxed_cells(store: Store) -> dict[str, Record]:
    """The lowest relaxed cell of each state at the chosen level."""
    return relaxed_states(store, CHOSEN)


def cell_orbitals(store: Store) -> Iterator[Calculation]:
    """Single points of the other orbital seeds in each relaxed cell; ``c`` is the same as ``cc``."""
    for key, record in sorted(relaxed_cells(store).items()):
        for orbital in "abc":
            name = f"orbital {orbital} {key}"
            other = again(record, name=name, kind="orbital", orbital=orbital, charges=False)
            if other.seeds() != record.calculation.seeds():
                yield other


def cell_grids(store: Store) -> Iterator[Calculation]:
    """Single points, on the density grid of their cell, of the relaxed cells that ended on another.

    Earlier relaxations kept the grid of their first cell and do not state it. UserError without GPAW.
    """
    require_gpaw()
    for key, record in sorted(relaxed_cells(store).items()):
        last = record.frames[-1]
        used = last.get("grid") or even_grid(record.calculation.cell, CHOSEN.cutoff)
        if tuple(used) != even_grid(np.array(last["cell"]), CHOSEN.cutoff):
            yield again(record, name=f"grid {key}", kind=GRID, charges=False)


def cell_lower(store: Store) -> Iterator[Calculation]:
    """Relaxations of the states for which the single point of another seed came out lower."""
    for ground, single in lower_seeds(store, relaxed_cells(store), CHOSEN):
        yield again(
            ground,
            name=f"lower {single.orbital} {single.group}",
            kind="relaxation",
            task="cell",
            orbital=single.orbital,
            max_steps=40,
            provenance={"start": ground.calculation.digest, "density": single.digest},
        )


def cell_noise(store: Store) -> Iterator[Calculation]:
    """The lowest state of each composition once more from a cold start: what an energy is worth.

    Not those of :func:`cell_grids`: that is the same calculation, and the store has one answer to it.
    """
    relaxed = relaxed_cells(store)
    for key in FIRST:
        if key not in relaxed:
            continue
        wanted = again(relaxed[key], name=f"noise {key}", kind=NOISE, charges=False, provenance={})
        if store.get(wanted).calculation.kind == NOISE:
            yield wanted


def cell_magnetism(store: Store) -> Iterator[Calculation]:
    """Antiferromagnetic single points of both ends and of the lowest state at each composition."""
    relaxed = relaxed_cells(store)
    lowest: dict[int, str] = {}
    for key, record in relaxed.items():
        sodium = int((record.calculation.numbers == 11).sum())
        best = lowest.get(sodium)
        if best is None or record.frames[-1]["energy"] < relaxed[best].frames[-1]["energy"]:
            lowest[sodium] = key
    level = CHOSEN.model_copy(update={"magnetism": "antiferromagnetic"})
    for _, key in sorted(lowest.items()):
        yield again(
            relaxed[key],
            name=f"antiferromagnetic {key}",
            kind="magnetism",
            level=level,
            charges=False,
            provenance={},
        )


def cell_sodium(_store: Store) -> Iterator[Calculation]:
    """Bcc sodium at the cut-off of the level: lattice constant, and meshes at the middle one."""
    wanted = [(lattice, 16) for lattice in SODIUM_LATTICES]
    wanted += [(SODIUM_LATTICES[1], mesh) for mesh in SODIUM_MESHES if mesh != 16]
    for lattice, mesh in wanted:
        yield bcc_metal("Na", lattice, mesh, CHOSEN)
