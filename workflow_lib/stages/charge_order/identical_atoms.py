"""The frames of several charge orders on the same atoms.

A file of its own: the table is read before models train, where nothing of theirs is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workflow_lib.core.errors import UserError
from workflow_lib.frames.frame import Frame, frame_to_atoms
from workflow_lib.frames.table import iter_parquet
from workflow_lib.lattice.redox import LABELS

if TYPE_CHECKING:
    from ase import Atoms

    from workflow_lib.lattice.host import Host
    from workflow_lib.lattice.redox import RedoxRule

KIND = "same-positions"
"""``kind`` of frames on positions that another charge order has too."""
SAME = 1e-6
"""A; atoms that differ by less in every coordinate are identical: the store holds all digits."""


def read_identical(
    path: str | Path, host: Host, rule: RedoxRule, level: str
) -> tuple[pd.DataFrame, list[Atoms]]:
    """Return the charge orders that share their atoms with another one, and their structures.

    Columns: ``atoms`` (name of the shared positions: their ions, and a number if several sets of
    positions have the same ions), ``state_key``, ``ion_key``, ``frame_id``, ``formula_units``,
    ``dft_energy_ev`` (per cell). Of one order with several orbital states the lowest is taken.
    Structures carry the charge states that DFT's moments show, or that the file gives for frames without
    moments; frames that have neither are left out. Raises UserError if energies are of another level than
    ``level``, a frame fits no site of the host, or no two orders share their atoms.
    """
    unclear = 0
    shared: list[dict[tuple[int, ...], Frame]] = []
    for frame in (frame for batch in iter_parquet(path) for frame in batch if frame.kind == KIND):
        if frame.energy_reference != level:
            raise UserError(
                f"{path}: {frame.frame_id} is of {frame.energy_reference}, the run of {level}; energies of "
                "different levels must not be compared"
            )
        states = _states(frame, rule, level)
        if states is None:
            unclear += 1
            continue
        order = tuple(int(state) for state in states)
        orders = next((known for known in shared if _identical(frame, next(iter(known.values())))), None)
        if orders is None:
            shared.append(orders := {})
        if order not in orders or frame.energy < orders[order].energy:
            orders[order] = frame
    rows, structures, names = [], [], dict[str, int]()
    for orders in shared:
        if len(orders) < 2:
            continue
        name = ""
        for order, frame in orders.items():
            atoms = frame_to_atoms(frame)
            atoms.set_array(LABELS, np.array(order))
            try:
                arrangement = host.locate(atoms, atoms.arrays[LABELS])
            except UserError as error:
                raise UserError(f"{path}: {frame.frame_id}: {error}") from error
            ion_key = host.key(arrangement.without_charges())
            if not name:
                names[ion_key] = names.get(ion_key, 0) + 1
                name = ion_key + (f" ({names[ion_key]})" if names[ion_key] > 1 else "")
            rows.append(
                {
                    "atoms": name,
                    "state_key": host.key(arrangement),
                    "ion_key": ion_key,
                    "frame_id": frame.frame_id,
                    # The file's own number is counted from its atoms, which need not show the formula.
                    "formula_units": host.formula_units * arrangement.cells,
                    "dft_energy_ev": frame.energy,
                }
            )
            structures.append(atoms)
    if not rows:
        without = f"; {unclear} have no charge states" if unclear else ""
        raise UserError(
            f"{path} holds no two charge orders on identical atoms (frames of kind {KIND!r}{without}); "
            "leave charge_order.identical_atoms out, or name a table that does"
        )
    return pd.DataFrame(rows), structures


def _identical(one: Frame, other: Frame) -> bool:
    return (
        np.array_equal(one.numbers, other.numbers)
        and one.magnetic_order == other.magnetic_order  # else their energies differ for another reason
        and np.allclose(one.cell, other.cell, rtol=0, atol=SAME)
        and np.allclose(one.positions, other.positions, rtol=0, atol=SAME)
    )


def _states(frame: Frame, rule: RedoxRule, level: str) -> np.ndarray | None:
    """Return the charge states [n] that a frame's moments show, else the given ones; None if neither."""
    if frame.magmoms is not None or frame.oxidation_states is None:
        return rule.assign(frame.numbers, frame.magmoms, level)[0]
    [reason] = rule.check(frame.numbers, np.array([0, len(frame)]), frame.oxidation_states)
    return None if reason else np.where(frame.numbers == rule.redox_z, frame.oxidation_states, 0)
