"""What the numbers are worth: cut-off, k-mesh, cells, sodium, magnetic order, noise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from campaigns.naxfepo4_gpaw.convergence import ORDER_KIND
from campaigns.naxfepo4_gpaw.states import LEVEL, POOR, RICH, again, bcc_metal, relaxed_states
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.store import Store

CUTOFFS = (500, 600, 700, 800, 900)

MESHES = ((1, 3, 1), (1, 2, 2), (2, 2, 2))

ORDERS = ("1x1x1:Na1001:Fe2323", "1x1x1:Na1001:Fe2233")
"""Charge orders on the same ions, the furthest apart there."""

SODIUM_LATTICE = 4.2  # A

SODIUM_LATTICES = (4.1, 4.15, SODIUM_LATTICE, 4.25, 4.3)

NOISE = ("1x1x1:Na1000:Fe2333", "1x1x1:Na1001:Fe2323", "1x1x1:Na1110:Fe2223")


def convergence(store: Store, _model: Path | None) -> Iterator[Calculation]:
    """Both ends against cut-off and k-mesh, and strained at two cut-offs for the stress; two orders."""
    relaxed = relaxed_states(store)
    for update in ({"cutoff": 800.0}, {"kpoints": (1, 2, 2)}):
        for key in ORDERS:
            name = f"order {key} {update}"
            level = LEVEL.model_copy(update=update)
            yield again(relaxed[key], name=name, kind=ORDER_KIND, level=level, charges=False)
    for key in (POOR, RICH):
        for cutoff in CUTOFFS:
            level = LEVEL.model_copy(update={"cutoff": float(cutoff)})
            name = f"convergence {key} {cutoff} eV"
            yield again(relaxed[key], name=name, kind="convergence", level=level, charges=False)
    for key in (POOR, RICH):
        for mesh in MESHES:
            level = LEVEL.model_copy(update={"kpoints": mesh})
            name = f"convergence {key} {'x'.join(map(str, mesh))}"
            yield again(relaxed[key], name=name, kind="convergence", level=level, charges=False)
    for cutoff in (500, 800):
        level = LEVEL.model_copy(update={"cutoff": float(cutoff)})
        for key in (POOR, RICH):
            for strain in (-0.01, 0.01):
                calculation = again(relaxed[key], level=level)
                scale = 1 + strain
                yield again(
                    relaxed[key],
                    name=f"strain {strain:+.2f} {key} {cutoff} eV",
                    kind="convergence",
                    level=level,
                    charges=False,
                    cell=(calculation.cell * scale).tolist(),
                    positions=(calculation.positions * scale).tolist(),
                )


def cells(store: Store, _model: Path | None) -> Iterator[Calculation]:
    """Positions and cell of both ends where the stress is converged, on a mesh of even density."""
    relaxed = relaxed_states(store)
    level = LEVEL.model_copy(update={"cutoff": 800.0, "kpoints": (1, 2, 2)})
    for key in (POOR, RICH):
        yield again(
            relaxed[key],
            name=f"cell {key}",
            kind="cell",
            task="cell",
            level=level,
            charges=False,
            max_steps=40,
        )


def sodium(_store: Store, _model: Path | None) -> Iterator[Calculation]:
    """Bcc sodium: lattice constant and k-mesh at 500 eV, and every cut-off at the middle constant."""
    wanted = [(lattice, 500, 16) for lattice in SODIUM_LATTICES]
    wanted += [(SODIUM_LATTICE, 500, mesh) for mesh in (8, 12, 20)]
    wanted += [(SODIUM_LATTICE, cutoff, 16) for cutoff in CUTOFFS[1:]]
    for lattice, cutoff, mesh in wanted:
        level = LEVEL.model_copy(update={"cutoff": float(cutoff)})
        yield bcc_metal("Na", lattice, mesh, level)


def magnetism(store: Store, _model: Path | None) -> Iterator[Calculation]:
    """Antiferromagnetic single points of both ends, spins alternating along the Fe sites."""
    relaxed = relaxed_states(store)
    level = LEVEL.model_copy(update={"magnetism": "antiferromagnetic"})
    for key in (POOR, RICH):
        yield again(
            relaxed[key], name=f"antiferromagnetic {key}", kind="magnetism", level=level, charges=False
        )


def noise(store: Store, _model: Path | None) -> Iterator[Calculation]:
    """The same states from a cold start: what an energy is worth. Both ends come with convergence."""
    relaxed = relaxed_states(store)
    for key in NOISE:
        yield again(relaxed[key], name=f"noise {key}", kind="noise")
