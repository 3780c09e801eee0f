"""LixFePO4 at the level that stands: the sixteen states with Li in the place of Na, and bcc lithium."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase import Atoms

from campaigns.naxfepo4_gpaw.cell_parts import relaxed_cells
from campaigns.naxfepo4_gpaw.chgnet_cell import chgnet_cell
from campaigns.naxfepo4_gpaw.frame_parts import strained_series, symmetric_series
from campaigns.naxfepo4_gpaw.level_parts import CHOSEN, TOLERANCE
from campaigns.naxfepo4_gpaw.states import POOR, again, bcc_metal, seeded
from campaigns.naxfepo4_gpaw.truth import LITHIUM, lithium_relaxations
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.store import Record, Store
from workflow_lib.dft.symmetry import symmetrised

LITHIUM_LATTICES = (3.39, 3.44, 3.49)  # A
STEPS = 6
"""At most; those that are done were at rest (0.1 eV/A, 0.2 GPa) before."""


def lithium_states(store: Store) -> Iterator[Calculation]:
    """The states with Li, positions and cell relaxed from CHGNet's cells with the charge order built in.

    CHGNet knows no charge order: the shifts that DFT gives the atoms of the same state with Na against
    CHGNet's are added, in lattice coordinates, to what CHGNet relaxes the ions with Li to.
    """
    for key, record in sorted(relaxed_cells(store).items()):
        if key != POOR:  # without ions it is the one there is
            yield _with_lithium(record, key)


def _with_lithium(record: Record, key: str) -> Calculation:
    last = record.frames[-1]
    sodium = Atoms(record.calculation.numbers, positions=last["positions"], cell=last["cell"], pbc=True)
    lithium = sodium.copy()
    lithium.numbers[lithium.numbers == 11] = 3
    plain, start = chgnet_cell(sodium.copy()), chgnet_cell(lithium)
    shift = sodium.get_scaled_positions(wrap=False) - plain.get_scaled_positions(wrap=False)
    scaled = start.get_scaled_positions(wrap=False) + shift - np.round(shift)
    changed = again(
        record,
        name=f"lithium {key}",
        group=f"Li of {key}",
        kind=LITHIUM,
        task="cell",
        level=CHOSEN,
        numbers=start.numbers.tolist(),
        cell=start.cell[:].tolist(),
        positions=(scaled @ start.cell[:]).tolist(),
        state_key=None,
        max_steps=STEPS,
        fmax=0.1,
        provenance={},
    )
    return symmetrised(changed, TOLERANCE)


def lithium_strains(store: Store) -> Iterator[Calculation]:
    """Strained and displaced frames of every state with Li, about where its relaxation ended."""
    for group, record in _ended(store):
        yield strained_series(record, seeded("lithium strains", group), f"strained {group}")


def lithium_symmetric(store: Store) -> Iterator[Calculation]:
    """Those that keep what symmetry a state with Li has."""
    for group, record in _ended(store):
        yield from symmetric_series(record, seeded("lithium symmetric", group), f"symmetric {group}")


def _ended(store: Store) -> Iterator[tuple[str, Record]]:
    for group, record in sorted(lithium_relaxations(store.records()).items()):
        if record.status in ("done", "failed"):
            yield group, record


def lithium_metal(_store: Store) -> Iterator[Calculation]:
    """Bcc lithium at the cut-off of the level, three lattice constants."""
    for lattice in LITHIUM_LATTICES:
        yield bcc_metal("Li", lattice, 16, CHOSEN)
