"""Two charge orders on identical atoms: what each costs on the way to the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from campaigns.naxfepo4_gpaw.truth import energies_on_own_grid
from workflow_lib.core.io import save_figure, write_csv
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.store import Record
from workflow_lib.lattice.arrangement import StateKey
from workflow_lib.stages.charge_order.identical_atoms import KIND, SAME

COLUMNS = (
    "ions",
    "order",
    "other",
    "relaxed_difference_mev_fu",
    "difference_mev_fu",
    "rise_mev",
    "other_rise_mev",
)
"""``relaxed_difference``: energy of the other order minus that of the first, each on its own relaxed
atoms, and ``difference``: on the same atoms, half way between, meV per formula unit; ``rise``: half
way above the relaxed atoms, meV per cell."""
MOST_COLUMNS = 5


@dataclass(frozen=True, slots=True)
class Walk:
    """An order carried from its relaxed atoms towards those of another: ``energies`` [k + 1] in eV.

    ``positions`` [k + 1, n, 3] and ``cells`` [k + 1, 3, 3] in A; the relaxed ones come first.
    """

    calculation: Calculation
    positions: np.ndarray
    cells: np.ndarray
    energies: np.ndarray

    @property
    def order(self) -> StateKey:
        """The order, by its arrangement."""
        return StateKey.parse(self.calculation.group)

    @property
    def way(self) -> np.ndarray:
        """How far each geometry is on the way to the other order's atoms [k + 1], 0 to 1/2."""
        scaled = np.linalg.solve(self.cells.mT, self.positions.mT).mT
        distance = np.linalg.norm(scaled - scaled[0], axis=(1, 2))
        return distance / distance[-1] / 2

    def ends_where(self, other: Walk) -> bool:
        """Whether both end on identical atoms in one cell."""
        same = np.array_equal(self.calculation.numbers, other.calculation.numbers)
        return same and all(
            np.allclose(one[-1], two[-1], rtol=0, atol=SAME)
            for one, two in ((self.positions, other.positions), (self.cells, other.cells))
        )


def pairs_on_same_positions(records: Iterable[Record]) -> list[tuple[Walk, Walk]]:
    """Finished walks of two orders that end on identical atoms; the lower one relaxed comes first.

    Energies of relaxed atoms are those on the density grid of their cell, as in the table of states.
    """
    records = list(records)
    by_digest = {record.calculation.digest: record for record in records if record.frames}
    on_own_grid = energies_on_own_grid(by_digest, records)
    walks = []
    for record in records:
        calculation = record.calculation
        relaxed = by_digest.get(calculation.provenance.get("start", ""))
        if calculation.kind == KIND and record.status == "done" and relaxed and not record.skipped:
            start = {"energy": on_own_grid[relaxed.calculation.digest]}
            frames = [relaxed.frames[-1] | start, *record.frames]
            positions, cells, energies = (
                np.array([frame[name] for frame in frames]) for name in ("positions", "cell", "energy")
            )
            walks.append(Walk(calculation, positions, cells, energies))
    walks.sort(key=lambda walk: (walk.energies[0], walk.calculation.name))
    return [pair for pair in combinations(walks, 2) if pair[0].ends_where(pair[1])]


def same_positions_table(pairs: Iterable[tuple[Walk, Walk]]) -> pd.DataFrame:
    """One row a pair of :func:`pairs_on_same_positions` (:data:`COLUMNS`), sorted by ions and orders."""
    rows = []
    for one, other in pairs:
        energies = np.array([walk.energies[[0, -1]] for walk in (one, other)])
        relaxed, half = (energies[1] - energies[0]) / one.calculation.formula_units * 1000
        rises = (energies[:, 1] - energies[:, 0]) * 1000
        rows.append((one.order.ion_key, one.order.order, other.order.order, relaxed, half, *rises))
    return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values(["ions", "order", "other"])


def same_positions_figure(pairs: list[tuple[Walk, Walk]], stem: Path) -> None:
    """A panel a pair: energy of either order (meV per formula unit) on its way to the middle."""
    import matplotlib.pyplot as plt

    from workflow_lib.core.plotting import panel_shape, style

    style()
    rows, columns = panel_shape(len(pairs), MOST_COLUMNS)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.3 * columns + 0.6, 2.2 * rows + 0.4), sharex=True, squeeze=False
    )
    for axis, (one, other) in zip(axes.flat, pairs, strict=False):
        for walk, mirrored in ((one, False), (other, True)):
            way = 1 - walk.way if mirrored else walk.way
            energy = 1000 * (walk.energies - one.energies[0]) / one.calculation.formula_units
            axis.plot(way, energy, "o-", label=walk.order.order)
        axis.axvline(0.5, color="0.6", linewidth=0.8, linestyle=":")
        axis.set_title(f"{one.order.mobile}{one.order.ions} (x = {one.order.x:g})", fontsize=8)
        axis.set_xticks([0, 0.5, 1])
        axis.tick_params(labelbottom=True)  # the panel below may be empty
        axis.legend(fontsize=6)
    for axis in axes.flat[len(pairs) :]:
        axis.set_visible(False)
    figure.supxlabel("way from the relaxed atoms of one order to those of the other", fontsize=9)
    figure.supylabel("energy above the lower order at rest\n(meV per formula unit)", fontsize=9)
    save_figure(figure, stem)


def write_same_positions(records: Iterable[Record], out: Path) -> pd.DataFrame:
    """Write table and figure ``same_positions`` to ``out``; without pairs no figure."""
    pairs = pairs_on_same_positions(records)
    table = same_positions_table(pairs)
    write_csv(table, out / "same_positions.csv")
    if pairs:
        same_positions_figure(pairs, out / "same_positions")
    return table
