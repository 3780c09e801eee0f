"""How relaxations start and end, for all stages that relax; free of heavy imports."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class RelaxationSettings(BaseModel):
    """Starts and ends of relaxations; equal ones are shared by the stages through their cache."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    polaron_distortion: float = Field(
        0.06,
        gt=0,
        le=0.3,
        description="distortion of the distorted starts in A: neighbours drawn towards redox sites of the "
        "higher charge state, pushed from those of the lower one",
    )
    fmax: float = Field(0.05, gt=0, le=1, description="eV/A; a relaxation stops below this")
    max_steps: int = Field(150, ge=1, le=10000, description="most steps of one relaxation")
    batch_size: int = Field(16, ge=1, description="structures relaxed together")
