"""The level of theory of a DFT calculation, and the name under which its energies may be compared."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from workflow_lib.core.elements import Element
from workflow_lib.core.errors import UserError
from workflow_lib.core.section import Section
from workflow_lib.lattice.arrangement import Repeat

WIDTH = 0.05
"""eV; width of levels whose name does not say it."""
MOST_POINTS = 1000
"""Of a k-mesh, along one vector."""


class Level(Section):
    """Code, functional, Hubbard U, cut-off and k-mesh: all that an energy depends on.

    Energies are comparable only at one level. The Hubbard table names every element that may
    occur, so that cells of different chemistry share a level; U acts on the d shell (Dudarev). Cut-off
    and mesh have no defaults: what is converged depends on the cell and on what is compared.
    """

    code: Literal["GPAW", "VASP"] = "GPAW"
    functional: Literal["PBE"] = "PBE"
    hubbard_u: dict[Element, Annotated[float, Field(ge=0, le=20)]] = Field(
        {"Co": 3.32, "Fe": 5.3, "Mn": 3.9, "Ni": 6.2}, description="effective U on d shells, eV"
    )
    cutoff: float = Field(gt=100, le=5000, description="plane-wave cut-off, eV")
    kpoints: tuple[int, int, int] = Field(description="k-mesh")
    shifted: bool = Field(
        False,
        description="mesh of Monkhorst and Pack, which leaves Gamma out along vectors with an even "
        "number of points; else the mesh is centred on Gamma",
    )
    width: float = Field(WIDTH, gt=0, le=2, description="Fermi-Dirac (GPAW) or Gaussian (VASP) width, eV")
    magnetism: Literal["ferromagnetic", "antiferromagnetic"] = "ferromagnetic"

    @field_validator("hubbard_u")
    @classmethod
    def _ordered(cls, value: dict[str, float]) -> dict[str, float]:
        return dict(sorted(value.items()))

    @field_validator("kpoints")
    @classmethod
    def _positive(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if min(value) < 1 or max(value) > MOST_POINTS:
            raise ValueError(f"a k-mesh has 1 to {MOST_POINTS} points along each vector, not {value}")
        return value

    @model_validator(mode="after")
    def _even(self) -> Level:
        if self.shifted and all(points % 2 for points in self.kpoints):
            raise ValueError(
                f"the mesh {self.kpoints} has no even number of points, so a shift does not move it; "
                "leave shifted away"
            )
        return self

    def folds(self, repeat: Repeat) -> bool:
        """Return whether a mesh of the unit cell equals this one in the supercell ``repeat``."""
        odd = (points % 2 and times % 2 == 0 for points, times in zip(self.kpoints, repeat, strict=True))
        return not (self.shifted and any(odd))

    def in_unit_cell(self, repeat: Repeat) -> Level:
        """Return the level whose mesh in the unit cell equals this one's in the supercell ``repeat``.

        Gamma in a 1x3x1 supercell samples the points of a 1x3x1 mesh of the unit cell. UserError for a
        shifted mesh with an odd number of points along a vector that is repeated an even number of times:
        what it samples is centred on Gamma there and shifted elsewhere, which is no mesh of a level.
        """
        if not self.folds(repeat):
            raise UserError(
                f"the shifted mesh {'x'.join(map(str, self.kpoints))} of a "
                f"{'x'.join(map(str, repeat))} supercell equals none of the unit cell, so there are no "
                "ends to compare with; give dft.level.kpoints an even number of points along each "
                "vector that is repeated an even number of times, or leave shifted away"
            )
        x, y, z = (points * times for points, times in zip(self.kpoints, repeat, strict=True))
        return self.model_copy(update={"kpoints": (x, y, z)})

    def mesh(self) -> np.ndarray:
        """Return the k-points ``[k, 3]`` in reciprocal lattice coordinates, none left out for symmetry."""
        points = np.indices(self.kpoints).reshape(3, -1).T
        # Monkhorst and Pack, Phys. Rev. B 13, 5188 (1976), equation 3.
        shift = (1 - np.array(self.kpoints)) / 2 if self.shifted else np.zeros(3)
        return (points + shift) / self.kpoints

    @property
    def energy_reference(self) -> str:
        """Name of the level, e.g. ``GPAW/PBE+U(Co 3.32, Fe 5.3, Mn 3.9, Ni 6.2)/PW800/1x2x2 shifted``.

        A width other than :data:`WIDTH`, in eV, and another magnetic order stand at its end.
        """
        hubbard = ", ".join(f"{symbol} {u:g}" for symbol, u in self.hubbard_u.items())
        mesh = "Gamma" if self.kpoints == (1, 1, 1) else "x".join(map(str, self.kpoints))
        if self.shifted:
            mesh += " shifted"
        name = f"{self.code}/{self.functional}+U({hubbard})/PW{self.cutoff:g}/{mesh}"
        if self.width != WIDTH:
            name += f"/width {self.width:g}"
        return name if self.magnetism == "ferromagnetic" else f"{name}/{self.magnetism}"

    @property
    def digest(self) -> str:
        """Checksum of every setting; a mesh that is not shifted has the checksum it always had."""
        settings = self.model_dump(mode="json")
        if not self.shifted:
            del settings["shifted"]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


EMBEDDED = Level(cutoff=800.0, kpoints=(1, 2, 2), shifted=True)
"""The level of the embedded frames, converged for them (docs/dft.md)."""
