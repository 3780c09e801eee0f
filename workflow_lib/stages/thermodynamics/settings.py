"""Configuration of the thermodynamics stage; free of heavy imports."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ThermodynamicsSettings(BaseModel):
    """The reservoir of the mobile ion, and which relaxations count."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mobile_energy_ev: float = Field(
        -1.3231,
        lt=0,
        description="DFT energy of one atom of the mobile metal in eV, at the level of the frames; "
        "used for DFT and for every model, never a model's own value",
    )
    mobile_energy_source: str = Field(
        "bcc Na, a 4.20 A, GPAW/PBE/PW500/16x16x16 (docs/dft.md)",
        description="where the energy of the mobile metal is from",
    )
    mobile_charge: int = Field(1, ge=1, le=3, description="electrons that go with one mobile ion")
    accept_unconverged: bool = Field(
        True,
        description="let relaxations that ran out of steps into the hull (their status is in the "
        "tables); diverged ones never enter",
    )
