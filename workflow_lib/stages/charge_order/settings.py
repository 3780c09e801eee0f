"""Configuration of the charge-order stage; free of heavy imports."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ChargeOrderSettings(BaseModel):
    """How the models relax the enumerated states, and at which composition orders are compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    polaron_distortion: float = Field(
        0.06,
        gt=0,
        le=0.3,
        description="distortion of the starts of protocol (b) in A: oxygen drawn towards Fe3+, pushed "
        "from Fe2+",
    )
    fmax: float = Field(0.05, gt=0, le=1, description="eV/A; a relaxation stops below this")
    max_steps: int = Field(150, ge=1, le=10000, description="most steps of one relaxation")
    batch_size: int = Field(16, ge=1, description="structures relaxed together")
    compared_x: float = Field(
        0.5, gt=0, lt=1, description="composition whose states are ranked against each other"
    )
    identical_atoms: str | None = Field(
        None,
        description="frame table, for testing only, with several charge orders on the same atoms "
        "(kind `same-positions`); left out, the models are not asked about them",
    )
