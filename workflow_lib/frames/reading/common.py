"""What the readers share: defaults of a file, and one frame at a time that may be damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from workflow_lib.frames.foreign import make_frame
from workflow_lib.frames.table import Frame

if TYPE_CHECKING:
    from ase import Atoms


class Damaged(NamedTuple):
    """What cannot be used of a file: ``number`` of the frame, line (None outside text files), reason."""

    number: int
    line: int | None
    reason: str


Batches = Iterator[tuple[list[Frame | Damaged], int]]
"""Frames and damaged ones in the order of a file, with the bytes read so far."""


@dataclass(slots=True)
class Defaults:
    """What frames take that do not say it: ``name`` begins their ids and is their source.

    ``notes`` gathers what a user must know of the file, each line once.
    """

    name: str
    energy_reference: str | None = None
    formula_units: int | None = None
    notes: list[str] = field(default_factory=list)

    def note(self, line: str) -> None:
        """Remember a line for the summary."""
        if line not in self.notes:
            self.notes.append(line)


def reason_of(error: BaseException) -> str:
    """Why a frame or file cannot be used, in one line."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def one_frame(
    defaults: Defaults,
    index: int,
    load: Callable[[], tuple[Atoms, Sequence[Any]]],
    path: str | None = None,
    energy_reference: str | None = None,
) -> Frame | Damaged:
    """Return one frame, or why it cannot be used.

    ``load`` brings atoms and the places of their labels; ``path`` names the calculation, and
    ``energy_reference`` the level where the file says it.
    """
    try:
        atoms, places = load()
        return make_frame(
            atoms,
            places,
            "the frame",
            default_id=f"{defaults.name}-{index:06d}",
            source=defaults.name,
            path=path,
            energy_reference=energy_reference or defaults.energy_reference,
            formula_units=defaults.formula_units,
            note=defaults.note,
        )
    # Damaged rows raise anything: struct, json, key, index, overflow and value errors.
    except Exception as error:
        return Damaged(index, None, reason_of(error))
