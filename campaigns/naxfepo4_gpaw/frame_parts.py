"""Frames to learn from at the level that stands, stress included: strained, displaced, off the paths."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from campaigns.naxfepo4_gpaw.cell_parts import FIRST, relaxed_cells
from campaigns.naxfepo4_gpaw.level_parts import CHOSEN
from campaigns.naxfepo4_gpaw.states import ROOT, again, relaxed_states, seeded
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.store import Record, Store
from workflow_lib.dft.symmetry import Operations, operations
from workflow_lib.frames.frame import Frame
from workflow_lib.frames.table import read_parquet

VOLUMES = (0.0, -0.025, -0.04, 0.03, 0.06)
"""Of strained cells against the relaxed one; shears of 1 % come with each."""
DISPLACEMENTS = (0.0, 0.02, 0.03, 0.04)  # A, taken in turn
PATH_FRAMES = 4
OTHERS = "relaxation "
"""How the names of the relaxations of the other cathodes begin at the earlier level."""
EARLIER_FRAMES = ROOT / "tests" / "samples" / "frames.parquet"
"""Those of the first level."""


def strained_series(
    record: Record, rng: np.random.Generator, name: str, kept: Operations | None = None
) -> Calculation:
    """Strained and displaced copies of a record's last geometry, each warm from the one before.

    ``kept``: operations that strains and displacements keep; none, if left out.
    """
    cell = np.array(record.frames[-1]["cell"])
    scaled = np.linalg.solve(cell.T, np.array(record.frames[-1]["positions"]).T).T
    cells, series = [], []
    for number, volume in enumerate(VOLUMES):
        shear = rng.normal(0, 0.01, (3, 3))
        shear = (shear + shear.T) / 2
        if kept is not None:
            shear = kept.of_tensor(shear, cell)
        deformation = np.eye(3) + shear - np.trace(shear) / 3 * np.eye(3)
        deformation *= ((1 + volume) / np.linalg.det(deformation)) ** (1 / 3)
        sigma = DISPLACEMENTS[number % len(DISPLACEMENTS)]
        cells.append(cell @ deformation)
        shifts = sigma * np.array(rng.normal(0, 1, scaled.shape))
        if kept is not None:
            shifts = kept.of_vectors(shifts, cells[-1])
        series.append(scaled @ cells[-1] + shifts)
    return again(
        record,
        name=name,
        kind="rattle",
        task="series",
        level=CHOSEN,
        cell=cells[0].tolist(),
        positions=series[0].tolist(),
        series=np.array(series).tolist(),
        series_cells=np.array(cells).tolist(),
    )


def cell_strains(store: Store) -> Iterator[Calculation]:
    """Of every relaxed state some cells from -4 to +6 % in volume, sheared, atoms displaced."""
    for key, record in sorted(relaxed_cells(store).items(), key=_spread):
        yield strained_series(record, seeded("cell strains", key), f"strained {key}")


def cell_symmetric(store: Store) -> Iterator[Calculation]:
    """Strained and displaced frames that keep a state's symmetry; half the cost where it joins k-points."""
    for key, record in sorted(relaxed_cells(store).items(), key=_spread):
        yield from symmetric_series(record, seeded("cell symmetric", key), f"symmetric {key}")


def symmetric_series(record: Record, rng: np.random.Generator, name: str) -> Iterator[Calculation]:
    """The strained series of a record that keeps its operations; none for a state without any."""
    kept = operations(again(record)).on_mesh(CHOSEN)
    if len(kept) > 1:
        yield strained_series(record, rng, name, kept)


def cell_paths(store: Store) -> Iterator[Calculation]:
    """Geometries of the earlier level that lie furthest from rest, each in its cell, nearest first.

    Beginnings of relaxations, displaced atoms, dynamics: four of each state, thinned by their largest
    force. Only those in the charge order and orbital of the relaxed state.
    """
    relaxed = relaxed_cells(store)
    earlier = relaxed_states(store)
    by_state: dict[str, list[Frame]] = {}
    for frame in read_parquet(EARLIER_FRAMES):
        for key, record in earlier.items():
            calculation = record.calculation
            if len(frame) != len(calculation) or (frame.numbers != calculation.numbers).any():
                continue
            if frame.magmoms is None or frame.fmax is None:
                continue
            iron = frame.numbers == 26
            states = np.where(iron, np.where(frame.magmoms < 4.0, 2, 3), 0)
            near = np.abs(frame.positions - np.array(record.frames[-1]["positions"])).max() < 0.6
            same = (states == calculation.oxidation_states).all() and frame.orbital == calculation.orbital
            if near and same:
                by_state.setdefault(key, []).append(frame)
                break
    for key, frames in sorted(by_state.items(), key=_spread):
        if key not in relaxed or relaxed[key].calculation.orbital != earlier[key].calculation.orbital:
            continue
        frames.sort(key=_fmax)
        far = [f for f in frames if _fmax(f) > 0.3] or frames
        chosen = [far[i] for i in np.linspace(0, len(far) - 1, min(PATH_FRAMES, len(far))).astype(int)]
        yield again(
            relaxed[key],
            name=f"path {key}",
            kind="path",
            task="series",
            cell=chosen[0].cell.tolist(),
            positions=chosen[0].positions.tolist(),
            series=[f.positions.tolist() for f in chosen],
            series_cells=[f.cell.tolist() for f in chosen],
        )


def _spread(item: tuple[str, object]) -> tuple[int, str]:
    """Order states so that a campaign that is stopped early has some of every composition."""
    key = item[0]
    return FIRST.index(key) if key in FIRST else len(FIRST), key


def _fmax(frame: Frame) -> float:
    assert frame.fmax is not None
    return frame.fmax


def cell_others(store: Store) -> Iterator[Calculation]:
    """The other cathodes: cell and positions relaxed, then strained."""
    for record in list(store.records()):
        calculation = record.calculation
        if not calculation.name.startswith(OTHERS) or calculation.level == CHOSEN or not record.frames:
            continue
        wanted = again(
            record,
            name=f"cell of {calculation.group}",
            kind="relaxation",
            task="cell",
            level=CHOSEN,
            max_steps=25,
        )
        yield wanted
        done = store.get(wanted)
        if done.status == "done":
            rng = seeded("cell strains", calculation.group)
            yield strained_series(done, rng, f"strained {calculation.group}")


def cell_same_positions(store: Store) -> Iterator[Calculation]:
    """Two charge orders on identical atoms half way between their relaxed cells; for testing only."""
    relaxed = relaxed_cells(store)
    ends = {key: record.frames[-1] for key, record in relaxed.items()}
    pairs = [
        (one, other)
        for one, other in combinations(sorted(relaxed), 2)
        if one.split(":")[:2] == other.split(":")[:2]
    ]

    def rank(pair: tuple[str, str]) -> float:
        # Those about 50 meV per formula unit apart come first: well told apart, and seldom lost.
        return abs(abs(ends[pair[0]]["energy"] - ends[pair[1]]["energy"]) - 0.2)

    for pair in sorted(pairs, key=rank):
        for key, against in (pair, pair[::-1]):
            series: list[list] = []
            cells: list[list] = []
            for way in (0.25, 0.5):
                for name, into in (("positions", series), ("cell", cells)):
                    one, other = (np.array(ends[which][name]) for which in (key, against))
                    into.append(((1 - way) * one + way * other).tolist())
            yield again(
                relaxed[key],
                name=f"same positions {key} half way to {against.rsplit(':', 1)[1]}",
                kind="same-positions",
                task="series",
                cell=cells[0],
                positions=series[0],
                series=series,
                series_cells=cells,
            )
