"""Parts of a long sampling, each with a random generator of its own, so that a killed job goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from workflow_lib.core.kept import Arrays, Kept, key_of

type Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Pieces:
    """Tables of rows by name: kept ones are read, others are computed and kept.

    ``seed`` and the name of a piece seed its generator, so that a piece is the same whichever were done
    before. ``where`` names the sampling in messages, and its pieces apart from those of another one.
    """

    where: str
    seed: tuple[int, ...]
    kept: Kept | None = None

    def rows(self, name: str, compute: Callable[[np.random.Generator], Rows]) -> Rows:
        """Return the rows of a piece."""
        rng = np.random.default_rng([*self.seed, *f"{self.where} {name}".encode()])
        if self.kept is None:
            return compute(rng)
        arrays = self.kept.arrays(key_of(self.seed, self.where, name), lambda: _columns(compute(rng)))
        names = list(arrays)
        values = zip(*(arrays[name].tolist() for name in names), strict=True)
        return [dict(zip(names, row, strict=True)) for row in values]


def _columns(rows: Rows) -> Arrays:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}
