"""Configuration of the dft stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from workflow_lib.core.section import Section
from workflow_lib.dft.calculation import IonName
from workflow_lib.dft.level import EMBEDDED, Level
from workflow_lib.lattice.redox import MomentWindow


class DftSettings(Section):
    """Where energies of DFT come from: the store, an engine, or nowhere (listed as pending)."""

    engine: Literal["none", "gpaw", "vasp"] = Field(
        "none", description="none: what the store lacks is only listed as pending"
    )
    store: str = Field("results/dft/store", description="finished calculations, shared by all runs")
    level: Level = EMBEDDED
    cell: Literal["fixed", "relaxed"] = Field(
        "relaxed", description="whether cells relax with the positions; fixed: those of Vegard's rule"
    )
    fmax: float = Field(0.05, gt=0, description="eV/A at which a relaxation ends")
    max_steps: int = Field(80, ge=1)
    windows: dict[IonName, MomentWindow] = Field(
        {}, description="moments (muB) that tell ions outside the redox couple, such as {Cr3: [2.6, 3.1]}"
    )
    polaron_distortion: float = Field(0.06, ge=0, description="A; polaron distortion of the starts")
    command: str | None = Field(None, description="engine vasp: what to run in a calculation's folder")

    @model_validator(mode="after")
    def _fits(self) -> DftSettings:
        if self.engine != "none" and self.level.code.lower() != self.engine:
            raise ValueError(
                f"engine {self.engine} computes at level.code {self.engine.upper()}, not {self.level.code}"
            )
        return self
