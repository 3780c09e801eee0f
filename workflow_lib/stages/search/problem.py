"""The question of a search, what it has found so far, and its state across interruptions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import digest_of, read_json, write_json
from workflow_lib.lattice.arrangement import Arrangement
from workflow_lib.lattice.counting import count_distinct
from workflow_lib.stages.search.genotype import Lattice

Method = Literal["ga", "random", "screened", "enumeration"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One relaxed arrangement.

    ``energy`` is in eV per cell and ``formation`` in eV per formula unit relative to the end
    members relaxed by the same model, ``fmax`` in eV/A, ``volume`` of the cell in A^3; ``status`` is
    converged, unconverged, diverged or moved. ``energy``, ``formation`` and ``volume`` are None if the
    relaxation diverged, or moved: it ended as another arrangement.
    """

    energy: float | None
    formation: float | None
    fmax: float | None
    steps: int
    volume: float | None
    status: str


Evaluate = Callable[[Sequence[Arrangement]], list[Evaluation]]
"""Relaxes arrangements together and gives their evaluations in the same order."""


def finite(value: float) -> float | None:
    """Return the value, or None if it is not finite (JSON has no such numbers)."""
    return value if isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Record:
    """An arrangement that a search asked for: its ``order`` (from 1), its generation and its operator."""

    order: int
    generation: int
    operator: str
    key: str
    arrangement: Arrangement
    evaluation: Evaluation

    @property
    def n_occupied(self) -> int:
        """Number of mobile ions."""
        return len(self.arrangement.occupied)


@dataclass
class Problem:
    """A lattice to decorate and the way to evaluate decorations.

    ``distinct`` counts the symmetry-distinct arrangements of each composition, so that a search
    knows when it has seen all of them.
    """

    lattice: Lattice
    evaluate: Evaluate
    distinct: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        lattice = self.lattice
        self.distinct = {
            n: count_distinct(lattice.host, lattice.repeat, n, charges=lattice.charges)
            for n in lattice.compositions
        }

    def key(self, arrangement: Arrangement) -> str:
        """Return the canonical key; raise UserError if it is outside the search or not neutral."""
        lattice = self.lattice
        number = len(arrangement.occupied)
        if number not in self.distinct:
            raise UserError(
                f"{number} {lattice.host.mobile} is no composition of this search; it has "
                f"{', '.join(map(str, lattice.compositions))}"
            )
        if lattice.charges != (arrangement.reduced is not None):
            raise UserError("charge states are arranged by charge-labelled models, and only by those")
        if arrangement.reduced is not None and len(arrangement.reduced) != lattice.reduced[number]:
            raise UserError(
                f"{len(arrangement.reduced)} {lattice.host.redox}{lattice.host.low}+ with {number} "
                f"{lattice.host.mobile} is not neutral; {lattice.reduced[number]} are needed"
            )
        return lattice.host.key(arrangement)


class State:
    """Records and random state of one search, saved after each generation.

    The file is replaced as a whole. A search that was killed resumes after the last saved
    generation; because the random state is the one at the end of that generation, the search
    continues exactly as it would have without the interruption. The file's name holds a hash of the
    search's question, so that another question never picks it up; the
    code of the search belongs to the question.
    """

    def __init__(self, folder: Path, name: str, question: Any, seed: Sequence[int]) -> None:
        digest = digest_of(question)[:16]
        self.path = folder / f"{name}-{digest}.json"
        self.bits = np.random.PCG64(np.random.SeedSequence(tuple(seed)))
        self.records: list[Record] = []
        if self.path.exists():
            self._load()

    @property
    def generation(self) -> int:
        """Number of finished generations."""
        return self.records[-1].generation + 1 if self.records else 0

    def _load(self) -> None:
        stored = read_json(self.path)
        try:
            self.records = [
                Record(
                    arrangement=Arrangement(
                        tuple(row["arrangement"]["repeat"]),
                        tuple(row["arrangement"]["occupied"]),
                        None
                        if row["arrangement"]["reduced"] is None
                        else tuple(row["arrangement"]["reduced"]),
                    ),
                    evaluation=Evaluation(**row["evaluation"]),
                    **{name: row[name] for name in ("order", "generation", "operator", "key")},
                )
                for row in stored["records"]
            ]
            self.bits.state = stored["random"]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.path} is no state of a search ({error!r}); delete it, and the search starts again"
            ) from error

    def extend(
        self, batch: Sequence[tuple[str, str, Arrangement]], evaluations: Sequence[Evaluation]
    ) -> None:
        """Append one generation of (operator, key, arrangement) and save."""
        generation = self.generation
        for (operator, key, arrangement), evaluation in zip(batch, evaluations, strict=True):
            order = len(self.records) + 1
            self.records.append(Record(order, generation, operator, key, arrangement, evaluation))
        write_json(
            self.path,
            {"records": [asdict(record) for record in self.records], "random": self.bits.state},
        )
