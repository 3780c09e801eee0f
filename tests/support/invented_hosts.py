"""Hosts that nobody has made: two-valent ions, several mobile ions a redox site, no symmetry at all."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import strategies as st
from samples import HOST, RULE

from workflow_lib.core.elements import atomic_number
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.host_file import HostFile
from workflow_lib.lattice.redox import RedoxRule

GRID = np.array([(i, j, k) for i in (0.0, 0.5) for j in (0.0, 0.5) for k in (0.0, 0.5)])

CELLS = ((5.0, 5.0, 5.0), (5.0, 5.0, 6.0), (4.6, 5.4, 6.3))
"""Edges in A: cubic, tetragonal, orthorhombic where the sites are."""


def rule_of(element: str, low: int, high: int, formal_charges: dict[str, int]) -> RedoxRule:
    states = [
        {"oxidation": low, "surrogate": element, "new_species": element, "magmom": {}},
        {"oxidation": high, "surrogate": "Ga", "new_species": "Ac", "magmom": {}},
    ]
    return RedoxRule.model_validate(
        {"element": element, "states": states, "formal_charges": formal_charges}
    )


def olivine(mobile: str, centre: str, couple: tuple[int, int]) -> Host:
    """The shipped olivine with another mobile ion, another atom in its tetrahedra, another couple."""
    described: dict[str, Any] = json.loads(HOST.read_text())
    new = {11: atomic_number(mobile), 15: atomic_number(centre)}
    described |= {
        "name": f"invented {mobile}Fe{centre}O4",
        "mobile": mobile,
        "oxidation_states": list(couple),
        "numbers": [new.get(z, z) for z in described["numbers"]],
    }
    charges = RULE["formal_charges"] | {"Mg": 2}
    return Host(HostFile.model_validate(described), rule_of("Fe", *couple, charges))


def magnesium_phosphate() -> Host:
    """Mg on the Na sites: two electrons an ion, so Mg0.5FePO4 is full; there is no neutral MgFePO4."""
    return olivine("Mg", "P", (2, 3))


def magnesium_silicate() -> Host:
    """MgFeSiO4 with Fe2+/Fe4+: two electrons an ion, one reduced site an ion, neutral at both ends."""
    return olivine("Mg", "Si", (2, 4))


def two_sodium(couple: tuple[int, int] = (2, 4)) -> Host:
    """Na2FeOF2, two Na a redox site. With Fe2+/Fe4+ both ends are neutral, with Fe2+/Fe3+ not the empty."""
    cell = ((4.0, 0.0, 0.0), (0.0, 4.0, 0.0), (0.0, 0.0, 4.3))
    scaled = ((0, 0, 0.0), (0.5, 0, 0.5), (0, 0.5, 0.5), (0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5))
    described = HostFile.model_validate(
        {
            "name": "invented Na2FeOF2",
            "mobile": "Na",
            "redox": "Fe",
            "oxidation_states": couple,
            "formula_units": 1,
            "numbers": (26, 11, 11, 9, 9, 8),
            **{"cell_full": cell, "cell_empty": cell, "scaled_full": scaled, "scaled_empty": scaled},
        }
    )
    return Host(described, rule_of("Fe", *couple, {"Na": 1, "O": -2, "F": -1}))


def lithium_manganate() -> Host:
    """LiMn2O4 with Mn3+/Mn4+: the full host has mixed valence, half of its sites are reduced."""
    cell = np.diag([5.0, 5.0, 5.6]).tolist()
    scaled = GRID[:7].tolist()
    described = HostFile.model_validate(
        {
            "name": "invented LiMn2O4",
            "mobile": "Li",
            "redox": "Mn",
            "oxidation_states": (3, 4),
            "formula_units": 1,
            "numbers": (3, 25, 25, 8, 8, 8, 8),
            **{"cell_full": cell, "cell_empty": cell, "scaled_full": scaled, "scaled_empty": scaled},
        }
    )
    return Host(described, rule_of("Mn", 3, 4, {"Li": 1, "O": -2}))


def oxyfluoride() -> Host:
    """FeOF with mobile F: anions that oxidise two of four Fe2+ to Fe3+ as two of them come in."""
    cell = np.diag([5.0, 5.0, 5.6]).tolist()
    scaled = GRID[:6].tolist()
    described = HostFile.model_validate(
        {
            "name": "invented FeOF",
            "mobile": "F",
            "redox": "Fe",
            "oxidation_states": (2, 3),
            "formula_units": 2,
            "numbers": (9, 9, 26, 26, 8, 8),
            **{"cell_full": cell, "cell_empty": cell, "scaled_full": scaled, "scaled_empty": scaled},
        }
    )
    return Host(described, rule_of("Fe", 2, 3, {"F": -1, "O": -2}))


@st.composite
def hosts(draw: st.DrawFn, cells: tuple[tuple[float, float, float], ...] = CELLS) -> Host:
    """A host on the points of a grid, moved off them or not, with any charges."""
    n_mobile, n_redox, n_anion = draw(st.integers(1, 4)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    chosen = draw(st.permutations(range(len(GRID))))[: n_mobile + n_redox + n_anion]
    scaled = GRID[chosen]
    if draw(st.booleans()):
        scaled = scaled + np.random.default_rng(draw(st.integers(0, 999))).uniform(
            -0.06, 0.06, scaled.shape
        )
    edges = draw(st.sampled_from(cells))
    low = draw(st.integers(0, 3))
    high = draw(st.integers(low + 1, 5))
    cell = np.diag(edges).tolist()
    described = HostFile.model_validate(
        {
            "name": "invented",
            "mobile": "Mg",
            "redox": "Fe",
            "oxidation_states": (low, high),
            "formula_units": 1,
            "numbers": (12,) * n_mobile + (26,) * n_redox + (8,) * n_anion,
            "cell_full": cell,
            "cell_empty": (0.97 * np.diag(edges)).tolist(),
            "scaled_full": scaled.tolist(),
            "scaled_empty": scaled.tolist(),
        }
    )
    charges = {"Mg": draw(st.sampled_from([1, 2, 3, -1])), "O": draw(st.integers(-6, -1))}
    return Host(described, rule_of("Fe", low, high, charges))
