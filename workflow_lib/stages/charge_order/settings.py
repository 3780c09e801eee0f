"""Configuration of the charge-order stage; without heavy imports."""

from __future__ import annotations

from pydantic import Field

from workflow_lib.simulation.settings import RelaxationSettings


class ChargeOrderSettings(RelaxationSettings):
    """How the models relax the enumerated states, and at which composition orders are compared."""

    compared_x: float = Field(
        0.5, gt=0, lt=1, description="composition whose states are ranked against each other"
    )
    identical_atoms: str | None = Field(
        None,
        description="frame table, for testing only, with several charge orders on the same atoms "
        "(kind `same-positions`); left out, the models are not asked about them",
    )
