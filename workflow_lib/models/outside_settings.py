"""Potentials that were not trained here, as the configuration names them; without heavy imports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from workflow_lib.core.validation import nearest
from workflow_lib.models.identity import NAME, ModelId

SHIPPED: dict[str, tuple[str, str]] = {
    "chgnet-0.3.0": ("0.3.0", "VASP/PBE and PBE+U of the Materials Project, MP2020 corrections"),
    "chgnet-0.2.0": ("0.2.0", "VASP/PBE and PBE+U of the Materials Project, MP2020 corrections"),
    "chgnet-r2scan": ("r2scan", "VASP/r2SCAN of the Materials Project"),
}
"""Named potentials: the version of the weights in the installed chgnet, and their level of theory."""
UNSTATED = "not stated"
"""``level`` in tables of a calculator that does not say its level of theory."""
_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_calculator(potential: str) -> bool:
    """Return whether a potential is a calculator of ASE by import path; a path may hold a colon, too."""
    return ":" in potential and not Path(potential).exists()


class OutsideModel(BaseModel):
    """One potential trained elsewhere: it answers and searches as the models do, but is not trained.

    Its energies are compared only as differences within itself: against its own end members, or
    between states of one composition.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=NAME, max_length=60, description="its name in tables, followed by `-outside`")
    potential: str = Field(
        description=f"shipped weights ({', '.join(SHIPPED)}), or a calculator of ASE by import path, "
        "`package.module:Name`: a class, or a function that returns one"
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of the calculator's class or function"
    )
    level: str | None = Field(
        None, min_length=1, description="level of theory of a calculator's energies, where known"
    )
    control: bool = Field(False, description="a control: evaluated, but without a search of its own")

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.potential in SHIPPED:
            if self.arguments or self.level:
                raise ValueError(f"{self.potential} takes neither arguments nor level: both are known")
        elif not _PATH.fullmatch(self.potential):
            raise ValueError(
                f"potential: {self.potential!r} is neither a calculator of ASE (package.module:Name) nor a "
                f"shipped name{nearest(self.potential, SHIPPED)}"
            )
        return self

    @property
    def identity(self) -> ModelId:
        """Its id, which names its folders and rows."""
        return ModelId.outside(self.name)
