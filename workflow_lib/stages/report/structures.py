"""Structures for the page: cells, atoms and charge states as short lists of numbers.

A point of a figure names the structures that belong to it by a *key*; the page lets the reader switch
between those of DFT and of the models that have one under the same key.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from workflow_lib.models.identity import EWALD
from workflow_lib.results_schema import DFT, HEADLINE

if TYPE_CHECKING:
    from ase import Atoms

    from workflow_lib.frames.frame import Frame
    from workflow_lib.results import Run

DECIMALS = 3  # of Angstrom
MOST_FRAMES = 150
"""Frames whose atoms stand in the embedding maps; every redox atom of them is a point."""


class Structures:
    """The structures of a run by key and source, each stored once."""

    def __init__(self) -> None:
        self.known: dict[str, dict[str, dict[str, Any]]] = {}

    def add(self, key: str, source: str, numbers: Any, positions: Any, cell: Any, states: Any) -> None:
        """Store a structure; positions and cell in A, ``states`` are oxidation states or None."""
        self.known.setdefault(key, {})[source] = {
            "z": np.asarray(numbers).tolist(),
            "p": np.round(np.asarray(positions, float), DECIMALS).ravel().tolist(),
            "c": np.round(np.asarray(cell, float), DECIMALS).ravel().tolist(),
            "o": None if states is None else np.asarray(states, int).tolist(),
        }

    def add_atoms(self, key: str, source: str, atoms: Atoms) -> None:
        """Store an ASE structure with its ``oxidation_states``, if it has some."""
        self.add(
            key,
            source,
            atoms.numbers,
            atoms.positions,
            atoms.cell[:],
            atoms.arrays.get("oxidation_states"),
        )

    def has(self, key: str, source: str) -> bool:
        """Return whether a source has a structure under this key."""
        return source in self.known.get(key, {})


def state_key_of(state_key: str) -> str:
    """Return the key of an enumerated charge-ordered state."""
    return f"state {state_key}"


def found_key_of(state_key: str) -> str:
    """Return the key of an arrangement that a search found."""
    return f"found {state_key}"


def frame_key_of(frame_id: str) -> str:
    """Return the key of a frame of the dataset."""
    return f"frame {frame_id}"


def collect(run: Run) -> Structures:
    """Return the structures of DFT's states, of every model's answers to them, and of the searches."""
    structures, tables = Structures(), run.tables
    if "charge_order/reference" in tables:
        for atoms in run.structures("charge_order/reference"):
            structures.add_atoms(state_key_of(atoms.info["state_key"]), DFT, atoms)
    for source in run.sources("charge_order/states"):
        if source != EWALD:  # a ranking relaxes nothing
            for atoms in run.structures("charge_order/states", source):
                if atoms.info["protocol"] == HEADLINE:
                    structures.add_atoms(state_key_of(atoms.info["state_key"]), source, atoms)
    for source in run.sources("search/found"):
        for atoms in run.structures("search/found", source):
            structures.add_atoms(found_key_of(atoms.info["state_key"]), source, atoms)
    return structures


def add_frames(structures: Structures, frames: Iterable[Frame]) -> None:
    """Store frames of the dataset."""
    for frame in frames:
        structures.add(
            *(frame_key_of(frame.frame_id), DFT, frame.numbers, frame.positions, frame.cell),
            frame.oxidation_states,
        )
