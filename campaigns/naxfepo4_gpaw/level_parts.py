"""Which level stands: candidates against a finer reference, on cells of unequal composition."""

from __future__ import annotations

from collections.abc import Iterator

from campaigns.naxfepo4_gpaw.states import LEVEL, POOR, RICH, again, relaxed_states
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.level import Level
from workflow_lib.dft.level_choice import KIND
from workflow_lib.dft.store import Store
from workflow_lib.dft.symmetry import symmetrised

ORDERS = ("1x1x1:Na1001:Fe2323", "1x1x1:Na1001:Fe2233")
"""Charge orders on the same ions, the furthest apart there."""
STRAINS = (0.0, 0.02)
"""Linear and isotropic."""
TOLERANCE = 0.03
"""A; relaxed at Gamma without symmetry, positions lie this close to those of their space group."""


def level_of(cutoff: float, mesh: tuple[int, int, int]) -> Level:
    """PBE+U at a cut-off (eV) on a shifted mesh."""
    return LEVEL.model_copy(update={"cutoff": cutoff, "kpoints": mesh, "shifted": True})


CHOSEN = level_of(800.0, (1, 2, 2))
REFERENCE = level_of(900.0, (2, 2, 2))
CANDIDATES = (CHOSEN, level_of(700.0, (1, 2, 2)), level_of(600.0, (1, 2, 2)))


def levels(store: Store) -> Iterator[Calculation]:
    """Both ends and two orders at x = 1/2, as relaxed at the earlier level and strained, at each level.

    The most decisive come first: the unstrained cells at the likely level, then at the reference. Each
    starts from the density of the same state at the likely level.
    """
    relaxed = relaxed_states(store)
    wanted = [(level, strain) for strain in STRAINS for level in (CHOSEN, REFERENCE)]
    wanted += [(level, strain) for level in CANDIDATES[1:] for strain in STRAINS]
    densities: dict[tuple[str, float], str] = {}
    for level, strain in wanted:
        for key in (ORDERS[0], POOR, RICH, ORDERS[1]):
            plain = symmetrised(again(relaxed[key]), TOLERANCE)
            mesh = "x".join(map(str, level.kpoints))
            density = densities.get((key, strain)) or densities.get((key, 0.0))
            calculation = again(
                relaxed[key],
                name=f"level {key} {level.cutoff:g} eV {mesh} strain {strain:g}",
                kind=KIND,
                level=level,
                charges=False,
                cell=(plain.cell * (1 + strain)).tolist(),
                positions=(plain.positions * (1 + strain)).tolist(),
                provenance={"start": relaxed[key].calculation.digest, "strain": strain}
                | ({"density": density} if density else {}),
            )
            densities.setdefault((key, strain), calculation.digest)
            yield calculation
