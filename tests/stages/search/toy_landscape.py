"""A known energy landscape: screened point charges on the host's sites.

Ions repel each other and sit near the reduced sites, as in the real material. The energy depends
on nearest-image distances only, so it has the symmetry of the host exactly.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.geometry import get_distances
from samples import HOST, RULE

from workflow_lib.lattice.arrangement import Arrangement
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.models.predictor import Origin
from workflow_lib.stages.search.genotype import Lattice
from workflow_lib.stages.search.problem import Evaluation
from workflow_lib.stages.search.settings import CellSettings, SearchSettings

ROOT = Path(__file__).parents[3]
OLIVINE = Host.load(HOST, RedoxRule.model_validate(RULE))
SCREENING = 4.0  # A

BIG = CellSettings(repeat=(1, 3, 1), compositions=(4, 6, 8, 10), budget=60, population=12, offspring=4)


@lru_cache
def _coulomb(repeat: tuple[int, int, int], charges: bool) -> np.ndarray:
    lattice = Lattice(OLIVINE, repeat, charges, ())
    positions = lattice.template.positions
    distance = get_distances(positions, positions, cell=lattice.template.cell, pbc=True)[1]
    np.fill_diagonal(distance, np.inf)
    return 14.4 / 10 * np.exp(-distance / SCREENING) / distance


def toy_energy(arrangement: Arrangement, host: Host) -> float:
    """Energy of the cell in eV: +1 on ions, -1 on electrons, screened, in a medium of permittivity 10."""
    charges = arrangement.reduced is not None
    q = np.zeros(host.n_mobile(arrangement.repeat) + charges * host.n_redox(arrangement.repeat))
    q[list(arrangement.occupied)] = 1.0
    if arrangement.reduced is not None:
        q[[host.n_mobile(arrangement.repeat) + site for site in arrangement.reduced]] = -1.0
    return float(0.5 * q @ _coulomb(arrangement.repeat, charges) @ q)


class ToyEvaluator:
    """Stands where a model stands; counts what it is asked for, can stop or dawdle."""

    identity = "toy"
    level = "toy"
    charge_orders: frozenset[str] = frozenset()

    def __init__(
        self,
        charges: bool = True,
        *,
        fail_after: int | None = None,
        delay: float = 0.0,
        diverge: bool = False,
    ) -> None:
        self.host = OLIVINE
        self.charges = charges
        self.fail_after, self.delay, self.diverge = fail_after, delay, diverge
        self.asked: list[str] = []

    def relaxation(self, key: str, cell: CellSettings | None) -> str:
        return key

    def evaluate(self, arrangements: Sequence[Arrangement], cell: CellSettings) -> list[Evaluation]:
        time.sleep(self.delay)
        self.asked += [self.host.key(arrangement) for arrangement in arrangements]
        if self.fail_after is not None and len(self.asked) > self.fail_after:
            raise KeyboardInterrupt
        results = []
        for arrangement in arrangements:
            if self.diverge:
                results.append(Evaluation(None, None, None, 0, None, "diverged"))
                continue
            energy = toy_energy(arrangement, self.host)
            # Both ends in the same cell: nearest images are not all of them, so the energy per
            # formula unit of the full cell depends on its size.
            sites = self.host.n_mobile(arrangement.repeat)
            every = tuple(range(sites))
            full = toy_energy(
                Arrangement(arrangement.repeat, every, every if self.charges else None), self.host
            )
            formation = (energy - len(arrangement.occupied) / sites * full) / sites
            results.append(Evaluation(energy, formation, 0.01, 7, 280.0, "converged"))
        return results

    def end_members(self) -> list[tuple[Arrangement, Evaluation]]:
        empty, full = self.host.end_members(charges=self.charges)
        members = [*empty, *full]
        return list(zip(members, self.evaluate(members, SETTINGS.cells[0]), strict=True))

    def structure(self, arrangement: Arrangement, cell: CellSettings | None) -> Atoms:
        return self.host.build(arrangement)


SETTINGS = SearchSettings(
    cells=(
        CellSettings(enumerate=True, budget=14, population=6, offspring=2),
        CellSettings(repeat=(1, 3, 1), compositions=(4, 6, 8, 10), budget=48, population=12, offspring=4),
    )
)


def owner(name: str) -> dict[str, object]:
    """The columns that name a toy in the tables."""
    return Origin("toy", "toy", "none", "entropy", 0, 1).columns(name)


if __name__ == "__main__":  # killed by a test
    from workflow_lib.stages.search.run import search_all

    search_all(
        ToyEvaluator(delay=float(sys.argv[3])),
        host=OLIVINE,
        settings=SETTINGS,
        seed=5,
        owner=owner("toy"),
        work=Path(sys.argv[1]),
        out=Path(sys.argv[2]),
    )
