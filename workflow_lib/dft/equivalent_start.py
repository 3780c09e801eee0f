"""Whether an answer filed under an arrangement is one for the crystal that is asked about.

A relaxation is filed under its arrangement, so that equivalent starts share the answer. The name of the
arrangement does not say of which host: another polymorph, or the same with an edited cell, has the same.
Nor does any name say on which atoms orbitals and signs of moments are wanted: these follow the list of
atoms, which may be in another order.
"""

from __future__ import annotations

import numpy as np

from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.charge_state import starting_signs

MOVED = 0.3
"""A; atoms of two starts of one relaxation lie no further apart. Polaron distortions are 0.06 A, the
starts of the embedded records 0.22 A from those made today."""
STRAINED = 1e-4
"""Relaxations keep their cell: this is what two may differ by along any direction, worth less than 1 meV
per formula unit at the stress that a cell of Vegard's rule is under."""


def unlike(asked: Calculation, stored: Calculation) -> str | None:
    """Say why ``stored`` is no start of the relaxation that is ``asked`` for; None where it is one.

    Cells are compared whatever way they are turned, atoms by element and charge state in the cell that is
    asked for, whatever their order.
    """
    from scipy.optimize import linear_sum_assignment

    kinds, others = (
        list(zip(c.numbers.tolist(), c.oxidation_states.tolist(), strict=True)) for c in (asked, stored)
    )
    if sorted(kinds) != sorted(others):
        return "it has other atoms"
    deformed = np.linalg.solve(stored.cell, asked.cell)  # a row vector r becomes r @ deformed
    strain = (deformed @ deformed.T - np.eye(3)) / 2
    if (largest := np.abs(np.linalg.eigvalsh(strain)).max()) > STRAINED:
        return f"its cell is strained by {100 * largest:.2g} % against the one asked for"
    scaled, known = (np.linalg.solve(c.cell.T, c.positions.T).T for c in (asked, stored))
    furthest = 0.0
    for kind in set(kinds):
        mine, theirs = (np.array([k == kind for k in each]) for each in (kinds, others))
        gap = scaled[mine][:, None] - known[theirs][None]
        distance = np.linalg.norm((gap - np.round(gap)) @ asked.cell, axis=-1)
        furthest = max(furthest, float(distance[linear_sum_assignment(distance)].max()))
    if furthest > MOVED:
        return f"an atom lies {furthest:.2f} A from where it is asked for"
    return None


def reassigned(asked: Calculation, stored: Calculation) -> str | None:
    """Say where the same atoms are to start with other orbitals or signs of moments; None where alike.

    Signs that are all turned over are the same.
    """
    if len(asked.orbital) == 1 and asked.level.magnetism == "ferromagnetic":
        return None  # all sites are alike
    scaled, known = (np.linalg.solve(c.cell.T, c.positions.T).T for c in (asked, stored))
    gap = scaled[:, None] - known[None]
    nearest = np.linalg.norm((gap - np.round(gap)) @ asked.cell, axis=-1).argmin(axis=1)
    seeds, others = asked.seeds(), stored.seeds()
    for site, seed in seeds.items():
        if others.get(int(nearest[site])) != seed:
            return f"there atom {site} starts in orbital {others.get(int(nearest[site]))}, not {seed}"
    signs = starting_signs(asked) * starting_signs(stored)[nearest]
    if len(set(signs[signs != 0].tolist())) > 1:
        return "there other atoms have moments up and down"
    return None
