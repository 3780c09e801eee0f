"""How relaxations start and end, for all stages that relax; free of heavy imports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

from pydantic import Field

from workflow_lib.core.section import Section

Optimiser = Literal["fire", "lbfgs"]
Cells = Literal["auto", "fixed", "relaxed"]


class Options(TypedDict):
    """What ``relax`` is told of the end of a relaxation, see there."""

    fmax: float
    max_steps: int
    cell: bool
    smax: float
    optimiser: Optimiser


@dataclass(frozen=True, slots=True)
class Stop:
    """What relaxes and when it ends: below ``fmax`` (eV/A), or after ``max_steps``.

    With ``smax`` (GPa) the cell relaxes too, until the stress is below it; None keeps the cell.
    """

    fmax: float
    max_steps: int
    smax: float | None = None
    optimiser: Optimiser = "fire"

    def __str__(self) -> str:
        cell = "fixed" if self.smax is None else f"{self.smax:.6g}"
        return f"fmax={self.fmax:.6g}|steps={self.max_steps}|smax={cell}|{self.optimiser}"

    @property
    def cells(self) -> Literal["fixed", "relaxed"]:
        """Whether cells relax, in the words of the configuration."""
        return "fixed" if self.smax is None else "relaxed"

    def options(self) -> Options:
        """Return these ends as arguments of ``relax``."""
        return {
            "fmax": self.fmax,
            "max_steps": self.max_steps,
            "cell": self.smax is not None,
            "smax": self.smax or 0.0,
            "optimiser": self.optimiser,
        }


class RelaxationSettings(Section):
    """Starts and ends of relaxations; equal ones are shared by the stages through their cache."""

    polaron_distortion: float = Field(
        0.06,
        gt=0,
        le=0.3,
        description="distortion of the distorted starts in A: neighbours drawn towards redox sites of the "
        "higher charge state, pushed from those of the lower one",
    )
    cell: Cells = Field(
        "auto",
        description="`relaxed`: positions and cell together; `fixed`: positions in the Vegard cell of the "
        "composition; `auto`: relaxed if the stress of every DFT reference state is converged, so that "
        "DFT's cells are relaxed too",
    )
    smax: float = Field(
        0.1, gt=0, le=10, description="GPa; with relaxed cells no component of the stress exceeds this"
    )
    fmax: float = Field(0.05, gt=0, le=1, description="eV/A; a relaxation stops below this")
    optimiser: Optimiser = Field(
        "fire", description="`fire` stays in the basin of the start, `lbfgs` takes about half the steps"
    )
    max_steps: int = Field(150, ge=1, le=10000, description="most steps of one relaxation")
    batch_size: int = Field(
        4,
        ge=1,
        description="structures relaxed, and stored, together: a kill costs at most these. A GPU is faster "
        "with more; fewer run at once if its memory is short",
    )

    def stop(self, *, stress_converged: bool) -> Stop:
        """Return when relaxations end; ``stress_converged`` (of the reference) decides ``cell: auto``."""
        relaxed = self.cell == "relaxed" or (self.cell == "auto" and stress_converged)
        return Stop(self.fmax, self.max_steps, self.smax if relaxed else None, self.optimiser)


class StartSettings(Section):
    """How the start of a study is relaxed, by FIRE as in the CHGNet paper."""

    fmax: float = Field(0.1, gt=0, le=1, description="eV/A; no force exceeds this")
    smax: float = Field(0.1, gt=0, le=10, description="GPa; no component of the stress exceeds this")
    max_steps: int = Field(500, ge=0, le=20000, description="0 leaves the structure as it is")
    cell: bool = Field(True, description="relax the cell with the positions")
