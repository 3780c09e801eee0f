"""Code that the readers share: defaults of a file, and one frame at a time that may be damaged."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from workflow_lib.frames.frame import Frame
from workflow_lib.frames.labels import make_frame, reason_of

if TYPE_CHECKING:
    from ase import Atoms


class Damaged(NamedTuple):
    """A part of a file that cannot be used: ``number`` of the frame, line (None if not text), reason."""

    number: int
    line: int | None
    reason: str


Batches = Iterator[tuple[list[Frame | Damaged], int]]
"""Frames and damaged ones in the order of a file, with the bytes read so far."""


@dataclass(slots=True)
class Defaults:
    """Values for frames that do not state them: ``name`` begins their ids and is their source.

    ``notes`` collects what a user must know about the file, each line once. Of a run: ``potentials``, the
    pseudopotential of each element; ``width`` of its smeared occupations and plane-wave ``cutoff``, eV;
    ``mesh``, its numbers of k-points along the vectors, by ascending ``heights``, which are the distances
    in A between the lattice planes that the other two vectors span.
    """

    name: str
    energy_reference: str | None = None
    formula_units: int | None = None
    notes: list[str] = field(default_factory=list)
    potentials: dict[str, str] = field(default_factory=dict)
    width: float | None = None
    cutoff: float | None = None
    mesh: list[int] = field(default_factory=list)
    heights: list[float] = field(default_factory=list)

    def note(self, line: str) -> None:
        """Add a line to the summary."""
        if line not in self.notes:
            self.notes.append(line)


def one_frame(
    defaults: Defaults,
    index: int,
    load: Callable[[], tuple[Atoms, Sequence[Any]]],
    path: str | None = None,
    energy_reference: str | None = None,
    converted: Container[str] = (),
) -> Frame | Damaged:
    """Return one frame, or why it cannot be used.

    ``load`` returns atoms and the places of their labels; ``path`` names the calculation, and
    ``energy_reference`` the level if the file states it. ``converted``: see ``labels.make_frame``.
    """
    try:
        atoms, places = load()
        return make_frame(
            atoms,
            places,
            default_id=f"{defaults.name}-{index:06d}",
            source=defaults.name,
            path=path,
            energy_reference=energy_reference or defaults.energy_reference,
            formula_units=defaults.formula_units,
            note=defaults.note,
            converted=converted,
        )
    # Damaged rows raise many kinds of errors: struct, json, key, index, overflow and value.
    except Exception as error:
        return Damaged(index, None, reason_of(error))
