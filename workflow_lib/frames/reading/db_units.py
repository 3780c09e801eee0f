"""Units that SchNetPack writes into the metadata of an ASE database, as factors to those of the table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workflow_lib.core.errors import UserError
from workflow_lib.frames.labels import ACCEPTED

PROPERTIES, DISTANCE = "_property_unit_dict", "_distance_unit"
_IN_FRAME = ("energy", "forces", "stress", "virial")
"""Columns with a unit to convert; moments are in muB and charges in e in every data set."""


def _values() -> dict[str, float]:
    from ase import units

    return {
        **{"ev": 1.0, "mev": 1e-3, "hartree": units.Hartree, "ha": units.Hartree, "eh": units.Hartree},
        **{"rydberg": units.Rydberg, "ry": units.Rydberg, "kcal": units.kcal, "kj": units.kJ},
        **{"mol": units.mol, "ang": 1.0, "angstrom": 1.0, "a": 1.0, "bohr": units.Bohr, "a0": units.Bohr},
        **{"nm": units.nm, "gpa": units.GPa, "kbar": 0.1 * units.GPa, "1": 1.0},
    }


def factor(unit: str) -> float | None:
    """Return the factor from ``unit``, such as ``kcal/mol/Ang``, to eV and A; None if unknown."""
    known = _values()
    value = 1.0
    for place, part in enumerate(str(unit).replace(" ", "").split("/")):
        found = re.fullmatch(r"([A-Za-z]+0?|1)(?:(?:\^|\*\*)?([1-3]))?", part)
        if found is None or found[1].lower() not in known:
            return None
        one = known[found[1].lower()] ** int(found[2] or 1)
        value = value / one if place else value * one
    return value


class Units:
    """Factors of one database; UserError for an unknown unit. Without metadata all are 1.

    ``names``: the labels whose unit the metadata state.
    """

    def __init__(self, metadata: Mapping[str, Any], path: Path) -> None:
        stated = metadata.get(PROPERTIES)
        stated = stated if isinstance(stated, Mapping) else {}
        self.length = self._factor("the distance", metadata.get(DISTANCE, "Ang"), path)
        self._factors = {
            name: self._factor(name, stated[name], path)
            for column in _IN_FRAME
            for name in ACCEPTED[column]
            if name in stated
        }
        self.names = frozenset(self._factors)

    @staticmethod
    def _factor(name: str, unit: Any, path: Path) -> float:
        found = factor(str(unit))
        if found is None:
            raise UserError(
                f"{path}: {name} is in {str(unit)[:40]!r}, a unit that is not known; write the metadata of "
                "the database in eV, Hartree, kcal/mol, Ang, Bohr"
            )
        return found

    def turned(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the labels of a row in eV and A."""
        return {
            name: np.asarray(value, dtype=float) * self._factors[name] if name in self._factors else value
            for name, value in data.items()
        }
