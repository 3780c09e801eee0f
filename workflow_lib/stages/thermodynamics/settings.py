"""Configuration of the thermodynamics stage; without heavy imports."""

from __future__ import annotations

import difflib
from typing import Self

from pydantic import Field, model_validator

from workflow_lib.core.elements import Element
from workflow_lib.core.section import Section


class MetalEnergy(Section):
    """The energy of one atom of a metal at one level of theory."""

    element: Element
    level: str = Field(min_length=1, description="level of theory of the frames it belongs to")
    energy_ev: float = Field(lt=0, allow_inf_nan=False, description="total energy per atom, eV")
    source: str = Field(min_length=1, description="how it was computed, for captions")


class ThermodynamicsSettings(Section):
    """The metal that voltages are measured against, and which relaxations count."""

    metals: tuple[MetalEnergy, ...] = Field(
        (),
        description="energies of the metal of the mobile ion, by element and level of theory; used for "
        "DFT and for every model. If none fits the frames, voltages are left out",
    )
    accept_unconverged: bool = Field(
        True,
        description="let relaxations that ran out of steps into the hull (their status is in the "
        "tables); those that diverged or moved never enter",
    )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        named = [(metal.element, metal.level) for metal in self.metals]
        for element, level in named:
            if named.count((element, level)) > 1:
                raise ValueError(f"metals: {element} at {level} is given twice; give one energy")
        return self

    def metal(self, element: str, level: str) -> MetalEnergy | None:
        """Return the metal's energy at a level of theory; None if the table has none."""
        return next((m for m in self.metals if (m.element, m.level) == (element, level)), None)

    def near(self, element: str, level: str) -> str:
        """Return, for messages, what the table has in place of an entry that it lacks."""
        levels = [metal.level for metal in self.metals if metal.element == element]
        if levels:
            close = difflib.get_close_matches(level, levels, 1, 0) or levels
            return f"it has {element} at {close[0]!r}, which is not this level"
        known = ", ".join(sorted({metal.element for metal in self.metals}))
        return f"it has {known} only" if known else "it is empty"
