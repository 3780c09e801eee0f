"""The lower convex hull of energy against composition, by pymatgen.

A cell with N mobile sites of which n are filled is a mixture of n ions and N - n vacancies on one
lattice. Given to pymatgen as the composition (ion)_n (vacancy)_(N-n), its energies "per atom" are
energies per mobile site, and cells of any size share one phase diagram.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition, DummySpecies, Element

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.formation import end_energies, formation_energy

VACANCY = DummySpecies("X")


@dataclass(frozen=True, slots=True)
class Hull:
    """A lower convex hull over x = filled fraction of the mobile sites, and the points it is made from.

    ``x`` [v] and ``energy`` [v] (eV per mobile site) are the vertices in ascending x, 0 and 1 among
    them; ``vertices`` [v] says which of the n given points they are; ``formation`` [n] and
    ``above`` [n] (eV per mobile site) are formation energy and distance to the hull of these
    points, in their order.
    """

    vertices: np.ndarray
    x: np.ndarray
    energy: np.ndarray
    formation: np.ndarray
    above: np.ndarray

    def formation_at(self, x: np.ndarray) -> np.ndarray:
        """Return the formation energy of the hull itself at ``x``, eV per mobile site."""
        own = formation_energy(self.energy, self.x, self.energy[0], self.energy[-1])
        return np.interp(x, self.x, own)


def lower_hull(
    filled: ArrayLike, sites: ArrayLike, energies: ArrayLike, *, mobile: str, where: str
) -> Hull:
    """Return the hull of cells with ``filled`` of ``sites`` mobile sites, ``energies`` in eV per cell.

    ``mobile`` is the symbol of the ion; ``where`` names the data in the message of the UserError
    that is raised for an energy that is not finite or a missing end member.
    """
    n, total = np.asarray(filled, dtype=np.int64), np.asarray(sites, dtype=np.int64)
    energy = np.asarray(energies, dtype=float)
    if not np.isfinite(energy).all():
        raise UserError(f"{where}: an energy is not finite; leave diverged relaxations out")
    for count, name in ((0, "empty"), (total, "full")):
        if not np.any(n == count):
            raise UserError(
                f"{where}: no energy of the {name} end member, so formation energies have no zero; "
                "evaluate it or leave this model out"
            )
    ion = Element(mobile)
    entries = [
        PDEntry(Composition({ion: int(i), VACANCY: int(m - i)}), float(e))
        for i, m, e in zip(n, total, energy, strict=True)
    ]
    diagram = PhaseDiagram(entries)
    stable = {id(entry) for entry in diagram.stable_entries}  # the objects themselves, not equal ones
    x, per_site = n / total, energy / total
    vertices = np.array([k for k, entry in enumerate(entries) if id(entry) in stable], dtype=np.int64)
    vertices = vertices[np.argsort(x[vertices])]
    return Hull(
        vertices=vertices,
        x=x[vertices],
        energy=per_site[vertices],
        formation=formation_energy(per_site, x, *end_energies(per_site, x)),
        above=np.array([diagram.get_e_above_hull(entry) for entry in entries], dtype=float),
    )
