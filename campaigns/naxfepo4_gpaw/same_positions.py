"""Two charge orders on identical atoms: what each costs on the way to the other."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from workflow_lib.core.io import save_figure, write_csv
from workflow_lib.dft.store import Record
from workflow_lib.lattice.arrangement import StateKey
from workflow_lib.stages.charge_order.identical import KIND, SAME

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


def pairs_on_same_positions(records: Iterable[Record]) -> list[tuple[Record, Record]]:
    """Finished walks of two orders that end on identical atoms; the lower at the start comes first."""
    walks = [
        record
        for record in records
        if record.calculation.kind == KIND
        and record.status == "done"
        and record.calculation.series is not None
        and len(record.frames) == len(record.calculation.series)
    ]
    walks.sort(key=lambda record: (record.frames[0]["energy"], record.calculation.name))
    pairs = []
    for number, one in enumerate(walks):
        for other in walks[number + 1 :]:
            first, second = (np.array(record.frames[-1]["positions"]) for record in (one, other))
            if np.array_equal(one.calculation.numbers, other.calculation.numbers) and np.allclose(
                first, second, rtol=0, atol=SAME
            ):
                pairs.append((one, other))
    return pairs


def same_positions_table(pairs: Iterable[tuple[Record, Record]]) -> pd.DataFrame:
    """One row a pair of :func:`pairs_on_same_positions` (:data:`COLUMNS`), sorted by ions and orders."""
    rows = []
    for one, other in pairs:
        units = one.calculation.formula_units
        key, against = (StateKey.parse(record.calculation.group) for record in (one, other))
        energies = np.array([[r.frames[k]["energy"] for k in (0, -1)] for r in (one, other)])
        relaxed, half = (energies[1] - energies[0]) / units * 1000
        rises = (energies[:, 1] - energies[:, 0]) * 1000
        rows.append((key.ion_key, key.order, against.order, relaxed, half, *rises))
    return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values(["ions", "order", "other"])


def _way(record: Record) -> np.ndarray:
    """How far each geometry of a walk is on the way to the other order's atoms, 0 to 1/2."""
    positions = np.array([frame["positions"] for frame in record.frames])
    distance = np.linalg.norm(positions - positions[0], axis=(1, 2))
    return distance / distance[-1] / 2


def same_positions_figure(pairs: list[tuple[Record, Record]], stem: Path) -> None:
    """A panel a pair: energy of either order (eV per cell) from its relaxed atoms to the middle."""
    import matplotlib.pyplot as plt

    from workflow_lib.core.plotting import panel_shape, style

    style()
    rows, columns = panel_shape(len(pairs), MOST_COLUMNS)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.3 * columns + 0.6, 2.2 * rows + 0.4), sharex=True, squeeze=False
    )
    for axis, (one, other) in zip(axes.flat, pairs, strict=False):
        zero = one.frames[0]["energy"]
        for record, mirrored in ((one, False), (other, True)):
            way = 1 - _way(record) if mirrored else _way(record)
            energies = [frame["energy"] - zero for frame in record.frames]
            axis.plot(way, energies, "o-", label=StateKey.parse(record.calculation.group).order)
        axis.axvline(0.5, color="0.6", linewidth=0.8, linestyle=":")
        key = StateKey.parse(one.calculation.group)
        axis.set_title(f"{key.mobile}{key.ions}", fontsize=8)
        axis.set_xticks([0, 0.5, 1])
        axis.tick_params(labelbottom=True)  # the panel below may be empty
        axis.legend(fontsize=6)
    for axis in axes.flat[len(pairs) :]:
        axis.set_visible(False)
    figure.supxlabel("way from the relaxed atoms of one order to those of the other", fontsize=9)
    figure.supylabel("energy (eV per cell)", fontsize=9)
    save_figure(figure, stem)


def write_same_positions(records: Iterable[Record], out: Path) -> pd.DataFrame:
    """Write table and figure ``same_positions`` to ``out``; without pairs no figure."""
    pairs = pairs_on_same_positions(records)
    table = same_positions_table(pairs)
    write_csv(table, out / "same_positions.csv")
    if pairs:
        same_positions_figure(pairs, out / "same_positions")
    return table
